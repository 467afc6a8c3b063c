"""Measure this library and others in one run.

    make bench                               all of it, in about twelve minutes
    make bench QUICK=1                       a first look, in about two
    make bench ROWS="get-32 download"        some of the work
    make bench CONTENDERS="nginx, direct"    some of those it is measured against
    make bench ROWS=overrides                what overrides cost
    make bench ROWS=picking                  only the balancers, without nginx and wrk

docs/performance.md says what each row measures.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from . import nginx, picking, report
from .contenders import (
    BLACK_HOLE,
    CONTENDERS,
    DIRECT,
    ECHO,
    HELLO,
    MODEL,
    NGINX,
    NGINX_LARGE,
    OVERRIDING,
    PROXIES,
    PROXY_LIB,
    REVERSE_PROXY,
    THIS,
    THREE,
    TRANSFORM_REQUEST,
    TRANSFORM_RESPONSE,
    VARIANTS,
    Contender,
    check,
    wanted,
)
from .load import LOADS, OVERRIDES, Load, alternate
from .processes import MIB, BenchmarkError, Launcher, Process, program
from .results import Results, noise, verdicts
from .sockets import ECHOES, FLOODS, IDLE, Echo, check_echo, flooded, idle
from .streams import TRANSFERS, first_event, first_events, transfer

BEGAN = time.monotonic()
HERE = Path(__file__).parent
EVENTS = "events"
WS_IDLE, WS_SLOW = "ws-idle", "ws-slow"
SOCKETS = (*ECHOES, WS_IDLE, WS_SLOW)
PICKING = "picking"
ROWS = (*LOADS, *TRANSFERS, EVENTS, *SOCKETS, *OVERRIDES, PICKING)
#: Words for several rows.
GROUPS = {"overrides": OVERRIDES}
_OVERRIDING = [contender.name for contender in OVERRIDING]
_POSTS, _FILES = (MODEL, TRANSFORM_REQUEST), (TRANSFORM_RESPONSE,)
RELAYS = (THIS, REVERSE_PROXY, PROXY_LIB, NGINX)
#: Who takes part in which row; in all others it is the proxies and hello world.
PARTS: dict[str, Sequence[str]] = {
    "get-32": (*PROXIES, HELLO, DIRECT, *VARIANTS),
    "black-hole": (THREE, BLACK_HOLE),
    "post-10k": PROXIES,
    "body-100k": (*PROXIES, NGINX_LARGE, DIRECT),
    **dict.fromkeys((*TRANSFERS, EVENTS), (*PROXIES, DIRECT)),
    **dict.fromkeys(ECHOES, (*RELAYS, ECHO, DIRECT)),
    "ws-16k-32": (*RELAYS, NGINX_LARGE, ECHO, DIRECT),
    WS_IDLE: (*RELAYS, ECHO),
    WS_SLOW: RELAYS,
    "override-get": (THIS, *(name for name in _OVERRIDING if name not in (*_POSTS, *_FILES))),
    "override-post": (THIS, *_POSTS),
    "override-100k": (THIS, *_FILES),
}
#: What a quick run leaves out: rows without a target, and others where we are compared with none.
QUICK_ROWS = tuple(
    row for row in ROWS if row not in ("get-8", "get-128", "post-10k", "ws-16k-512", *OVERRIDES)
)
QUICK_PARTS: dict[str, Sequence[str]] = {
    **{row: (THIS, NGINX, DIRECT) for row in ROWS if row not in (*LOADS, *OVERRIDES)},
    "get-512": (THIS, HELLO, NGINX),
    "ws-64-32": (*RELAYS, ECHO, DIRECT),
    "ws-64-512": (THIS, REVERSE_PROXY, ECHO),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the environment asks for."""

    rows: Sequence[str]
    names: Sequence[str]
    quick: bool

    @property
    def size_mib(self) -> int:
        return 128 if self.quick else 1024

    def load(self, load: Load | Echo) -> Load | Echo:
        return dataclasses.replace(load, rounds=1, seconds=1) if self.quick else load

    def part(self, row: str) -> list[str]:
        part = PARTS.get(row, (*PROXIES, HELLO))
        left = QUICK_PARTS.get(row, part) if self.quick else part
        return [name for name in self.names if name in part and name in left]


def say(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:4.0f} s  {text}", file=sys.stderr, flush=True)


def settings() -> Settings:
    quick = os.environ.get("QUICK", "") not in ("", "0")
    asked = os.environ.get("ROWS", "").split()
    rows = [row for word in asked for row in GROUPS.get(word, (word,))]
    if unknown := set(rows) - set(ROWS):
        known = " ".join((*ROWS, *GROUPS))
        raise SystemExit(f"unknown ROWS {sorted(unknown)}; there are: {known}")
    only = [name.strip() for name in os.environ.get("CONTENDERS", "").split(",") if name.strip()]
    if unknown := set(only) - set(CONTENDERS):
        raise SystemExit(
            f"unknown CONTENDERS {sorted(unknown)}; there are: {', '.join(CONTENDERS)}"
        )
    names = [name for name in CONTENDERS if not only or name == THIS or name in only]
    return Settings(rows or (QUICK_ROWS if quick else ROWS), names, quick)


@contextmanager
def upstream(launcher: Launcher, module: str = "") -> Iterator[Process]:
    """Run nginx, or a module of this package, until the block ends."""
    process = launcher.python(module) if module else launcher.nginx(nginx.upstream)
    yield process
    launcher.stop(process)


