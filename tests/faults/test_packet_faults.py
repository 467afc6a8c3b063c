"""The upstream's bytes, cut into packets anywhere: the client's answer is the same."""

import asyncio
import io
import itertools
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastapi_proxy_router import ProxyRouter
from tests.faults.client import Answer, connected
from tests.faults.upstreams import faulty
from tests.servers import Served, serve

#: More bytes than any response has.
MANY = 1_000_000
INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n",
)
#: As bytes that end a line or a head, if they were read as such, do not.
BODIES = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from([b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"5\r\n", b"HTTP/1.1 200 OK"])
    ).map(b"".join),
)
VALUES = st.lists(st.integers(0x21, 0x7E).map(chr), min_size=1, max_size=40).map("".join)


@dataclass(frozen=True)
class Response:
    """What an upstream says, and how it frames it."""

    body: bytes = b""
    framing: str = "length"
    status: int = 200
    method: str = "GET"
    value: str = "a"
    interim: tuple[bytes, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def wire(self) -> bytes:
        head = f"HTTP/1.1 {self.status} Whatever\r\nX-Value: {self.value}\r\nX-Empty:\r\n"
        framing = {
            "length": f"Content-Length: {len(self.body)}\r\n",
            "chunked": "Transfer-Encoding: chunked\r\n",
            "closed": "",
        }[self.framing]
        body = b"" if self.bodiless else self._framed()
        return b"".join(self.interim) + (head + framing + "\r\n").encode() + body

    @property
    def bodiless(self) -> bool:
        return self.method == "HEAD" or self.status in (204, 304)

    def _framed(self) -> bytes:
        if self.framing != "chunked":
            return self.body
        chunks, rest = [], self.body
        for size in (*self.sizes, len(self.body)):
            chunk, rest = rest[:size], rest[size:]
            if chunk:
                chunks.append(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk))
        return b"".join([*chunks, b"0\r\nX-Trailer: a\r\n\r\n"])


RESPONSES = st.builds(
    Response,
    body=BODIES,
    framing=st.sampled_from(["length", "chunked", "closed"]),
    status=st.sampled_from([200, 200, 200, 404, 204, 304]),
    method=st.sampled_from(["GET", "GET", "GET", "HEAD"]),
    value=VALUES,
    interim=st.lists(st.sampled_from(INTERIM), max_size=3).map(tuple),
    sizes=st.lists(st.integers(1, 100), max_size=5).map(tuple),
)


@dataclass
class Bench:
    """A gateway, and an upstream that sends a response in the packets that it is given."""

    served: Served
    packets: list[bytes] = field(default_factory=list)
    closes: bool = False

    async def ask(self, response: Response, sizes: Sequence[int] = (MANY,)) -> Answer:
        """Ask for a response in packets of these sizes, over and over again."""
        sizes_in_turn, wire = itertools.cycle(sizes), io.BytesIO(response.wire)
        self.packets = list(iter(lambda: wire.read(next(sizes_in_turn)), b""))
        self.closes = response.framing == "closed" and not response.bodiless
        async with connected(self.served) as client:
            line = f"{response.method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            await client.send(line.encode())
            await client.end()
            return await client.answer(response.method)

    async def send(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in self.packets:
            writer.write(packet)
            # One turn of the loop, in which the gateway reads what is there.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return not self.closes


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    app = FastAPI()
    bench: Bench

    async def script(reader, writer):
        return await bench.send(reader, writer)

    async with faulty(script) as upstream:
        app.include_router(ProxyRouter(upstream.url))
        async with serve(app) as served:
            bench = Bench(served)
            yield bench


def seen(answer: Answer) -> tuple[object, ...]:
    headers = [header for header in answer.headers if header[0] != b"date"]
    return answer.status, headers, answer.body, answer.complete, answer.rest


@pytest.fixture
def loop():
    """Run coroutines from a test that is none: hypothesis calls it as a function."""
    with asyncio.Runner() as runner:
        yield runner


def test_any_split_into_packets_gives_the_same_answer(loop):
    """Status, headers and body do not depend on where the network cuts."""
    context = bench()
    gateway = loop.run(context.__aenter__())

    @settings(max_examples=100, derandomize=True, deadline=None, database=None)
    @given(RESPONSES, st.lists(st.integers(1, 60), min_size=1, max_size=8))
    @example(Response(b"hello" * 9, "chunked", sizes=(1, 5, 20)), [1])
    @example(Response(b"hello" * 9, interim=INTERIM), [1])
    @example(Response(b"hello", "closed"), [1])
    def same(response: Response, packets: list[int]) -> None:
        whole = loop.run(gateway.ask(response))
        cut = loop.run(gateway.ask(response, packets))

        assert whole.status == response.status
        assert whole.body == (b"" if response.bodiless else response.body)
        assert seen(cut) == seen(whole)

    try:
        same()
    finally:
        loop.run(context.__aexit__(None, None, None))
