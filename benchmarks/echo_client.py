"""The client of the echoes, which is to cost little: one message under way on each connection.

    python -m benchmarks.echo_client <port> <connections> <bytes> <seconds>

Opens the connections, has one message echoed on each, and prints a line. When it gets a line, it
sends for that many seconds, waiting for each echo, and prints what came of it in JSON, with the
names that wrk.lua uses. It leaves when its input ends.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator
from typing import cast

import uvloop

from .frames import BINARY, CLOSE, FIN, PING, PONG, TEXT, Reader, accepts, build, request

#: Connections that are opened at a time.
OPENING = 64
#: Seconds that a connection may take to open, and the last echo to come.
PATIENCE = 10


class Run:
    """What all connections share."""

    def __init__(self, connections: int, size: int, seconds: float) -> None:
        self.connections = connections
        self.seconds = seconds
        # Small messages are mostly text, large ones are not.
        opcode = TEXT if size < 1024 else BINARY
        self.payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        self.first = FIN | opcode
        self.message = build(opcode, self.payload, mask=True)
        self.reply = build(opcode, self.payload)
        self.until = 0.0
        self.times: list[float] = []
        self.wrong = 0
        self.lost = 0
        self.ready = 0
        self.all_ready = asyncio.Event()

    def one_is_ready(self) -> None:
        """Count a connection that waits for nothing; the last one is waited for."""
        self.ready += 1
        if self.ready == self.connections:
            self.all_ready.set()


class Connection(asyncio.Protocol):
    """An open connection; it begins with one echo."""

    def __init__(self, run: Run, transport: asyncio.Transport) -> None:
        self._run = run
        self._transport = transport
        self._reader = Reader()
        self._sent = 0.0

    def send(self, now: float) -> None:
        self._sent = now
        self._transport.write(self._run.message)

    def data_received(self, data: bytes) -> None:
        run = self._run
        if data == run.reply and not self._reader.rest:
            self._echoed(run)
            return
        for first, payload in self._reader.feed(data):
            if first == run.first and payload == run.payload:
                self._echoed(run)
            elif first == FIN | PING:
                self._transport.write(build(PONG, payload, mask=True))
            elif first != FIN | PONG:
                run.wrong += first != FIN | CLOSE
                self._transport.abort()

    def _echoed(self, run: Run) -> None:
        now = time.perf_counter()
        if now < run.until:
            run.times.append(now - self._sent)
            self._sent = now
            self._transport.write(run.message)
        else:
            run.one_is_ready()

    def connection_lost(self, _error: Exception | None) -> None:
        self._run.lost += 1
        self._run.one_is_ready()


class Opening(asyncio.Protocol):
    """A connection until its handshake is answered."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = b""
        self.opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(request("/"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        if not accepts(head):
            self._fail(f"the handshake was answered {head[:60]!r}")
            return
        connection = Connection(self._run, self._transport)
        self._transport.set_protocol(connection)
        if rest:
            connection.data_received(rest)
        self.opened.set_result(connection)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the handshake was not answered: {error}")

    def _fail(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))


async def open_all(port: int, run: Run) -> list[Connection]:
    """Open the connections and wait for an echo on each."""
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []

    async def open_some(numbers: Iterator[int]) -> None:
        for _ in numbers:
            async with asyncio.timeout(PATIENCE):
                _, opening = await loop.create_connection(lambda: Opening(run), "127.0.0.1", port)
                connection = await opening.opened
            opened.append(connection)
            connection.send(0)

    numbers = iter(range(run.connections))
    async with asyncio.TaskGroup() as group:
        for _ in range(min(OPENING, run.connections)):
            group.create_task(open_some(numbers))
    async with asyncio.timeout(PATIENCE):
        await run.all_ready.wait()
    if run.lost:
        raise ConnectionError(f"{run.lost} of {run.connections} connections were lost")
    return opened


async def measure(run: Run, connections: list[Connection]) -> dict[str, float]:
    """Echo on all of *connections*; those that wait too long at the end count as broken."""
    run.all_ready.clear()
    run.ready = 0
    cpu, began = time.process_time(), time.perf_counter()
    run.until = began + run.seconds
    for connection in connections:
        connection.send(time.perf_counter())
    try:
        async with asyncio.timeout(run.seconds + PATIENCE):
            await run.all_ready.wait()
    except TimeoutError:
        run.lost += run.connections - run.ready
    times = sorted(run.times) or [0.0]
    return {
        "answers": len(run.times),
        "microseconds": run.seconds * 1e6,
        "p50": times[len(times) // 2] * 1e6,
        "p99": times[len(times) * 99 // 100] * 1e6,
        "refused": 0,
        "broken": run.wrong + run.lost,
        "cpu": time.process_time() - cpu,
    }


async def main(port: int, connections: int, size: int, seconds: float) -> None:
    run = Run(connections, size, seconds)
    loop = asyncio.get_running_loop()
    opened = await open_all(port, run)
    gc.freeze()
    print(json.dumps({"open": len(opened)}), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await measure(run, opened)), flush=True)


if __name__ == "__main__":
    try:
        uvloop.run(main(*map(int, sys.argv[1:5])))
    except OSError as error:
        sys.exit(repr(error))
    except ExceptionGroup as errors:
        sys.exit(repr(errors.exceptions[0]))
