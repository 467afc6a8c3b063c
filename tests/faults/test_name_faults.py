"""Upstreams whose names do not resolve, or slowly (F25)."""

import asyncio
import socket

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, Timeout
from tests.faults.settling import limited
from tests.faults.upstreams import faulty
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def never(reader, _writer):
    await reader.read()


class Resolver:
    """The event loop's resolver of names, which does what a test says."""

    def __init__(self) -> None:
        self._resolve = asyncio.get_running_loop().getaddrinfo
        self.fault: Exception | None = None
        self.asked = asyncio.Event()

    async def __call__(self, host, port, **options):
        if host not in ("upstream.test", b"upstream.test"):
            return await self._resolve(host, port, **options)
        self.asked.set()
        if isinstance(self.fault, TimeoutError):
            await asyncio.Event().wait()
        elif self.fault is not None:
            raise self.fault
        return await self._resolve("127.0.0.1", port, **options)

    async def heal(self) -> None:
        self.fault = None


@pytest.fixture
async def resolver(monkeypatch):
    """Resolve the name `upstream.test`."""
    resolver = Resolver()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver)
    return resolver


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), 502),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), 502),
        (TimeoutError(), 504),
    ],
    ids=["NXDOMAIN", "SERVFAIL", "slow"],
)
async def test_a_name_that_does_not_resolve(settled, resolver, fault, code):
    """F25: the connect deadline holds for the name, too; the next request asks again."""
    resolver.fault = fault
    async with faulty(never) as upstream:
        to = limited(f"http://upstream.test:{upstream.port}")
        timeout = Timeout(connect=0.3, response=30)
        async with settled.gateway(upstream, to=to, heal=resolver.heal, timeout=timeout) as gw:
            assert (await gw.ask()).status == code
            assert upstream.connections == 0


async def test_a_slow_name_keeps_nobody_else_waiting(settled, resolver):
    """F25: while one upstream's name is looked up, another upstream answers."""
    resolver.fault = TimeoutError()
    async with faulty(never) as slow, raw_upstream() as upstream:
        to = limited(f"http://upstream.test:{slow.port}")
        timeout = Timeout(connect=5)
        async with settled.gateway(slow, to=to, heal=resolver.heal, timeout=timeout) as waiting:
            async with waiting.client() as client:
                await client.send(waiting.head())
                await resolver.asked.wait()
                app = FastAPI()
                app.include_router(ProxyRouter(upstream.url))
                async with serve(app) as other:
                    assert status(await get_raw(other)) == 200
