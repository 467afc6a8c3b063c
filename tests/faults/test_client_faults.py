"""Clients that leave, stall, and never read.

====  ==============================================  ============================================
C1    leaves before its body                          test_a_client_that_leaves_...: before the body
C2    leaves during its upload                        the same: in its upload, in its chunks
C3    leaves before the answer                        the same: before the answer
C4    leaves during the download                      the same: in a silent body, in an endless body
C5    by RST or by FIN                                the same, both
C6    closes only its sending side                    test_a_client_that_is_only_done_sending_...
C7    reads slowly                                    test_a_slow_reader_...; `streaming`: memory
C8    writes slowly                                   test_a_slow_writer_...
C9    never reads                                     test_a_client_that_leaves_...: unread
C10   pipelines two and leaves                        the same: in the second of two
C11   expects 100 without a body                      the same: after 100 Continue; `streaming`
C12   sends less than it said, and idles              test_an_upload_that_stalls_is_a_408
C13   cancelled at every await                        the engine's tests
C14   many leave in a row                             test_many_that_leave_in_a_row_take_nothing
====  ==============================================  ============================================

`streaming` is `tests/test_streaming.py`.
"""

import asyncio
from dataclasses import dataclass, field

import pytest

from fastapi_proxy_router import Timeout
from tests.faults.client import Client
from tests.faults.settling import Gateway
from tests.faults.upstreams import faulty
from tests.servers import RawUpstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

MIB = 1024 * 1024


