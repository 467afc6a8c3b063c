"""Traffic split between pools, through a FastAPI dependency."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

from collections import Counter
from random import Random
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket

from fastapi_proxy_router import (
    Canary,
    ProxyRouter,
    RequestOverride,
    Split,
    Upstream,
    UpstreamPool,
    proxy_pass,
    proxy_pass_websocket,
)
from tests.fast_path.ways import FASTAPI, STRAIGHT, Ways, included
from tests.servers import get_raw, raw_upstream, serve, status
from tests.test_affinity import body, named
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


def forwarding(split: Split) -> FastAPI:
    """Return an app that forwards everything to what a split injects."""
    app = FastAPI()

    @app.get("/")
    async def forward(request: Request, upstream: Annotated[Upstream, Depends(split)]):
        return await proxy_pass(request, upstream)

    @app.websocket("/ws")
    async def relay(websocket: WebSocket, upstream: Annotated[Upstream, Depends(split)]) -> None:
        await proxy_pass_websocket(websocket, upstream)

    return app


async def test_requests_are_split_by_weight(server):
    """And by a header, for those who send it."""
    async with raw_upstream(named("stable")) as one, raw_upstream(named("canary")) as two:
        stable, canary = UpstreamPool(one.url), UpstreamPool(two.url)
        rules = [Canary(canary, header="x-canary", value="always")]
        split = Split({stable: 3, canary: 1}, rules=rules, chance=Random(1))
        async with serve(forwarding(split), server) as gw:
            answers = Counter([body(await get_raw(gw)) for _ in range(40)])
            asked = [body(await get_raw(gw, "/", "X-Canary: always")) for _ in range(5)]

    assert 3 < answers["canary"] < 20
    assert answers["stable"] + answers["canary"] == 40
    assert asked == ["canary"] * 5
    assert two.last.values(b"x-canary") == [b"always"]


async def test_a_websocket_is_split_too(server):
    """By a cookie, which reaches the upstream."""
    async with ws_upstream() as one, ws_upstream() as two:
        stable, canary = UpstreamPool(one.url), UpstreamPool(two.url)
        split = Split({stable: 1}, rules=[Canary(canary, cookie="beta")])
        async with serve(forwarding(split), server) as gw:
            async with dialled(gw, additional_headers={"Cookie": "beta=1"}) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
            async with dialled(gw):
                pass
    assert (len(one.connections), len(two.connections)) == (1, 1)


async def test_how_it_is_forwarded_is_up_to_the_pool():
    """Each has its own policy."""
    async with raw_upstream(named("stable")) as one, raw_upstream(named("canary")) as two:
        stable = UpstreamPool(one.url, preserve_host=True)
        canary = UpstreamPool(two.url, via="canary")
        split = Split({stable: 1}, rules=[Canary(canary, header="x-canary")])
        async with serve(forwarding(split)) as gw:
            await get_raw(gw)
            await get_raw(gw, "/", "X-Canary: 1")

    assert one.last.values(b"host") == [gw.authority.encode()]
    assert (two.last.values(b"host"), two.last.values(b"via")) == (
        [two.authority.encode()],
        [b"1.1 canary"],
    )


async def test_who_asks_for_a_pool_that_cannot_serve_gets_503():
    """With Retry-After; the others get the rest."""
    async with raw_upstream(named("stable")) as one:
        stable, canary = UpstreamPool(one.url), UpstreamPool("http://canary.invalid")
        canary.drain(canary.upstreams[0])
        split = Split({stable: 1, canary: 1}, rules=[Canary(canary, header="x-canary")])
        async with serve(forwarding(split)) as gw:
            assert [status(await get_raw(gw)) for _ in range(10)] == [200] * 10
            answer = await get_raw(gw, "/", "X-Canary: 1")

    assert status(answer) == 503
    assert b"retry-after: 1" in answer.lower()


async def test_a_test_replaces_a_split_like_a_pool():
    """Whatever its pools are."""
    split = Split({UpstreamPool("http://stable.invalid"): 1})
    async with raw_upstream(named("stub")) as stub:
        app = forwarding(split)
        app.dependency_overrides[split] = lambda: Upstream(stub.url)
        async with serve(app) as gw:
            assert body(await get_raw(gw)) == "stub"


async def test_a_router_takes_a_split_for_a_pool(server):
    """HTTP and WebSocket, with a prefix, and each by the policy of the pool that has it."""
    async with raw_upstream(named("stable")) as one, ws_upstream() as two:
        stable, canary = UpstreamPool(one.url, via="stable"), UpstreamPool(two.url, via="canary")
        split = Split({stable: 1}, rules=[Canary(canary, cookie="beta")])
        app = FastAPI()
        app.include_router(ProxyRouter({"/shop": split}))
        async with serve(app, server) as gw:
            assert body(await get_raw(gw, "/shop/x")) == "stable"
            headers = {"Cookie": "beta=1"}
            async with dialled(gw, "/shop/ws", additional_headers=headers) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
    assert (one.last.target, one.last.values(b"via")) == (b"/x", [b"1.1 stable"])
    request = two.connections[0].request
    assert request is not None
    assert (request.path, request.headers["via"]) == ("/ws", "1.1 canary")


async def test_hooks_and_dependencies_work_with_a_split():
    """What is declared on the router runs, and a hook says what is sent."""
    async with raw_upstream(named("stable")) as one:
        split = Split({UpstreamPool(one.url): 1}, name="shop")
        proxy = ProxyRouter(split, dependencies=[Depends(lambda: None)])

        @proxy.override("/old")
        async def old() -> RequestOverride:
            return RequestOverride(path="/new")

        app = FastAPI()
        app.include_router(proxy)
        async with serve(app) as gw:
            assert body(await get_raw(gw, "/old")) == "stable"
            assert body(await get_raw(gw, "/other")) == "stable"
    assert [request.target for request in one.requests] == [b"/new", b"/other"]
    assert proxy.pools == {"": split}


async def test_a_split_with_nothing_else_to_inject_goes_straight():
    """It costs no more of FastAPI than a pool."""
    ways = Ways()
    async with raw_upstream() as upstream:
        split = Split({UpstreamPool(upstream.url, balancer=ways): 1})
        for dependencies in (None, [Depends(lambda: None)]):
            proxy = ProxyRouter(split, dependencies=dependencies)
            async with serve(included(proxy), lifespan="off") as gw:
                assert status(await get_raw(gw)) == 200
    assert ways.seen == [STRAIGHT, FASTAPI]
