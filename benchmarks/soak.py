"""Send a million small requests to this library and watch its memory.

    make bench-soak                       until 1,000,000 are answered
    make bench-soak REQUESTS=200000       a first look

docs/performance.md says what it measures.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from .__main__ import prepare, say, upstream
from .contenders import CONTENDERS, THIS, check
from .load import Load
from .processes import Launcher, Process
from .report import table

RESULT = Path(__file__).with_name("results-soak.json")
#: One slice of the load; memory is read between slices, when no request is under way.
SLICE = Load("small GETs, 32 clients", 32, seconds=5)
#: MiB that the resident set may differ by without having grown.
TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """The state after a slice."""

    answers: int
    errors: int
    memory_mib: float
    requests_per_second: float


def soak(launcher: Launcher, process: Process, requests: int) -> list[Reading]:
    """Return a reading after every slice, until *requests* are answered."""
    readings: list[Reading] = []
    answers = errors = 0
    while answers < requests:
        found = SLICE.drive(launcher, process)
        answers, errors = answers + found.answers, errors + found.errors
        readings.append(Reading(answers, errors, process.memory(), found.requests_per_second))
        say(f"{answers:>9,} answers, {errors} errors, {readings[-1].memory_mib:.1f} MiB")
        if not found.answers:
            raise SystemExit("no answers any more")
    return readings


def main() -> None:
    prepare()
    requests = int(os.environ.get("REQUESTS", "1000000"))
    contender = CONTENDERS[THIS]
    with (
        Launcher() as launcher,
        upstream(launcher) as server,
        contender.running(launcher, server) as process,
    ):
        check(contender, process)
        readings = soak(launcher, process, requests)
    RESULT.write_text(json.dumps([dataclasses.asdict(one) for one in readings], indent=1))
    warm = next(one for one in readings if one.answers >= requests / 10)
    last = readings[-1]
    growth = last.memory_mib - warm.memory_mib
    head = ["Small GETs, 32 clients", "asked", "found", ""]
    rows = [
        [f"errors in {last.answers:,}", "0", f"{last.errors}", word(met=not last.errors)],
        [
            f"memory growth after the first {warm.answers:,}",
            f"at most {TOLERANCE:g} MiB",
            f"{growth:+.1f} MiB, from {warm.memory_mib:.1f}",
            word(met=growth <= TOLERANCE),
        ],
    ]
    print("\n" + "\n".join(table(head, rows)))


def word(*, met: bool) -> str:
    return "met" if met else "**not met**"


if __name__ == "__main__":
    main()