@dataclass
class Stage:
    """How far an exchange comes before its client leaves, on both sides."""

    gw: Gateway
    upstream: RawUpstream
    client: Client
    #: What the upstream has got of the body.
    body: bytearray = field(default_factory=bytearray)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    stuck: asyncio.Event = field(default_factory=asyncio.Event)

    async def before_the_body(self) -> None:
        await self.client.send(self.gw.head("POST", "/x", "Content-Length: 10"))
        await self.upstream.received.wait()

    async def in_its_upload(self) -> None:
        await self.client.send(self.gw.head("POST", "/x", "Content-Length: 10") + b"hello")
        await self.arrived.wait()

    async def in_its_chunks(self) -> None:
        head = self.gw.head("POST", "/x", "Transfer-Encoding: chunked")
        await self.client.send(head + b"5\r\nhello\r\n")
        await self.arrived.wait()

    async def after_100_continue(self) -> None:
        await self.client.send(
            self.gw.head("POST", "/x", "Content-Length: 10", "Expect: 100-continue")
        )
        await self.client.until(b"HTTP/1.1 100")

    async def before_the_answer(self) -> None:
        await self.client.send(self.gw.head())
        await self.upstream.received.wait()

    async def in_a_silent_body(self) -> None:
        await self.client.send(self.gw.head("GET", "/silent"))
        await self.client.until(b"hello")

    async def in_an_endless_body(self) -> None:
        await self.client.send(self.gw.head("GET", "/endless"))
        await self.client.until(b"hello")

    async def unread(self) -> None:
        await self.client.send(self.gw.head("GET", "/endless"))
        await self.stuck.wait()

    async def in_the_second_of_two(self) -> None:
        await self.client.send(self.gw.head("GET", "/first") + self.gw.head("GET", "/second"))
        await self.client.until(b"first!")
        while not any(r.target.startswith(b"/second") for r in self.upstream.requests):
            self.upstream.received.clear()
            await self.upstream.received.wait()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        target = self.upstream.last.target
        if target.startswith(b"/first"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfirst!")
            return True
        if not target.startswith((b"/x", b"/second")):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        while target.startswith(b"/endless") and not self.stuck.is_set():
            writer.write(b"5\r\nhello\r\n" * 10_000)
            try:
                async with asyncio.timeout(0.15):
                    await writer.drain()
            except TimeoutError:
                self.stuck.set()
        while data := await reader.read(65536):
            self.body += data
            self.arrived.set()
        return False


STAGES = [name for name in vars(Stage) if name.startswith(("before", "in_", "after", "unread"))]


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_that_leaves_ends_the_exchange(settled, server, stage, how):
    """C1 to C5, C9 to C11: the upstream is let go within a second and never sees a whole upload."""
    state: Stage

    async def fault(reader, writer):
        return await state.answer(reader, writer)

    async with faulty(fault) as upstream, settled.gateway(upstream, server) as gw:
        async with gw.client() as client:
            state = Stage(gw, upstream, client)
            async with asyncio.timeout(5):
                await getattr(state, stage)()
            upstream.closed.clear()
            client.leave(how)
            async with asyncio.timeout(1):
                await upstream.closed.wait()

        assert bytes(state.body) in (b"", b"hello", b"5\r\nhello\r\n")


async def test_a_client_that_is_only_done_sending_has_left(settled, server):
    """C6: servers do not tell the two apart; hypercorn answers 499, the others nothing."""

    async def think(reader, _writer):
        await reader.read()

    async with faulty(think) as upstream, settled.gateway(upstream, server) as gw:
        async with gw.client() as client:
            await client.send(gw.head())
            await upstream.received.wait()
            client.leave("half")
            async with asyncio.timeout(1):
                await upstream.closed.wait()
            answer = await client.answer()

        assert answer.status == (499 if server == "hypercorn" else 0)


async def test_a_slow_reader_is_waited_for(settled, server):
    """C7: the deadlines are the upstream's, not for a client that takes its time."""
    size = 16 * MIB

    async def send(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(16):
            writer.write(bytes(MIB))
            await writer.drain()
        return True

    async with faulty(send) as upstream:
        timeout = Timeout(response=0.15, idle=0.15)
        async with settled.gateway(upstream, server, timeout=timeout) as gw:
            gw.whole = {bytes(size)}
            async with gw.client() as client:
                await client.send(gw.head("GET", "/x", "Connection: close"))
                await client.until(b"\r\n\r\n")
                await asyncio.sleep(0.35)
                await client.end()
                assert gw.note(await client.answer()).complete


async def test_a_slow_writer_is_waited_for(settled, server):
    """C8: an upload may take longer than every deadline, if no gap does."""
    bodies = []

    async def receive(reader, writer):
        bodies.append(await reader.readexactly(14))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    async with faulty(receive) as upstream:
        timeout = Timeout(connect=0.3, response=0.3, idle=0.3)
        async with settled.gateway(upstream, server, timeout=timeout) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Content-Length: 14"))
                for _ in range(14):
                    await client.send(b"x")
                    await asyncio.sleep(0.03)
                assert gw.note(await client.answer()).body == b"ok"

    assert bodies == [b"x" * 14]


@pytest.mark.parametrize(
    ("framing", "part"),
    [("Content-Length: 10", b"hello"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n")],
    ids=["length", "chunked"],
)
async def test_an_upload_that_stalls_is_a_408(settled, server, framing, part):
    """C12: the client is told, and the upstream let go."""

    async def receive(reader, _writer):
        await reader.read()

    async with faulty(receive) as upstream:
        async with settled.gateway(upstream, server, timeout=Timeout(idle=0.2)) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", framing) + part)
                assert gw.note(await client.answer()).status == 408
            async with asyncio.timeout(1):
                await upstream.closed.wait()


async def test_many_that_leave_in_a_row_take_nothing(settled, server):
    """C14: after 500 clients that left at various moments all connections can still be had."""
    many = 500 if server == "uvicorn-httptools" else 120

    async def fault(reader, writer):
        if upstream.last.target.startswith(b"/stream"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()

    async def leave(gw: Gateway, number: int) -> None:
        async with gw.client() as client:
            if number % 4 == 0:
                await client.send(gw.head("POST", "/x", "Content-Length: 10") + b"hello")
            elif number % 4 == 1:
                await client.send(gw.head("GET", "/stream"))
                await client.until(b"hello")
            else:
                await client.send(gw.head())
                for _ in range(number % 10):
                    await asyncio.sleep(0)
            client.leave("reset" if number % 3 else "close")

    async with faulty(fault) as upstream, settled.gateway(upstream, server) as gw:
        for first in range(0, many, 20):
            await asyncio.gather(*(leave(gw, first + number) for number in range(20)))
