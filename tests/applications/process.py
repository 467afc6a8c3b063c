"""Start a program that listens on a port, wait for it, and end it by its process id."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import listening_socket

#: Seconds a program may take to listen, and then to end.
DEADLINE = 20


def free_port() -> int:
    with listening_socket() as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str | Path], port: int, *, log: Path, env: Mapping[str, str]
) -> Iterator[None]:
    """Run *command* until the block ends; the test fails if it does not listen on *port*."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=env,
        )
    try:
        _wait_until_open(process, port, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    ended = process.poll()
    how = f"does not listen after {DEADLINE} s" if ended is None else f"ended with {ended}"
    pytest.fail(f"{process.args!r} {how}:\n{log.read_text(errors='replace')[-4000:]}")
