"""Which way requests of a router with hooks go: past FastAPI wherever that has nothing to do."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
from typing import Any

import pytest
from fastapi import Depends, Request, Response
from fastapi.responses import PlainTextResponse

from fastapi_proxy_router import (
    ErrorPage,
    ForwardedResponse,
    GatewayError,
    ProxyRouter,
    ResponseOverride,
    RouteOverride,
    UpstreamPool,
)
from tests.fast_path.ways import FASTAPI, STRAIGHT, Ways, included
from tests.hooks.helping import tell, text, until
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def nothing() -> None:
    """Be a dependency."""


@pytest.fixture
async def upstream():
    async with raw_upstream() as served:
        yield served


DECLARED: dict[str, Any] = {
    "nothing": {},
    "an override": {"overrides": [RouteOverride(path="/{p:path}", rewrite="/y")]},
    "a page": {
        "overrides": [
            RouteOverride(path="/x", error_pages=[ErrorPage(statuses=[404], text="none")])
        ]
    },
}


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("hook", [None, "on_request", "on_send", "on_response"])
async def test_without_dependencies_it_is_the_straight_way(declared, hook, upstream):
    """Whatever is declared, and whichever hooks there are."""
    ways, called = Ways(), []

    def note() -> None:
        called.append(hook)

    proxy = ProxyRouter(UpstreamPool(upstream.url, balancer=ways), **DECLARED[declared])
    if hook is not None:
        getattr(proxy, hook)(note)
    async with serve(included(proxy)) as gw:
        assert status(await get_raw(gw, "/x")) == 200
    assert ways.seen == [STRAIGHT]
    assert called == ([] if hook is None else [hook])


@pytest.mark.parametrize("hook", ["on_request", "on_response"])
async def test_with_a_dependency_it_is_fastapis_way(hook, upstream):
    """And the hook is called there as well."""
    ways, called = Ways(), []

    def note() -> None:
        called.append(hook)

    pool = UpstreamPool(upstream.url, balancer=ways)
    proxy = ProxyRouter(pool, dependencies=[Depends(nothing)])
    getattr(proxy, hook)(note)
    async with serve(included(proxy)) as gw:
        assert status(await get_raw(gw, "/x")) == 200
    assert (ways.seen, called) == ([FASTAPI], [hook])


async def test_a_hook_of_one_route_leaves_the_others_on_the_straight_way(upstream):
    """They have nothing to do with it."""
    ways = Ways()
    proxy = ProxyRouter(UpstreamPool(upstream.url, balancer=ways))
    proxy.override("/hooked")(lambda: tell(hooked=1))
    async with serve(included(proxy)) as gw:
        for path in ("/x", "/hooked", "/y"):
            assert status(await get_raw(gw, path)) == 200
    assert ways.seen == [STRAIGHT, FASTAPI, STRAIGHT]


ENDS: dict[str, Any] = {
    "as it came": (lambda: None, 200),
    "another body": (lambda: ResponseOverride(text="other"), 200),
    "another response": (lambda: PlainTextResponse("other", 203), 203),
}


@pytest.mark.parametrize("end", ENDS)
async def test_nobody_listens_to_a_client_that_was_answered(end, upstream):
    """When the application returns, whatever the hook has made of the response."""
    make, code = ENDS[end]
    pool = UpstreamPool(upstream.url)
    proxy = ProxyRouter(pool)
    during: set[str] = set()
    after: set[str] = set()

    @proxy.on_response
    async def slowly(response: ForwardedResponse) -> Any:
        # The gateway begins to listen to a client that waits.
        await until(_listeners)
        during.update(_listeners())
        return make()

    app = included(proxy)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        if scope["type"] == "http":
            after.update(_listeners())

    async with serve(watched) as gw:
        assert status(await get_raw(gw, "/x")) == code
    assert (len(during), after) == (1, set())
    assert pool.upstreams[0].in_flight == 0


def _listeners() -> set[str]:
    return {
        task.get_name()
        for task in asyncio.all_tasks()
        if task.get_name() == "proxy listen to client"
    }


@pytest.mark.parametrize("depends", [True, False])
async def test_both_ways_answer_alike(depends):
    """What hooks do of a failure, too."""
    options: dict[str, Any] = {"dependencies": [Depends(nothing)]} if depends else {}
    proxy = ProxyRouter("http://127.0.0.1:1", **options)
    seen: list[str] = []

    @proxy.on_request
    def first(request: Request) -> Response | None:
        return PlainTextResponse("first") if request.url.path == "/first" else None

    @proxy.on_response
    def last(response: ForwardedResponse | None, error: GatewayError | None) -> Response:
        seen.append(type(error).__name__)
        return PlainTextResponse("last", 203)

    async with serve(included(proxy)) as gw:
        assert text(await get_raw(gw, "/first")) == b"first"
        answer = await get_raw(gw, "/x")
    assert (status(answer), text(answer), seen) == (203, b"last", ["BadGateway"])
