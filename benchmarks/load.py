"""Small requests from wrk, contender after contender, round after round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from . import nginx
from .processes import BenchmarkError, Launcher, Process, program

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Round:
    """What one run of wrk showed, or one of the echo client."""

    answers: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    #: CPU time of the contender as a share of one core.
    busy: float
    #: CPU time of the contender for one answer, in microseconds.
    cpu_us: float
    #: CPU time of programs that are not part of this, and of other machines, in cores.
    others: float


@dataclass(frozen=True)
class Clocks:
    """Seconds: of the wall clock, and of CPU time of the contender, of all of us and of all."""

    wall: float
    gateway: float
    ours: float
    machine: float

    @classmethod
    def read(cls, launcher: Launcher, process: Process) -> Self:
        return cls(
            time.monotonic(), process.cpu_seconds(), launcher.cpu_seconds(), _machine_seconds()
        )


def one_round(found: Mapping[str, float], before: Clocks, after: Clocks) -> Round:
    """Return what a client *found*; "cpu" is its own CPU time, if it is still running."""
    answers = int(found["answers"] - found["refused"])
    elapsed, gateway = after.wall - before.wall, after.gateway - before.gateway
    ours = after.ours - before.ours + found.get("cpu", 0)
    return Round(
        answers=answers,
        requests_per_second=answers / (found["microseconds"] / 1e6),
        p50_ms=found["p50"] / 1000,
        p99_ms=found["p99"] / 1000,
        errors=int(found["refused"] + found["broken"]),
        busy=gateway / elapsed,
        cpu_us=gateway * 1e6 / max(answers, 1),
        others=max(0.0, after.machine - before.machine - ours) / elapsed,
    )


class Work(Protocol):
    """What a round does."""

    @property
    def title(self) -> str: ...

    @property
    def rounds(self) -> int: ...

    def drive(self, launcher: Launcher, process: Process) -> Round: ...


@dataclass(frozen=True)
class Load:
    """What wrk sends. With a body it is a POST."""

    title: str
    clients: int
    path: str = "/"
    body: str = ""
    media_type: str = ""
    seconds: int = 2
    rounds: int = 3

    def drive(self, launcher: Launcher, process: Process) -> Round:
        """Run wrk once.

        Raises:
            BenchmarkError: wrk did not run.
        """
        command = [program("wrk") or "wrk", "-t1", f"-c{self.clients}", f"-d{self.seconds}s"]
        command += ["--timeout", "10s", "-s", str(SCRIPT), f"{process.url}{self.path}"]
        command += ["--", self.body] if self.body else []
        command += [self.media_type] if self.media_type else []
        before = Clocks.read(launcher, process)
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        after = Clocks.read(launcher, process)
        process.settle()
        if run.returncode:
            raise BenchmarkError(f"{' '.join(command)}: {run.stderr}{run.stdout}")
        return one_round(json.loads(run.stdout.splitlines()[-1]), before, after)


LOADS = {
    "get-8": Load("small GETs, 8 clients", 8, seconds=1, rounds=2),
    "get-32": Load("small GETs, 32 clients", 32),
    "get-128": Load("small GETs, 128 clients", 128, seconds=1, rounds=2),
    "get-512": Load("small GETs, 512 clients", 512, seconds=3, rounds=2),
    "black-hole": Load("small GETs, 32 clients, 3 upstreams", 32, seconds=4),
    "post-10k": Load("POSTs of 10 KiB, 32 clients", 32, body="x" * 10 * 1024, rounds=2),
    "body-100k": Load("GETs of 100 KiB, 32 clients", 32, path=nginx.FILE),
}
#: The same for gateways that change something on the way.
OVERRIDES = {
    "override-get": Load("GETs of JSON, 32 clients", 32, path=f"{nginx.ITEMS}/7?version=2"),
    "override-post": Load(
        "POSTs of JSON, 32 clients",
        32,
        path=nginx.ITEMS,
        body=nginx.ITEM.decode(),
        media_type="application/json",
    ),
    "override-100k": Load("GETs of 100 KiB, 32 clients", 32, path=nginx.FILE),
}


def alternate(
    launcher: Launcher,
    processes: Mapping[str, Process],
    work: Work,
    failed: Callable[[str], None],
) -> dict[str, list[Round]]:
    """Return the rounds of each contender. In each round every one has its turn.

    One that fails is left out, and *failed* hears why.
    """
    found: dict[str, list[Round]] = {name: [] for name in processes}
    for _ in range(work.rounds):
        for name in list(found):
            try:
                found[name].append(work.drive(launcher, processes[name]))
            except BenchmarkError as error:
                del found[name]
                failed(f"{name}, {work.title}: {error}")
    return found


def median(rounds: list[Round], field: str) -> float:
    values: list[float] = [getattr(one, field) for one in rounds]
    return statistics.median(values)


def _machine_seconds() -> float:
    """Return the CPU time of all programs and what the hypervisor took, without interrupts."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, first[1:9])
    return float(user + nice + system + steal) / os.sysconf("SC_CLK_TCK")
