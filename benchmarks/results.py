"""What a run found, what is asked of it, and whether the machine was quiet enough to say."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .contenders import (
    BLACK_HOLE,
    CONTENDERS,
    ECHO,
    HELLO,
    NGINX,
    PROXY_LIB,
    REVERSE_PROXY,
    THIS,
    THREE,
)
from .load import Round
from .picking import SIZES
from .processes import program
from .sockets import ECHOES, FLOODS, IDLE
from .streams import Stream

#: A target whose rounds lie further apart than this part of their median is not to be trusted.
SPREAD = 0.2
#: Other programs may use this much of one core during a round.
OTHERS = 0.1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, str]:
    """Return what the figures depend on: the machine and the versions."""
    model = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    needed = {contender.needs for contender in CONTENDERS.values() if contender.installed} - {""}
    versions = {
        name: importlib.metadata.version(name)
        for name in sorted(
            {"fastapi", "starlette", "uvicorn", "uvloop", "httptools", "websockets"} | needed
        )
    }
    return {
        "cores": f"{os.cpu_count()} ({next(model, platform.machine())})",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        **{name: _program_version(name) for name in ("nginx", "wrk")},
        **versions,
    }


def _program_version(name: str) -> str:
    if not program(name):
        return "none"
    run = subprocess.run([program(name) or name, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", run.stdout + run.stderr)
    return found[0] if found else "?"


@dataclass
class Results:
    """The figures of a run, by work and contender.

    ``idle`` is in KiB for each connection, ``picking`` in microseconds, by balancer and size.
    """

    size_mib: int
    loads: dict[str, dict[str, list[Round]]] = field(default_factory=dict)
    streams: dict[str, dict[str, Stream]] = field(default_factory=dict)
    events: dict[str, list[float]] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    floods: dict[str, dict[str, Stream]] = field(default_factory=dict)
    picking: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=machine)
    began: str = field(default_factory=_now)

    def rounds(self, load: str, name: str = THIS) -> list[Round]:
        return self.loads.get(load, {}).get(name, [])

    def rates(self, load: str, name: str = THIS) -> list[float]:
        return [one.requests_per_second for one in self.rounds(load, name)]

    def shares(self, load: str, name: str) -> list[float]:
        """Return what *name* makes of our rate, round by round."""
        return _divided(self.rates(load, name), self.rates(load))


@dataclass(frozen=True)
class Target:
    """A bound for a figure: the lowest that it may be, or the highest."""

    work: str
    find: Callable[[Results], list[float]]
    lowest: float | None = None
    highest: float | None = None
    unit: str = ""

    @property
    def asked(self) -> str:
        if self.lowest is not None:
            return f"at least {self.lowest:g}{self.unit}"
        return f"at most {self.highest:g}{self.unit}"

    def met(self, value: float) -> bool:
        if self.lowest is not None:
            return value >= self.lowest
        return self.highest is not None and value <= self.highest


@dataclass(frozen=True)
class Verdict:
    """A target and what each round gave for it."""

    target: Target
    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def word(self) -> str:
        if not self.rounds:
            return "not measured"
        return "met" if self.target.met(self.median) else "**not met**"

    @property
    def unsure(self) -> bool:
        """Return whether the rounds lie far apart, on both sides of the bound."""
        return (
            len({self.target.met(value) for value in self.rounds}) > 1
            and max(self.rounds) - min(self.rounds) > SPREAD * self.median
        )


def _ratio(load: str, against: str) -> Callable[[Results], list[float]]:
    def find(results: Results) -> list[float]:
        return _divided(results.rates(load), results.rates(load, against))

    return find


def _divided(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b if b else float("inf") for a, b in zip(ours, theirs, strict=False)]


def _tail(results: Results) -> list[float]:
    return [one.p99_ms / one.p50_ms for one in results.rounds("get-32") if one.p50_ms]


def _growth(*works: str) -> Callable[[Results], list[float]]:
    def find(results: Results) -> list[float]:
        return _highest(results.streams, works)

    return find


def _highest(streams: Mapping[str, Mapping[str, Stream]], works: Sequence[str]) -> list[float]:
    """Return the largest growth of *works*, if all of them were measured."""
    found = [streams.get(work, {}).get(THIS) for work in works]
    growths = [stream.growth_mib for stream in found if stream is not None]
    return [max(growths)] if len(growths) == len(works) else []


_FEW, _, _MANY = map(str, SIZES)


def _slowest_pick(results: Results) -> list[float]:
    """Return what the slowest balancer takes with few upstreams, for each round."""
    rows = [row[_FEW] for row in results.picking.values()]
    return [max(of_all) for of_all in zip(*rows, strict=True)]


def _pick_growth(name: str) -> Callable[[Results], list[float]]:
    def find(results: Results) -> list[float]:
        row = results.picking.get(name, {})
        return _divided(row.get(_MANY, ()), row.get(_FEW, ()))

    return find


TARGETS = (
    Target(f"small GETs, 32 clients, against {REVERSE_PROXY}", _ratio("get-32", REVERSE_PROXY), 20),
    Target(f"small GETs, 32 clients, against {PROXY_LIB}", _ratio("get-32", PROXY_LIB), 20),
    Target(f"small GETs, 32 clients, against {HELLO}", _ratio("get-32", HELLO), 0.8),
    Target("small GETs, 32 clients, against nginx", _ratio("get-32", NGINX), 0.15),
    Target(
        "small GETs, 512 clients, against our own 32",
        lambda results: _divided(results.rates("get-512"), results.rates("get-32")),
        0.8,
    ),
    Target(
        "small GETs, 512 clients, errors",
        lambda results: [float(one.errors) for one in results.rounds("get-512")],
        highest=0,
    ),
    Target(
        "small GETs, 32 clients, p99 with one of 3 black-holed, over that with 3",
        lambda results: _divided(
            [one.p99_ms for one in results.rounds("black-hole", BLACK_HOLE)],
            [one.p99_ms for one in results.rounds("black-hole", THREE)],
        ),
        highest=1.25,
    ),
    Target("GETs of 100 KiB, against nginx", _ratio("body-100k", NGINX), 0.7),
    Target("p99 over p50, 32 clients", _tail, highest=4),
    Target(
        "memory growth, large bodies",
        _growth("download", "upload", "slow-upload"),
        highest=16,
        unit=" MiB",
    ),
    Target(
        "memory growth, 100 slow readers of 10 MiB",
        _growth("slow-readers"),
        highest=64,
        unit=" MiB",
    ),
    *(
        Target(f"echoes of {work.title}, against {name}", _ratio(row, name), lowest)
        for row, work in ECHOES.items()
        for name, lowest in (
            ((ECHO, 0.4), (REVERSE_PROXY, 1.3)) if work.size == 64 else ((NGINX, 1),)
        )
    ),
    Target(
        "echoes, wrong or lost",
        lambda results: [float(one.errors) for row in ECHOES for one in results.rounds(row)],
        highest=0,
    ),
    Target(
        f"memory of each of {IDLE:,} idle WebSockets",
        lambda results: [results.idle[THIS]] if THIS in results.idle else [],
        highest=60,
        unit=" KiB",
    ),
    Target(
        "memory growth, WebSockets that are read late",
        lambda results: _highest(results.floods, list(FLOODS)),
        highest=16,
        unit=" MiB",
    ),
    Target(f"picking of {_FEW}, any balancer", _slowest_pick, highest=2, unit=" µs"),
    Target(
        f"picking of {_MANY} over {_FEW}, two choices", _pick_growth("two_choices"), highest=1.5
    ),
    Target(
        f"picking of {_MANY} over {_FEW}, least requests",
        _pick_growth("least_requests"),
        highest=int(_MANY) / int(_FEW),
    ),
)


def verdicts(results: Results) -> list[Verdict]:
    return [Verdict(target, target.find(results)) for target in TARGETS]


def noise(results: Results) -> Iterator[str]:
    """Yield what speaks against the figures."""
    rounds = [one for row in results.loads.values() for of_one in row.values() for one in of_one]
    disturbed = [one for one in rounds if one.others > OTHERS]
    if len(disturbed) > len(rounds) / 20:
        yield (
            f"other programs used more than {OTHERS:.0%} of a core in {len(disturbed)} of "
            f"{len(rounds)} rounds (at most {max(one.others for one in disturbed):.0%})"
        )
    for verdict in verdicts(results):
        if verdict.unsure:
            low, high = min(verdict.rounds), max(verdict.rounds)
            yield f"{verdict.target.work}: the rounds gave {low:.3g} to {high:.3g}"
