"""Passive health: what counts against an upstream, and what does not."""

import errno

import httpx
import pytest
import websockets
from websockets.frames import Opcode

from fastapi_proxy_router import (
    ConnectionLimits,
    Ejection,
    HTTP1Transport,
    Timeout,
    Upstream,
    WebSocketOptions,
)
from tests.faults.upstreams import reset
from tests.retries.pools import (
    SHORT,
    answering,
    blackhole,
    closing,
    fast,
    holding,
    refusing,
    script_of,
    silent,
    true,
)
from tests.servers import OK, raw_upstream
from tests.websocket.wire import wire_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

ALONE = Ejection(max_share=1)


@pytest.mark.parametrize("fault", [refusing, closing, blackhole, silent])
async def test_five_failures_in_a_row_eject(pools, fault):
    """F1 to F5: then the upstream is asked no more, and the others have all of it."""
    timeout = Timeout(connect=0.05, response=0.05)
    async with fault() as bad, raw_upstream() as good:
        async with pools.gateway_to(bad, good, timeout=timeout, retry=fast()) as gw:
            states = []
            for _ in range(8):
                await gw.ask()
                states.append(gw.pool.upstreams[0].health.state)

        assert states == ["healthy"] * 4 + ["ejected"] * 4
        assert gw.pool.upstreams[0].requests == 5


BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    "chunks without an end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n",
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_answers_that_break_off_eject(pools, fault):
    """F6 to F13: also when the client has got a part of it."""

    async def answer(_reader, writer):
        writer.write(BROKEN[fault])
        await writer.drain()

    async with raw_upstream(answer) as bad, raw_upstream() as good:
        async with pools.gateway_to(bad, good, retry=fast()) as gw:
            for _ in range(6):
                await gw.ask()

        assert gw.pool.upstreams[0].health.state == "ejected"
        assert len(bad.requests) == 5


async def test_an_answer_between_failures_starts_them_anew(pools):
    """Five in a row, not five."""
    half = b"HTTP/1.1 200 OK\r\nContent-"
    answers = [half, half, half, half, OK] * 3
    async with raw_upstream(script_of(*answers)) as bad, raw_upstream() as good:
        ejection = Ejection(rate=None)
        async with pools.gateway_to(bad, good, retry=fast(), ejection=ejection) as gw:
            for _ in range(15):
                assert (await gw.ask()).status == 200

        assert gw.pool.upstreams[0].health.state == "healthy"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_counts_nothing(pools, server, how):
    """Not even if a single failure would eject."""
    eager = Ejection(consecutive=1, max_share=1)
    async with silent() as hanging:
        upstream = Upstream(hanging.url)
        async with pools.gateway_to(upstream, server=server, ejection=eager) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await true(hanging.received.is_set)
                client.leave(how)
            await true(gw.idle)

        assert (upstream.requests, upstream.failures) == (1, 0)
        assert upstream.health.state == "healthy"


async def test_a_client_that_breaks_its_upload_off_counts_nothing(pools):
    """The upstream sees a request that is none, and is not to blame."""
    async with silent() as waiting:
        upstream = Upstream(waiting.url)
        async with pools.gateway_to(upstream, ejection=ALONE) as gw:
            for number in range(1, 7):
                async with gw.client() as client:
                    await client.send(gw.head("PUT", "/x", "Content-Length: 10") + b"hello")
                    await true(lambda n=number: len(waiting.requests) == n)
                    client.leave("reset")
                await true(gw.idle)

        assert (upstream.failures, upstream.health.state) == (0, "healthy")


async def test_a_client_that_sends_too_slowly_counts_nothing(pools):
    """408 is its own fault."""
    async with silent() as waiting:
        upstream = Upstream(waiting.url)
        options = {"ejection": ALONE, "timeout": Timeout(idle=0.1)}
        async with pools.gateway_to(upstream, **options) as gw:
            for _ in range(6):
                async with gw.client() as client:
                    await client.send(gw.head("PUT", "/x", "Content-Length: 10") + b"hello")
                    assert (await client.answer()).status == 408

        assert (upstream.failures, upstream.health.state) == (0, "healthy")


