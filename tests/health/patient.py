"""An upstream whose health a test decides, and what a pool says about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi_proxy_router import HealthCheck, Upstream
from fastapi_proxy_router.core.health import State
from tests.servers import RawRequest, RawUpstream, raw_upstream

#: The longest that anything here may take.
LIMIT = 10


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.002)


def often(**options: Any) -> HealthCheck:
    """Return a check that a test does not have to wait for."""
    return HealthCheck(**{"interval": 0.03, "timeout": 5.0, **options})


@dataclass
class Patient:
    """How an upstream answers now, and what it was asked.

    Attributes:
        server: Where it listens.
        status: What it answers.
        body: With that.
        silent: It reads and says nothing.
        alternates: Every other answer is 500.
        rejects: Methods that it answers with 405.
        connections: How many are open.
    """

    server: RawUpstream
    status: int = 200
    body: bytes = b"ok"
    silent: bool = False
    alternates: bool = False
    rejects: tuple[str, ...] = ()
    connections: int = 0
    requests: list[RawRequest] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def lines(self) -> list[str]:
        """The request lines, without the version."""
        return [request.line.decode().rpartition(" ")[0] for request in self.requests]

    async def asked(self, more: int = 1) -> None:
        """Wait until it was asked so many times more."""
        before = len(self.requests)
        await until(lambda: len(self.requests) >= before + more)


@asynccontextmanager
async def patient(**options: Any) -> AsyncIterator[Patient]:
    """Run an upstream whose health can be changed; options are those of ``raw_upstream``."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, one.connections = server.requests[-1].head, one.connections + 1
        try:
            while head:
                await answer(head, reader, writer)
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
        finally:
            one.connections -= 1

    async def answer(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        one.requests.append(RawRequest(head))
        if one.silent:
            await reader.read()
        method = head.partition(b" ")[0].decode()
        status = 405 if method in one.rejects else one.status
        if one.alternates and len(one.requests) % 2 == 0:
            status = 500
        lines = f"HTTP/1.1 {status} -\r\nContent-Length: {len(one.body)}\r\n\r\n"
        writer.write(lines.encode() + (b"" if method == "HEAD" else one.body))
        await writer.drain()

    async with raw_upstream(script, **options) as server:
        one = Patient(server)
        yield one


class Diary:
    """Every change of a state; to be given to a pool as ``on_state_change``."""

    def __init__(self) -> None:
        self.entries: list[tuple[Upstream, State, State]] = []

    def __call__(self, upstream: Upstream, before: State, after: State) -> None:
        self.entries.append((upstream, before, after))

    @property
    def states(self) -> list[State]:
        """The states that were entered, of whichever upstream."""
        return [after for _, _, after in self.entries]

    async def until(self, *states: State) -> None:
        """Wait until these are all the states that were entered."""
        await until(lambda: len(self.entries) >= len(states))
        assert self.states == list(states)
