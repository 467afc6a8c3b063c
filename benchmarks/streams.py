"""Large bodies, slow readers and events: what they cost in memory, and how long they take."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .contenders import Contender
from .processes import MIB, BenchmarkError, Launcher, Process
from .upstream import CHUNK, EVENT

#: Nothing here is as slow as this many seconds without a byte.
STALLED = 30
READERS = 100
READER_SIZE = 10 * MIB
READER_BUFFER = 64 * 1024


@dataclass(frozen=True)
class Stream:
    """What one transfer showed."""

    mib_per_second: float
    #: Peak of the resident set over what it was before the transfer.
    growth_mib: float


def download(process: Process, size: int, pause_every: int = 0) -> None:
    """Read a body; a slow reader pauses for a tenth of a second after every *pause_every* bytes."""
    with socket.socket() as client:
        if pause_every:
            # The kernel is not to take what the reader leaves.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READER_BUFFER)
        client.settimeout(STALLED)
        client.connect(("127.0.0.1", process.port))
        client.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size)
        buffer = bytearray(len(CHUNK))
        received, pause_at = 0, pause_every
        while read := client.recv_into(buffer):
            if not received and not buffer.startswith(b"HTTP/1.1 200"):
                raise BenchmarkError(f"the download was answered {bytes(buffer[:40])!r}")
            received += read
            if pause_every and received >= pause_at:
                pause_at += pause_every
                time.sleep(0.1)
    if received < size:
        raise BenchmarkError(f"the download broke off after {received} bytes")


def upload(process: Process, size: int, path: str = "/fast") -> None:
    with socket.create_connection(("127.0.0.1", process.port), STALLED) as client:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}"
        client.sendall(head.encode() + b"\r\n\r\n")
        for start in range(0, size, len(CHUNK)):
            client.sendall(CHUNK[: size - start])
        answer = client.recv(1024)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"the upload was answered {answer[:40]!r}")


def slow_readers(process: Process, _size: int) -> None:
    """Let 100 clients read 10 MiB each, in about four seconds."""
    with ThreadPoolExecutor(READERS) as pool:
        reads = [pool.submit(download, process, READER_SIZE, MIB // 4) for _ in range(READERS)]
    for read in reads:
        read.result()


@dataclass(frozen=True)
class Transfer:
    """A way to move bytes through a gateway."""

    title: str
    move: Callable[[Process, int], None]
    #: The part of the full size that it moves, so that slow ones do not take minutes.
    part: float = 1


def _slow_upload(process: Process, size: int) -> None:
    upload(process, size, "/slow")


TRANSFERS = {
    "download": Transfer("{} MiB down", download),
    "upload": Transfer("{} MiB up", upload),
    "slow-upload": Transfer("{} MiB up, slow upstream", _slow_upload, 0.25),
    "slow-readers": Transfer("100 slow readers of 10 MiB each", slow_readers, 0),
}


def transfer(
    launcher: Launcher, contender: Contender, upstream: Process, move: Transfer, size: int
) -> Stream:
    """Move bytes through a fresh process, which has seen one small body each way."""
    with contender.running(launcher, upstream) as process:
        download(process, MIB)
        upload(process, MIB)
        process.reset_peak()
        before, began = process.memory(), time.perf_counter()
        move.move(process, int(size * move.part))
        seconds = time.perf_counter() - began
        growth = process.memory("VmHWM") - before
    moved = size * move.part if move.part else READERS * READER_SIZE
    return Stream(moved / MIB / seconds, growth)


def first_event(process: Process) -> float:
    """Return the milliseconds from opening a connection to the first event of a stream."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", process.port), STALLED) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        received = b""
        while EVENT.strip() not in received:
            part = client.recv(4096)
            if not part:
                raise BenchmarkError(f"no event, but {received!r}")
            received += part
    return (time.perf_counter() - began) * 1000


def first_events(processes: Mapping[str, Process], times: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(times):
        for name, process in processes.items():
            found[name].append(first_event(process))
    return found