def measure_loads(
    launcher: Launcher, chosen: Settings, results: Results, works: Mapping[str, Load | Echo]
) -> None:
    websockets = works is ECHOES
    rows = [row for row in works if row in chosen.rows]
    parts = {row: chosen.part(row) for row in rows}
    needed = [name for name in CONTENDERS if any(name in part for part in parts.values())]
    if not rows:
        return
    with upstream(launcher, "echo_server" if websockets else "") as server, ExitStack() as stack:
        running = {}
        for contender in available(needed, results):
            process = stack.enter_context(
                contender.running(launcher, server, websockets=websockets)
            )
            try:
                check_echo(process) if websockets else check(contender, process)
            except BenchmarkError as error:
                note(results, f"{contender.name} is skipped: {error}")
                continue
            running[contender.name] = process
        for row in rows:
            load = chosen.load(works[row])
            say(load.title)
            part = {name: running[name] for name in parts[row] if name in running}
            results.loads[row] = alternate(launcher, part, load, partial(note, results))


def measure_sockets(launcher: Launcher, chosen: Settings, results: Results) -> None:
    with upstream(launcher, "echo_server") as server:
        if WS_IDLE in chosen.rows:
            say(f"{IDLE:,} idle connections")
            for contender in available(chosen.part(WS_IDLE), results):
                try:
                    results.idle[contender.name] = idle(launcher, contender, server)
                except (BenchmarkError, OSError) as error:
                    note(results, f"{contender.name}, {WS_IDLE}: {error}")
        for who in FLOODS if WS_SLOW in chosen.rows else ():
            say(FLOODS[who].title.format(chosen.size_mib))
            found = results.floods.setdefault(who, {})
            for contender in available(chosen.part(WS_SLOW), results):
                try:
                    found[contender.name] = flooded(
                        launcher, contender, server, FLOODS[who], chosen.size_mib
                    )
                except (BenchmarkError, OSError) as error:
                    note(results, f"{contender.name}, {who} does not read: {error}")


def measure_streams(launcher: Launcher, chosen: Settings, results: Results) -> None:
    rows = [row for row in TRANSFERS if row in chosen.rows]
    size = chosen.size_mib * MIB
    with upstream(launcher, "upstream") as server:
        for row in rows:
            say(TRANSFERS[row].title.format(int(chosen.size_mib * TRANSFERS[row].part)))
            found = results.streams.setdefault(row, {})
            for contender in available(chosen.part(row), results):
                try:
                    found[contender.name] = transfer(
                        launcher, contender, server, TRANSFERS[row], size
                    )
                except (BenchmarkError, OSError) as error:
                    note(results, f"{contender.name}, {row}: {error}")
        if EVENTS in chosen.rows:
            say("time to the first event")
            contenders = available(chosen.part(EVENTS), results)
            results.events = measure_events(launcher, contenders, server, results)


def measure_events(
    launcher: Launcher, contenders: Sequence[Contender], server: Process, results: Results
) -> dict[str, list[float]]:
    with ExitStack() as stack:
        running = {}
        for contender in contenders:
            process = stack.enter_context(contender.running(launcher, server))
            try:
                first_event(process)
            except (BenchmarkError, OSError) as error:
                note(results, f"{contender.name}, {EVENTS}: {error}")
                continue
            running[contender.name] = process
        return first_events(running, 20)


def measure_picking(chosen: Settings, results: Results) -> None:
    say("picking an upstream")
    results.picking = picking.measure(1 if chosen.quick else picking.ROUNDS)


def available(names: Sequence[str], results: Results) -> list[Contender]:
    contenders, missing = wanted(names)
    for line in missing:
        note(results, line)
    return contenders


def note(results: Results, line: str) -> None:
    if line not in results.notes:
        say(line)
        results.notes.append(line)


def prepare(rows: Sequence[str] = ROWS) -> None:
    """Check for the programs, make room for the sockets, and end all processes when told to end."""
    needed = () if set(rows) <= {PICKING} else ("nginx", "wrk")
    if missing := [name for name in needed if not program(name)]:
        raise SystemExit(f"{' and '.join(missing)} not found: apt-get install nginx-light wrk")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("interrupted"))


def main() -> None:
    chosen = settings()
    prepare(chosen.rows)
    results = Results(chosen.size_mib)
    if chosen.quick:
        results.notes.append(
            "QUICK=1: one round of one second each, so nothing says how sure the figures are."
        )
    with Launcher() as launcher:
        measure_loads(launcher, chosen, results, LOADS)
        if any(row in chosen.rows for row in (*TRANSFERS, EVENTS)):
            measure_streams(launcher, chosen, results)
        measure_loads(launcher, chosen, results, ECHOES)
        if any(row in chosen.rows for row in (WS_IDLE, WS_SLOW)):
            measure_sockets(launcher, chosen, results)
        measure_loads(launcher, chosen, results, OVERRIDES)
    if PICKING in chosen.rows:
        measure_picking(chosen, results)
    text = report.markdown(results)
    (HERE / "results.md").write_text(text, encoding="utf-8")
    found = dataclasses.asdict(results) | {
        "targets": [
            {"work": one.target.work, "asked": one.target.asked, "rounds": one.rounds}
            for one in verdicts(results)
        ],
        "noise": list(noise(results)),
    }
    (HERE / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"\n{text}\nAlso in benchmarks/results.md and benchmarks/results.json.")


if __name__ == "__main__":
    main()
