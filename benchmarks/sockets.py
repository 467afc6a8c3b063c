"""WebSockets: echoes in turns, many idle connections, and a side that does not read."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from .contenders import PROXY_LIB, Contender
from .frames import BINARY, BLOCK, FIN, PING, PONG, TEXT, Reader, accepts, build, request
from .load import Clocks, Round, one_round
from .processes import MIB, BenchmarkError, Launcher, Process
from .streams import READER_BUFFER, STALLED, Stream

#: Connections of the idle row; fewer for one that searches all it has for each new one.
IDLE = 5000
IDLE_OF = {PROXY_LIB: 1000}
#: Blocks that the flooding client hands to the kernel at once.
AT_ONCE = 4


@dataclass(frozen=True)
class Echo:
    """What the echo client sends: one message at a time on each connection."""

    title: str
    connections: int
    size: int
    seconds: int = 2
    rounds: int = 3

    def drive(self, launcher: Launcher, process: Process) -> Round:
        """Run the echo client once.

        Raises:
            BenchmarkError: It could not open its connections.
        """
        arguments = (process.port, self.connections, self.size, self.seconds)
        with launcher.client("echo_client", *map(str, arguments)) as client:
            client.read()
            process.settle()
            before = Clocks.read(launcher, process)
            found = client.ask()
            after = Clocks.read(launcher, process)
        process.settle()
        return one_round(found, before, after)


ECHOES = {
    "ws-64-32": Echo("64 bytes, 32 connections", 32, 64),
    "ws-64-512": Echo("64 bytes, 512 connections", 512, 64),
    "ws-16k-32": Echo("16 KiB, 32 connections", 32, 16 * 1024),
    "ws-16k-512": Echo("16 KiB, 512 connections", 512, 16 * 1024, rounds=2),
}


def idle(launcher: Launcher, contender: Contender, upstream: Process) -> float:
    """Return the KiB that each of many open connections costs a fresh process.

    Raises:
        BenchmarkError: It did not keep all of them.
    """
    connections = IDLE_OF.get(contender.name, IDLE)
    with contender.running(launcher, upstream, websockets=True) as process:
        check_echo(process)
        process.settle()
        before = process.memory()
        arguments = (process.port, connections, 64, 0)
        with launcher.client("echo_client", *map(str, arguments)) as client:
            client.read()
            process.settle()
            growth = process.memory() - before
            if lost := client.ask()["broken"]:
                raise BenchmarkError(f"{lost:.0f} of {connections} connections were lost")
    return growth * 1024 / connections


class Socket:
    """A client that blocks, on one connection."""

    def __init__(self, process: Process, path: str, buffer: int = 0) -> None:
        self._socket = socket.socket()
        if buffer:
            # The kernel is not to take what the reader leaves.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.settimeout(STALLED)
        self._socket.connect(("127.0.0.1", process.port))
        self._reader = Reader()
        self._socket.sendall(request(path))
        head = b""
        while b"\r\n\r\n" not in head:
            # Byte by byte, so that nothing after it is taken.
            byte = self._socket.recv(1)
            if not byte:
                break
            head += byte
        if not accepts(head):
            raise BenchmarkError(f"the handshake was answered {head[:60]!r}")

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield messages as ``Reader`` does, and answer pings."""
        while data := self._socket.recv(len(BLOCK) * AT_ONCE):
            for first, payload in self._reader.feed(data):
                if first == FIN | PING:
                    self.send(build(PONG, payload, mask=True))
                else:
                    yield first, payload
        raise BenchmarkError("the connection broke off")


@contextmanager
def opened(process: Process, path: str, buffer: int = 0) -> Iterator[Socket]:
    client = Socket(process, path, buffer)
    try:
        yield client
    finally:
        client.close()


def check_echo(process: Process) -> None:
    """Have a text and a binary message echoed.

    Raises:
        BenchmarkError: Another answer came.
    """
    try:
        with opened(process, "/") as client:
            frames = client.frames()
            for opcode, payload in ((TEXT, "grün".encode()), (BINARY, BLOCK[:16384])):
                client.send(build(opcode, payload, mask=True))
                found = next(frames)
                if found != (FIN | opcode, payload):
                    raise BenchmarkError(f"the echo was {found[0]:#x} {found[1][:40]!r}")
    except OSError as error:
        raise BenchmarkError(f"no echo: {error!r}") from error


def slow_client(process: Process, _upstream: Process, blocks: int) -> float:
    """Read nothing of what the upstream sends until nothing moves any more, then all of it."""
    with opened(process, f"/send/{blocks}", READER_BUFFER) as client:
        process.settle()
        began = time.perf_counter()
        frames = client.frames()
        for _ in range(blocks):
            if next(frames) != (FIN | BINARY, BLOCK):
                raise BenchmarkError("a block came out different")
        return time.perf_counter() - began


def slow_upstream(process: Process, upstream: Process, blocks: int) -> float:
    """Send to an upstream that reads nothing until nothing moves any more, then all of it."""

    def flood() -> None:
        data = build(BINARY, BLOCK, mask=True)
        for start in range(0, blocks, AT_ONCE):
            client.send(data * min(AT_ONCE, blocks - start))

    with opened(process, f"/hold/{blocks}") as client, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(flood)
        process.settle()
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", upstream.port), STALLED) as control:
            control.sendall(b"GET /resume HTTP/1.1\r\n\r\n")
            control.recv(1024)
        sending.result()
        found = next(client.frames())
        if found != (FIN | TEXT, str(blocks).encode()):
            raise BenchmarkError(f"the upstream said {found[1][:40]!r}")
        return time.perf_counter() - began


@dataclass(frozen=True)
class Flood:
    """Messages to somebody who reads late."""

    title: str
    move: Callable[[Process, Process, int], float]


FLOODS = {
    "client": Flood("{} MiB to a client that reads late", slow_client),
    "upstream": Flood("{} MiB to an upstream that reads late", slow_upstream),
}


def flooded(
    launcher: Launcher, contender: Contender, upstream: Process, flood: Flood, size_mib: int
) -> Stream:
    """Move messages of 64 KiB through a fresh process, which has seen an echo."""
    with contender.running(launcher, upstream, websockets=True) as process:
        check_echo(process)
        process.reset_peak()
        before = process.memory()
        seconds = flood.move(process, upstream, size_mib * MIB // len(BLOCK))
        return Stream(size_mib / seconds, process.memory("VmHWM") - before)
