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

from . import nginx
from .processes import BenchmarkError, Launcher, Process, program

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Load:
    """What wrk sends. With a body it is a POST."""

    title: str
    clients: int
    path: str = "/"
    body: int = 0
    seconds: int = 2
    rounds: int = 3


LOADS = {
    "get-8": Load("small GETs, 8 clients", 8, seconds=1, rounds=2),
    "get-32": Load("small GETs, 32 clients", 32),
    "get-128": Load("small GETs, 128 clients", 128, seconds=1, rounds=2),
    "get-512": Load("small GETs, 512 clients", 512, seconds=3, rounds=2),
    "post-10k": Load("POSTs of 10 KiB, 32 clients", 32, body=10 * 1024, rounds=2),
    "body-100k": Load("GETs of 100 KiB, 32 clients", 32, path=nginx.FILE),
}


@dataclass(frozen=True)
class Round:
    """What one run of wrk showed."""

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


def drive(launcher: Launcher, process: Process, load: Load) -> Round:
    """Run wrk once.

    Raises:
        BenchmarkError: wrk did not run.
    """
    command = [program("wrk") or "wrk", "-t1", f"-c{load.clients}", f"-d{load.seconds}s"]
    command += ["--timeout", "10s", "-s", str(SCRIPT), f"{process.url}{load.path}"]
    command += ["--", str(load.body)] if load.body else []
    began, gateway, ours, all_of_it = _clocks(launcher, process)
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    ended, gateway_after, ours_after, all_after = _clocks(launcher, process)
    process.settle()
    if run.returncode:
        raise BenchmarkError(f"{' '.join(command)}: {run.stderr}{run.stdout}")
    found = json.loads(run.stdout.splitlines()[-1])
    answers = found["answers"] - found["refused"]
    elapsed = ended - began
    return Round(
        answers=answers,
        requests_per_second=answers / (found["microseconds"] / 1e6),
        p50_ms=found["p50"] / 1000,
        p99_ms=found["p99"] / 1000,
        errors=found["refused"] + found["broken"],
        busy=(gateway_after - gateway) / elapsed,
        cpu_us=(gateway_after - gateway) * 1e6 / max(answers, 1),
        others=max(0.0, (all_after - all_of_it) - (ours_after - ours)) / elapsed,
    )


def alternate(
    launcher: Launcher,
    processes: Mapping[str, Process],
    load: Load,
    failed: Callable[[str], None],
) -> dict[str, list[Round]]:
    """Return the rounds of each contender. In each round every one has its turn.

    One that fails is left out, and *failed* hears why.
    """
    found: dict[str, list[Round]] = {name: [] for name in processes}
    for _ in range(load.rounds):
        for name in list(found):
            try:
                found[name].append(drive(launcher, processes[name], load))
            except BenchmarkError as error:
                del found[name]
                failed(f"{name}, {load.title}: {error}")
    return found


def median(rounds: list[Round], field: str) -> float:
    values: list[float] = [getattr(one, field) for one in rounds]
    return statistics.median(values)


def _clocks(launcher: Launcher, process: Process) -> tuple[float, float, float, float]:
    return time.monotonic(), process.cpu_seconds(), launcher.cpu_seconds(), _machine_seconds()


def _machine_seconds() -> float:
    """Return the CPU time of all programs and what the hypervisor took, without interrupts."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, first[1:9])
    return float(user + nice + system + steal) / os.sysconf("SC_CLK_TCK")
