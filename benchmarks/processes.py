"""Start programs on free ports of 127.0.0.1, watch their time and memory, and end them all."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

MIB = 1024 * 1024
#: Seconds a program may take to listen, and then to end.
DEADLINE = 10
#: Debian keeps nginx where only root's PATH looks.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
#: httpx would send the upstream's traffic through a proxy that these name.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
} | {"PATH": PATH}
_TICKS = os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class BenchmarkError(Exception):
    """What is measured does not do what it should."""


def program(name: str) -> str | None:
    return shutil.which(name, path=PATH)


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """A server of one process."""

    def __init__(self, popen: subprocess.Popen[str], port: int) -> None:
        self.pid = popen.pid
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._popen = popen

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self, field: str = "VmRSS") -> float:
        """Return the resident set in MiB, or with "VmHWM" its peak."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def settle(self) -> None:
        """Wait until it has worked off its load, so that it does not slow the next contender."""
        deadline = time.monotonic() + DEADLINE
        busy = True
        while busy and time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.1)
            busy = self.cpu_seconds() - before > 1.5 / _TICKS

    def stop(self) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


class Client:
    """A program that prints a line of JSON when it is ready, and for each line that it gets."""

    def __init__(self, popen: subprocess.Popen[str], launcher: Launcher) -> None:
        self._popen = popen
        self._launcher = launcher

    def read(self) -> dict[str, float]:
        """Wait for a line.

        Raises:
            BenchmarkError: It ended.
        """
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise BenchmarkError(self._launcher.log_tail().strip().rpartition("\n")[2])
        found: dict[str, float] = json.loads(line)
        return found

    def ask(self) -> dict[str, float]:
        assert self._popen.stdin is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()
        return self.read()


class Launcher:
    """Starts processes and ends those that are left when its block ends."""

    def __init__(self, package: str = "benchmarks") -> None:
        self._package = package
        self._stack = contextlib.ExitStack()
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            for process in list(self._running):
                self.stop(process)

    def python(self, module: str, *arguments: str, root: Path | None = None) -> Process:
        """Start a module of the package that prints its port when it listens.

        What it imports comes from *root*, by default from where we run.
        """
        command = [sys.executable, "-m", f"{self._package}.{module}", *arguments]
        popen = self._popen(command, stdout=subprocess.PIPE, cwd=root)
        assert popen.stdout is not None
        with popen.stdout as output:
            line = output.readline()
        return self._keep(popen, command, lambda: int(line) if line else None)

    def nginx(self, config: Callable[[int, Path], str]) -> Process:
        """Start nginx as one process; *config* gets its port and a directory of its own."""
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        port = free_port()
        file = directory / "nginx.conf"
        file.write_text(config(port, directory))
        command = [program("nginx") or "nginx", "-p", str(directory), "-c", str(file)]
        return self._keep(self._popen(command), command, lambda: port if listens(port) else None)

    @contextlib.contextmanager
    def client(self, module: str, *arguments: str) -> Iterator[Client]:
        """Run a module of this package that answers lines; it ends when the block does."""
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        popen = self._popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        try:
            yield Client(popen, self)
        finally:
            with popen:
                assert popen.stdin is not None
                popen.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    popen.wait(DEADLINE)
                popen.kill()

    def stop(self, process: Process) -> None:
        process.stop()
        self._running.remove(process)

    def cpu_seconds(self) -> float:
        """Return the CPU time of all that run here, of what has ended, and of ourselves."""
        running = sum(process.cpu_seconds() for process in self._running)
        usages = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        return running + sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def _popen(
        self,
        command: Sequence[str],
        stdout: int | None = None,
        stdin: int = subprocess.DEVNULL,
        cwd: Path | None = None,
    ) -> subprocess.Popen[str]:
        with (self.directory / "log").open("a") as log:
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout or log,
                stderr=log,
                cwd=cwd,
                env=ENVIRONMENT,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no thread runs by now
                text=True,
            )

    def _keep(
        self,
        popen: subprocess.Popen[str],
        command: Sequence[str],
        listening: Callable[[], int | None],
    ) -> Process:
        process = Process(popen, 0)
        self._running.append(process)
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline and popen.poll() is None:
            if port := listening():
                process.port, process.url = port, f"http://127.0.0.1:{port}"
                return process
            time.sleep(0.02)
        self.stop(process)
        raise BenchmarkError(f"{' '.join(command)} does not start:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-2000:]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
