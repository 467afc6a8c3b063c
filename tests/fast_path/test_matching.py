"""A match that somebody else looked for decides nothing about the way of a request."""

import pytest
from fastapi import Depends, FastAPI, HTTPException
from starlette.requests import HTTPConnection

from fastapi_proxy_router import ProxyRouter
from tests.fast_path.ways import STRAIGHT, included
from tests.servers import get_raw, serve, status

pytestmark = pytest.mark.anyio


def guard(connection: HTTPConnection) -> None:
    """Let nobody in."""
    raise HTTPException(401)


class Looking:
    """A middleware that asks every route whether it matches, as metrics and tracers do."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            for route in scope["app"].routes:
                route.matches(scope)
        await self.app(scope, receive, send)


class Shortened:
    """A middleware that takes the first segment off the path."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            for key in ("path", "raw_path"):
                scope[key] = scope[key][len("/v1") :]
        await self.app(scope, receive, send)


async def test_a_match_that_was_only_looked_for_skips_nothing(pool, ways, upstream):
    """A guarded router is guarded although an open one has matched the same request before."""
    app = FastAPI()
    closed = ProxyRouter(upstream.url)
    app.include_router(closed, prefix="/closed", dependencies=[Depends(guard)])
    app.include_router(ProxyRouter(pool))
    app.add_middleware(Looking)
    async with serve(app) as gw:
        assert status(await get_raw(gw, "/closed/x")) == 401
        assert status(await get_raw(gw, "/open/x")) == 200

    assert ways.seen == [STRAIGHT]
    assert [request.target for request in upstream.requests] == [b"/open/x"]


async def test_a_match_with_another_path_skips_nothing(pool, upstream):
    """A route of the router's own is found although its catch-all has matched the path before."""
    proxy = ProxyRouter(pool)

    @proxy.get("/own", dependencies=[Depends(guard)])
    async def own() -> str:
        return "own"

    app = included(proxy)
    app.add_middleware(Shortened)
    app.add_middleware(Looking)
    async with serve(app) as gw:
        assert status(await get_raw(gw, "/v1/own")) == 401
        assert status(await get_raw(gw, "/v1/x")) == 200

    assert [request.target for request in upstream.requests] == [b"/x"]
