"""Count the instructions that a request takes, which no other program disturbs, with valgrind.

    make bench-instructions                     without overrides, and with those of each kind
    make bench-instructions REV=961f9da         also of an earlier version, without overrides

docs/performance.md says what is counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .contenders import CONTENDERS, OVERRIDING, THIS, TRANSFORM_RESPONSE
from .counted import COUNTED
from .processes import ENVIRONMENT, program
from .report import NOTHING, table
from .revision import ROOT, commit, revision

KINDS = {"get": "GET", "post": "POST of JSON", "file": "GET"}
#: What is counted of every version.
PLAIN = ((THIS, "get"), (THIS, "post"))


def _kind(name: str) -> str:
    if name == TRANSFORM_RESPONSE:
        return "file"
    return "post" if CONTENDERS[name].proof.posts else "get"


OF_OVERRIDES = tuple((one.name, _kind(one.name)) for one in OVERRIDING)


def count(root: Path, work: Sequence[tuple[str, str]]) -> list[float]:
    """Return the instructions of one request, for each contender and kind of request.

    Raises:
        SystemExit: They could not be made.
    """
    apps = [f"{CONTENDERS[name].module}:{CONTENDERS[name].app}:{kind}" for name, kind in work]
    with tempfile.TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--quiet"]
        command += [f"--cachegrind-out-file={directory}/%p", sys.executable]
        run = subprocess.run(
            [*command, "-m", "benchmarks.counted", *apps],
            cwd=root,
            # Dictionaries are laid out alike in every run.
            env={**ENVIRONMENT, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise SystemExit(f"{' '.join(run.args)}:\n{run.stderr[-2000:]}")
        totals = [_total(Path(directory, process)) for process in run.stdout.split()]
    pairs = zip(totals[::2], totals[1::2], strict=True)
    return [(more - fewer) / COUNTED for fewer, more in pairs]


def _total(file: Path) -> int:
    found = re.search(r"^summary: (\d+)", file.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"valgrind has left no sum in {file}")
    return int(found[1])


def report(name: str, before: Sequence[float], now: Sequence[float]) -> Iterator[str]:
    head = ["Instructions per request", "", *([name] if before else ()), "now", "share"]
    plain = dict(zip((kind for _, kind in PLAIN), now, strict=False))
    rows = []
    for number, (contender, kind) in enumerate((*PLAIN, *OF_OVERRIDES)):
        is_plain = number < len(PLAIN)
        asked = plain[kind if kind in plain else "get"]
        if is_plain:
            asked = before[number] if before else 0
        rows.append(
            [
                "no override" if is_plain else contender,
                KINDS[kind],
                *([f"{before[number]:,.0f}" if is_plain else NOTHING] if before else ()),
                f"{now[number]:,.0f}",
                f"{now[number] / asked:.3f}" if asked else NOTHING,
            ]
        )
    yield from table(head, rows)


def main() -> None:
    if not program("valgrind"):
        print("skipped: valgrind not found (apt-get install valgrind)")
        return
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    before: list[float] = []
    if name:
        with revision(name) as root:
            before = count(root, PLAIN)
    now = count(ROOT, (*PLAIN, *OF_OVERRIDES))
    print("\n".join(report(commit(name) if name else "", before, now)))


if __name__ == "__main__":
    main()
