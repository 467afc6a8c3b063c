"""WebSockets: a handshake that fails goes to another upstream, before the client is accepted."""

import asyncio
import random

import pytest
import websockets
from fastapi import FastAPI, WebSocket

from fastapi_proxy_router import (
    HeaderEdits,
    ProxyRouter,
    RouteOverride,
    Timeout,
    Upstream,
    UpstreamPool,
)
from tests.retries.pools import (
    SHORT,
    WAYS,
    answering,
    blackhole,
    closing,
    fast,
    first,
    refusing,
    silent,
    true,
)
from tests.servers import raw_upstream, serve

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

BUSY = answering("503 Busy", b"busy", "X-From: first")


def named(name: str) -> FastAPI:
    """Return an upstream that says its name, and what it was asked."""
    app = FastAPI()

    @app.websocket("/{path:path}")
    async def echo(websocket: WebSocket):
        offered = websocket.scope["subprotocols"]
        headers = [(b"x-from", name.encode()), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        await websocket.accept(offered[-1] if offered else None, headers)
        await websocket.send_text(f"{name} {websocket.url.path} {websocket.headers['host']}")
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    return app


def dialled(gw, path: str = "/ws", **options):
    return websockets.connect(f"{gw.served.ws}{path}", proxy=None, **options)


async def refused(gw, **options) -> websockets.Response:
    with pytest.raises(websockets.InvalidStatus) as raised:
        async with dialled(gw, **options):
            pass
    return raised.value.response


@pytest.mark.parametrize("way", WAYS)
async def test_a_refused_connection_is_made_good(pools, server, way):
    """The client gets the second upstream's subprotocol and headers."""
    async with refusing() as gone, serve(named("second")) as good:
        upstreams = (gone, Upstream(good.url))
        async with pools.gateway_to(*upstreams, server=server, way=way) as gw:
            async with dialled(gw, subprotocols=["a", "b"]) as client:
                assert await client.recv() == f"second /ws {good.authority}"
                await client.send("hello")
                assert await client.recv() == "hello"
                assert client.subprotocol == "b"
                if server != "granian":  # It sends no headers with an accept.
                    assert client.response.headers["x-from"] == "second"
                    assert client.response.headers.get_all("set-cookie") == ["a=1", "b=2"]

        assert gone.failures == 1


@pytest.mark.parametrize("fault", [closing, blackhole, silent])
async def test_a_handshake_that_fails_is_made_good(pools, fault):
    """Nobody does anything for a handshake, so it may be repeated; a hang with ``per_try``."""
    async with fault() as bad, serve(named("second")) as good:
        upstreams = (bad if isinstance(bad, Upstream) else Upstream(bad.url), Upstream(good.url))
        async with pools.gateway_to(*upstreams, retry=fast(per_try=SHORT)) as gw:
            async with dialled(gw) as client:
                assert str(await client.recv()).startswith("second ")

        assert upstreams[0].failures == 1


async def test_a_hang_without_the_time_of_a_try_is_a_504(pools):
    """The client would wait several times as long as the pool's timeout says."""
    async with silent() as bad, serve(named("second")) as good:
        options = {"retry": fast(), "timeout": Timeout(response=SHORT)}
        async with pools.gateway_to(bad, Upstream(good.url), **options) as gw:
            assert (await refused(gw)).status_code == 504

        assert gw.pool.upstreams[1].requests == 0


INVALID = {
    "no HTTP": b"hello\r\n\r\n",
    "a wrong key": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
}


@pytest.mark.parametrize("fault", INVALID)
async def test_an_invalid_answer_is_made_good(pools, fault):
    """The upstream breaks the protocol."""
    async with raw_upstream(INVALID[fault]) as bad, serve(named("second")) as good:
        async with pools.gateway_to(bad, Upstream(good.url), retry=fast()) as gw:
            async with dialled(gw) as client:
                assert str(await client.recv()).startswith("second ")

        assert gw.pool.upstreams[0].failures == 1


async def test_a_chosen_status_is_made_good(pools, server):
    """Nothing of the refusal reaches the client."""
    async with raw_upstream(BUSY) as bad, serve(named("second")) as good:
        options = {"retry": fast(statuses={503}), "server": server}
        async with pools.gateway_to(bad, Upstream(good.url), **options) as gw:
            async with dialled(gw) as client:
                assert str(await client.recv()).startswith("second ")
                assert client.response.headers.get("x-from", "second") == "second"


async def test_another_refusal_is_the_answer(pools):
    """403 was not chosen."""
    async with raw_upstream(answering("403 No", b"no")) as bad, raw_upstream() as other:
        async with pools.gateway_to(bad, other, retry=fast(statuses={503})) as gw:
            answer = await refused(gw)

        assert (answer.status_code, answer.body, other.connections) == (403, b"no", 0)


@pytest.mark.parametrize("last", [refusing, closing])
async def test_the_client_gets_the_last_real_refusal(pools, server, last):
    """Not the 502 of one that fails after it."""
    limited = answering("429 Slow", b"slow down", "Retry-After: 9")
    async with raw_upstream(BUSY) as one, raw_upstream(limited) as two, last() as three:
        options = {"retry": fast(statuses={429, 503}), "server": server}
        async with pools.gateway_to(one, two, three, **options) as gw:
            answer = await refused(gw)

        assert (answer.status_code, answer.headers["retry-after"]) == (429, "9")


async def test_all_are_tried_before_the_client_is_told(pools):
    """Then it is refused with 502."""
    async with refusing() as one, refusing() as two:
        async with pools.gateway_to(one, two) as gw:
            assert (await refused(gw)).status_code == 502

        assert (one.requests, two.requests) == (1, 1)


async def test_each_try_has_what_belongs_to_its_upstream(pools):
    """Host, base path, and the same headers otherwise, but for the key."""
    async with closing() as one, closing() as two:
        upstreams = [Upstream(f"{one.url}/v1"), Upstream(f"{two.url}/v2")]
        async with pools.gateway_to(*upstreams, retry=fast()) as gw:
            await refused(gw, additional_headers={"X-Own": "1"})

        assert one.last.target == b"/v1/ws"
        assert two.last.target == b"/v2/ws"
        assert two.last.values(b"host") == [two.authority.encode()]
        assert two.last.values(b"x-own") == [b"1"]
        assert str(one.port).encode() not in two.last.head
        keys = [each.last.values(b"sec-websocket-key") for each in (one, two)]
        assert keys[0] != keys[1]


async def test_an_override_of_a_method_means_nothing(pools):
    """The handshake is a GET, and is made good like any other."""
    override = RouteOverride(
        path="/ws", method="POST", request_headers=HeaderEdits(set={"x-set": "1"})
    )
    async with closing() as one, serve(named("second")) as good:
        pool = UpstreamPool([one.url, good.url], balancer=first, retry=fast())
        app = FastAPI()
        app.include_router(ProxyRouter(pool, overrides=[override]))
        async with serve(app) as served:
            async with websockets.connect(f"{served.ws}/ws", proxy=None) as client:
                assert str(await client.recv()).startswith("second ")

    assert one.last.values(b"x-set") == [b"1"]


async def test_the_budget_is_one_with_that_of_requests(pools):
    """A storm of handshakes is bounded, too."""
    options = {"retry": fast(budget=0, budget_floor=2), "ejection": None, "clock": lambda: 1.0}
    async with refusing() as one, refusing() as two:
        async with pools.gateway_to(one, two, **options) as gw:
            for _ in range(5):
                assert (await refused(gw)).status_code == 502

        assert one.requests + two.requests == 5 + 2


@pytest.mark.parametrize("server", ["uvicorn-httptools", "uvicorn-h11", "hypercorn"])
async def test_a_client_that_leaves_during_the_second_try_leaves_nothing(pools, server):
    """The upstream is told at once, and not blamed; granian tells nothing before the accept."""
    async with closing() as one, silent() as two:
        async with pools.gateway_to(one, two, server=server, retry=fast()) as gw:
            opening = asyncio.create_task(_open(gw))
            await true(two.received.is_set)
            opening.cancel()
            await true(two.closed.is_set)
            await true(gw.idle)
            await asyncio.wait([opening])

        assert [each.failures for each in gw.pool.upstreams] == [1, 0]


@pytest.mark.parametrize("server", ["uvicorn-httptools", "uvicorn-h11", "hypercorn"])
async def test_a_client_that_leaves_before_the_second_try_ends_it(pools, server):
    """The second upstream hears nothing."""

    class Longest(random.Random):
        def uniform(self, a, b):
            return b

    options = {"retry": fast(backoff=60.0, max_backoff=60.0), "chance": Longest()}
    async with closing() as one, raw_upstream() as two:
        async with pools.gateway_to(one, two, server=server, **options) as gw:
            opening = asyncio.create_task(_open(gw))
            await true(one.closed.is_set)
            opening.cancel()
            await asyncio.wait([opening])

        assert two.connections == 0


async def _open(gw) -> None:
    async with dialled(gw):
        pass


async def test_nothing_is_repeated_once_the_client_is_accepted(pools):
    """An upstream that vanishes ends the WebSocket."""

    async def vanish(websocket: WebSocket):
        await websocket.accept()
        await websocket.close(1012)

    app = FastAPI()
    app.add_api_websocket_route("/ws", vanish)
    async with serve(app) as one, serve(named("second")) as two:
        upstreams = (Upstream(one.url), Upstream(two.url))
        async with pools.gateway_to(*upstreams, retry=fast()) as gw:
            async with dialled(gw) as client:
                await client.wait_closed()
                assert client.close_code == 1012

        assert upstreams[1].requests == 0