async def test_a_client_that_reads_too_slowly_counts_nothing(pools):
    """The total is used up by the client, and the upstream has sent what it could."""
    async with raw_upstream(answering("200 OK", b"x" * 30_000_000)) as good:
        upstream = Upstream(good.url)
        options = {"ejection": ALONE, "timeout": Timeout(total=SHORT)}
        async with pools.gateway_to(upstream, **options) as gw, gw.client() as client:
            await client.send(gw.head())
            await client.until(b" 200 ")
            await true(gw.idle)

        assert (upstream.failures, upstream.health.state) == (0, "healthy")


async def test_turns_for_connections_count_nothing(pools):
    """PoolTimeout: the limit is ours."""
    async with holding() as busy:
        transport = HTTP1Transport(limits=ConnectionLimits(max_connections=1))
        upstream = Upstream(busy.url, transport=transport)
        options = {"ejection": ALONE, "timeout": Timeout(pool=0.05)}
        async with pools.gateway_to(upstream, **options) as gw, gw.client() as client:
            await client.send(gw.head())
            await true(lambda: busy.held == 1)
            assert [(await gw.ask()).status for _ in range(6)] == [503] * 6
            busy.go.set()
            await client.answer()

        assert (upstream.failures, upstream.health.state) == (0, "healthy")


async def test_our_own_lack_of_descriptors_counts_nothing(pools):
    """EMFILE, as the system would say it."""

    class Starved(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise httpx.ConnectError("no") from OSError(errno.EMFILE, "Too many open files")

    upstream = Upstream("http://127.0.0.1:9", transport=Starved())
    async with pools.gateway_to(upstream, ejection=ALONE) as gw:
        assert [(await gw.ask()).status for _ in range(6)] == [503] * 6

    assert (upstream.failures, upstream.health.state) == (0, "healthy")


@pytest.mark.parametrize(("chosen", "state"), [({500}, "ejected"), (set(), "healthy")])
async def test_chosen_statuses_count(pools, chosen, state):
    """And no others."""
    async with raw_upstream(answering("500 Oops")) as bad, raw_upstream() as good:
        ejection = Ejection(statuses=chosen)
        async with pools.gateway_to(bad, good, ejection=ejection) as gw:
            for _ in range(7):
                await gw.ask()

        assert gw.pool.upstreams[0].health.state == state
        assert len(bad.requests) == (5 if chosen else 7)


async def refused(gw) -> int:
    with pytest.raises(websockets.InvalidStatus) as raised:
        async with websockets.connect(f"{gw.served.ws}/ws", proxy=None):
            pass
    return raised.value.response.status_code


@pytest.mark.parametrize("fault", [refusing, closing, silent])
async def test_handshakes_that_fail_count(pools, fault):
    """A WebSocket is as good a witness as a request."""
    async with fault() as bad:
        options = {"ejection": ALONE, "timeout": Timeout(response=0.05)}
        async with pools.gateway_to(bad, **options) as gw:
            assert {await refused(gw) for _ in range(5)} <= {502, 504}

        assert gw.pool.upstreams[0].health.state == "ejected"


async def test_websockets_that_break_off_count(pools):
    """An upstream that vanishes without a close frame."""

    async def vanish(wire):
        await wire.read()
        reset(wire.writer)

    async with wire_upstream(vanish) as bad:
        async with pools.gateway_to(bad, ejection=ALONE) as gw:
            for _ in range(5):
                async with websockets.connect(f"{gw.served.ws}/ws", proxy=None) as client:
                    await client.send("hello")
                    await client.wait_closed()
            await true(gw.idle)

        assert gw.pool.upstreams[0].health.state == "ejected"


@pytest.mark.parametrize("leave", [True, False])
async def test_websockets_that_end_well_count_nothing(pools, leave):
    """Neither a client that vanishes nor one that has used up its time."""

    async def stay(wire):
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(stay) as good:
        options = {"ejection": ALONE, "websocket": WebSocketOptions(lifetime=0.1)}
        async with pools.gateway_to(good, **options) as gw:
            for _ in range(6):
                async with websockets.connect(f"{gw.served.ws}/ws", proxy=None) as client:
                    if leave:
                        client.transport.abort()
                    await client.wait_closed()
            await true(gw.idle)

        assert gw.pool.upstreams[0].failures == 0
