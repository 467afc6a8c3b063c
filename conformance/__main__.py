"""Run the Autobahn test suite through the proxy and without it, and compare case by case.

    make conformance                               all of it, in about 25 minutes
    make conformance QUICK=1                       without sections 9, 12 and 13
    make conformance SERVERS="granian hypercorn"   on some of the servers
    make conformance CASES="3.* 7.1.5"             some of the cases
    make conformance MESSAGES=1000                 with sections 12 and 13 at full length
    make conformance PYTHON2=/path/to/python2.7    with this Python 2

It fails if a case is worse through the proxy than both without it. Only a run of all servers and
all cases writes ``conformance/summary.md``; the suite's own reports are in ``conformance/reports``.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import BenchmarkError, Launcher

from . import summary
from .compare import DIRECT, ECHO, LATE, Case, Outcome, Results
from .servers import PROXIES, SERVERS
from .suite import Suite, SuiteError, find_python2

BEGAN = time.monotonic()
HERE = Path(__file__).parent
REPORTS = HERE / "reports"
#: How many messages each case of sections 12 and 13 sends. With the suite's own 1000 a run takes
#: hours, in which only the same messages come again.
MESSAGES = 100


@dataclass(frozen=True)
class Part:
    """Cases that run in one process of the suite.

    They take from ten seconds to two minutes. A case that hangs may take as many more.
    """

    name: str
    cases: Sequence[str]
    seconds: float


PROTOCOL = Part("protocol", [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 10)], 300)
LARGE = Part("large", ["9.*"], 400)


@dataclass(frozen=True)
class Settings:
    """What the environment asks for."""

    servers: Sequence[str]
    parts: Sequence[Part]
    messages: int
    is_whole: bool


@dataclass
class Session:
    """One run of this command."""

    suite: Suite
    launcher: Launcher
    parts: Sequence[Part]
    failures: list[str] = field(default_factory=list)

    def run(self, name: str, port: int, parts: Sequence[Part]) -> Mapping[Case, Outcome]:
        found: dict[Case, Outcome] = {}
        for part in parts:
            began = time.monotonic()
            directory = REPORTS / name.replace(", ", "-") / part.name
            try:
                outcomes = self.suite.run(port, part.cases, directory, part.seconds)
            except SuiteError as error:
                self.failures.append(f"{name}, {part.name}: {error}")
                say(self.failures[-1])
                continue
            found.update(outcomes)
            took = time.monotonic() - began
            say(f"{name}, {part.name}: {summary.counted(outcomes.values())} in {took:.0f} s")
        return found

    def run_all(self, servers: Sequence[str]) -> Results:
        """Run against the upstream, then against each server with each app."""
        upstream = self.launcher.python("servers", "upstream")
        results = Results(self.run(DIRECT, upstream.port, self.parts))
        for server in servers:
            proxies = [kind for kind, (_, where) in PROXIES.items() if server in where]
            runs = results.servers.setdefault(server, {})
            for kind in (ECHO, LATE, *proxies):
                parts = list(hasty(self.parts)) if kind == LATE else self.parts
                process = self.launcher.python("servers", server, kind, upstream.url)
                runs[kind] = self.run(f"{server}, {kind}", process.port, parts)
                self.launcher.stop(process)
        return results


def hasty(parts: Sequence[Part]) -> Iterator[Part]:
    """Leave out the cases of many messages: answering them late takes long and shows nothing."""
    for part in parts:
        cases = [case for case in part.cases if not case.startswith(("9.", "12.", "13."))]
        if cases:
            yield dataclasses.replace(part, cases=cases)


def say(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:4.0f} s  {text}", file=sys.stderr, flush=True)


def settings() -> Settings:
    asked = os.environ.get("SERVERS", "").replace(",", " ").split()
    if unknown := set(asked) - set(SERVERS):
        raise SystemExit(f"unknown SERVERS {sorted(unknown)}; there are: {' '.join(SERVERS)}")
    cases = os.environ.get("CASES", "").replace(",", " ").split()
    quick = os.environ.get("QUICK", "") not in ("", "0")
    messages = int(os.environ.get("MESSAGES", "") or MESSAGES)
    patience = 120 + 5 * messages
    compression = [Part(f"compression-{n}", [f"{n}.*"], patience) for n in (12, 13)]
    parts = [PROTOCOL] if quick else [PROTOCOL, LARGE, *compression]
    if cases:
        parts = [Part("chosen", cases, patience)]
    return Settings(asked or SERVERS, parts, messages, is_whole=not (asked or cases or quick))


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    chosen = settings()
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir()
    try:
        suite = Suite(find_python2(os.environ.get("PYTHON2", "")), chosen.messages)
        suite.install()
        with Launcher("conformance") as launcher:
            session = Session(suite, launcher, chosen.parts)
            try:
                results = session.run_all(chosen.servers)
            finally:
                shutil.copy(launcher.directory / "log", REPORTS / "servers.log")
    except (SuiteError, BenchmarkError, subprocess.TimeoutExpired) as error:
        raise SystemExit(str(error)) from error
    text = summary.markdown(results, chosen.messages)
    file = (HERE if chosen.is_whole else REPORTS) / "summary.md"
    file.write_text(text, encoding="utf-8")
    print(f"{text}\nAlso in {file.relative_to(HERE.parent)}.")
    failures = [*session.failures, *results.incomplete()]
    if worse := sum(one.is_worse for one in results.differences()):
        failures.append(f"{worse} outcomes are worse through the proxy: the summary lists them")
    if failures:
        raise SystemExit("\n".join(["", "make conformance has failed:", *failures]))


if __name__ == "__main__":
    main()
