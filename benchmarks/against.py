"""Measure this library against an earlier version of itself.

    make bench-against REV=961f9da            small GETs, in about two minutes
    make bench-against REV=HEAD QUICK=1       a first look
    make bench-against REV=961f9da ROWS="get-32 body-100k"

docs/performance.md says how to read it.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .__main__ import prepare, say, upstream
from .contenders import CONTENDERS, THIS, check
from .load import LOADS, Load, Round
from .processes import Launcher, Process
from .report import table
from .results import OTHERS
from .revision import commit, revision

#: How much of the rate of the earlier version is asked for.
SHARE = 0.97
#: Two processes of the same program differ by some percent as long as they live.
STARTS = 4
ROUNDS = 6


@dataclasses.dataclass
class Found:
    """The rounds of a load: of the earlier version, and of this one."""

    load: Load
    before: list[Round] = dataclasses.field(default_factory=list)
    now: list[Round] = dataclasses.field(default_factory=list)

    def shares(self, field: str) -> list[float]:
        """Return what this version has of the other's, round by round."""
        pairs = zip(self.before, self.now, strict=True)
        return [getattr(now, field) / (getattr(before, field) or 1) for before, now in pairs]


def measure(launcher: Launcher, root: Path, found: Sequence[Found], starts: int) -> None:
    """Let both versions have their turns, first the one and then the other first."""
    with upstream(launcher) as server:
        for start in range(starts):
            say(f"processes {start + 1} of {starts}")
            before, now = (
                launcher.python("apps", "router", server.url, root=where) for where in (root, None)
            )
            for process in (before, now):
                check(CONTENDERS[THIS], process)
            for one in found:
                _rounds(launcher, before, now, one)
            for process in (before, now):
                launcher.stop(process)


def _rounds(launcher: Launcher, before: Process, now: Process, found: Found) -> None:
    turns = [(before, found.before), (now, found.now)]
    for number in range(found.load.rounds):
        for process, rounds in turns if number % 2 else reversed(turns):
            rounds.append(found.load.drive(launcher, process))


def report(name: str, found: Sequence[Found]) -> Iterator[str]:
    head = ["Against the version", "", name, "now", "share", "rounds", "asked", ""]
    yield from table(head, (row for one in found for row in _rows(one)))
    rounds = [one for each in found for one in (*each.before, *each.now)]
    disturbed = sum(one.others > OTHERS for one in rounds)
    yield ""
    yield (
        f"Other programs used more than {OTHERS:.0%} of a core in {disturbed} "
        f"of {len(rounds)} rounds."
    )
    if errors := sum(one.errors for one in rounds):
        yield f"**{errors} errors**"


def _rows(found: Found) -> Iterator[list[str]]:
    for field, what in (("requests_per_second", "requests/s"), ("cpu_us", "CPU µs/request")):
        shares = found.shares(field)
        share = statistics.median(shares)
        is_rate = field == "requests_per_second"
        yield [
            found.load.title,
            what,
            f"{statistics.median(getattr(one, field) for one in found.before):,.0f}",
            f"{statistics.median(getattr(one, field) for one in found.now):,.0f}",
            f"{share:.3f}",
            f"{min(shares):.3f} to {max(shares):.3f}",
            f"at least {SHARE}" if is_rate else f"at most {1 / SHARE:.2f}",
            "met" if (share >= SHARE if is_rate else share <= 1 / SHARE) else "**not met**",
        ]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.against REVISION")
    prepare()
    quick = os.environ.get("QUICK", "") not in ("", "0")
    rows = os.environ.get("ROWS", "get-32").split()
    if unknown := set(rows) - set(LOADS):
        raise SystemExit(f"unknown ROWS {sorted(unknown)}; there are: {' '.join(LOADS)}")
    seconds, rounds = (1, 2) if quick else (2, ROUNDS)
    found = [Found(dataclasses.replace(LOADS[row], seconds=seconds, rounds=rounds)) for row in rows]
    with revision(sys.argv[1]) as root, Launcher() as launcher:
        measure(launcher, root, found, 1 if quick else STARTS)
    print("\n" + "\n".join(report(commit(sys.argv[1]), found)))


if __name__ == "__main__":
    main()
