"""Scope, methods, limits and mounts are the same on the straight way as on FastAPI's."""

import inspect
from typing import Any

import fastapi.routing
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from starlette.requests import HTTPConnection

from fastapi_proxy_router import ProxyRouter, Upstream
from tests.fast_path.ways import FASTAPI, STRAIGHT, header, included, text
from tests.servers import get_raw, raw_upstream, send_raw, serve, status

pytestmark = pytest.mark.anyio

#: FastAPI includes routers without copying their routes, and keeps a record for each inclusion.
LAZY = hasattr(fastapi.routing, "_EffectiveRouteContext")


async def test_the_scope_names_the_route(way, ways, proxied):
    """What a log or a tracer reads from the scope is there, with the parameters of all prefixes."""
    seen: list[Any] = []
    app = included(proxied(), ("/{tenant}", "/x"))

    class Noting:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)
            if scope["type"] == "http":
                route = scope["route"]
                seen.append((route.name, scope["path_params"], callable(scope["endpoint"])))

    app.add_middleware(Noting)
    async with serve(app) as gw:
        assert status(await get_raw(gw, "/june/x/a/b")) == 200

    assert seen == [("proxy /", {"tenant": "june", "upstream_path": "/a/b"}, True)]
    assert ways.seen == [way]


@pytest.mark.skipif(not LAZY, reason="an older FastAPI has no such record")
async def test_the_scope_has_fastapis_record(way, ways, proxied):
    """Metrics and tracers read in it the whole path of the route, with all prefixes."""
    seen: list[Any] = []
    app = included(proxied(), ("/{tenant}", "/x"))

    async def noting(scope, receive, send):
        await app(scope, receive, send)
        if scope["type"] == "http":
            seen.append(scope["fastapi"]["effective_route_context"].path)

    async with serve(noting) as gw:
        assert status(await get_raw(gw, "/june/x/a")) == 200

    assert seen == ["/{tenant}/x{upstream_path:proxy_rest}"]
    assert ways.seen == [way]


async def test_a_balancer_may_ask_for_the_method(way, proxied, upstream):
    """It is given FastAPI's kind of request, whichever way that comes."""
    asked: list[str] = []

    def balancer(upstreams: list[Upstream], connection: HTTPConnection) -> Upstream:
        assert isinstance(connection, Request)
        asked.append(f"{connection.method} {connection.path_params['upstream_path']}")
        return upstreams[0]

    proxy = proxied()
    proxy.pools[""].balancer = balancer
    async with serve(included(proxy)) as gw:
        assert status(await get_raw(gw, "/a", method="DELETE")) == 200

    assert asked == ["DELETE /a"]


async def test_head_has_no_body(way, ways, proxied, upstream):
    """HEAD is forwarded as HEAD, and its answer tells the length of a body that is not there."""
    async with raw_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n") as empty:
        async with serve(included(proxied(empty.url))) as gw:
            answer = await get_raw(gw, method="HEAD")
        assert empty.last.line.startswith(b"HEAD ")

    assert (header(answer, "content-length"), text(answer)) == ("7", b"")
    assert ways.seen == [way]


async def test_options_is_forwarded(way, ways, proxied, upstream):
    """OPTIONS without CORS is the upstream's to answer."""
    async with serve(included(proxied())) as gw:
        assert text(await get_raw(gw, method="OPTIONS")) == b"ok"

    assert upstream.last.line == b"OPTIONS / HTTP/1.1"
    assert ways.seen == [way]


async def test_another_method_is_not_allowed(way, ways, proxied, upstream):
    """A method that is not forwarded is 405 with Allow, worded by the app."""
    app = included(proxied(methods=["GET"]))

    @app.exception_handler(405)
    async def worded(_request: Request, error: HTTPException) -> PlainTextResponse:
        return PlainTextResponse("not that", status_code=405, headers=error.headers)

    async with serve(app) as gw:
        answer = await get_raw(gw, method="POST", body=b"x")
        assert (status(answer), header(answer, "allow")) == (405, "GET")
        assert text(answer) == b"not that"
        assert status(await get_raw(gw)) == 200

    assert (ways.seen, len(upstream.requests)) == ([way], 1)


@pytest.mark.skipif(
    "max_body_size" not in inspect.signature(APIRouter).parameters, reason="a newer FastAPI's"
)
@pytest.mark.parametrize("place", ["app", "include", "router"])
async def test_a_limit_for_bodies_holds(pool, ways, upstream, place):
    """max_body_size is FastAPI's to enforce, wherever it is declared, also for chunks."""

    def at(here: str) -> dict[str, Any]:
        return {"max_body_size": 4} if place == here else {}

    app = FastAPI(**at("app"))
    app.include_router(ProxyRouter(pool, **at("router")), **at("include"))
    async with serve(app) as gw:
        assert status(await get_raw(gw, method="POST", body=b"1234")) == 200
        assert status(await get_raw(gw, method="POST", body=b"12345")) == 413
        chunked = (
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert status(await send_raw(gw, chunked + b"5\r\n12345\r\n0\r\n\r\n")) == 413

    assert [request.body for request in upstream.requests if request.body] == [b"1234"]
    assert STRAIGHT not in ways.seen


# --- Without include_router --------------------------------------------------------------------


def mounted(proxy: ProxyRouter) -> FastAPI:
    app = FastAPI()
    app.mount("/x", proxy)
    return app


def mounted_below(proxy: ProxyRouter) -> FastAPI:
    parent, app = APIRouter(), FastAPI()
    parent.mount("/x", proxy)
    app.include_router(parent)
    return app


def listed(proxy: ProxyRouter) -> FastAPI:
    return FastAPI(routes=proxy.routes)


def guard(connection: HTTPConnection) -> None:
    if "authorization" not in connection.headers:
        raise HTTPException(401)


includes_mounts = pytest.mark.skipif(not LAZY, reason="an older FastAPI does not include mounts")


@pytest.mark.parametrize(
    ("build", "path"),
    [(mounted, "/x/y"), pytest.param(mounted_below, "/x/y", marks=includes_mounts), (listed, "/y")],
)
async def test_a_router_that_is_not_included_keeps_its_dependencies(
    pool, ways, upstream, build, path
):
    """Mounted as an application, or with its routes handed over, it is still guarded."""
    async with serve(build(ProxyRouter(pool, dependencies=[Depends(guard)]))) as gw:
        assert status(await get_raw(gw, path)) == 401
        assert status(await get_raw(gw, path, "Authorization: Bearer good")) == 200

    assert upstream.last.target == b"/y"
    assert ways.seen == [FASTAPI]


async def test_a_request_that_fastapi_traces_is_left_to_it(pool, ways):
    """Its own tracing has spans for what the straight way leaves out."""
    app = included(ProxyRouter(pool))

    async def traced(scope, receive, send):
        await app({**scope, "fastapi.telemetry": None}, receive, send)

    async with serve(traced) as gw:
        assert status(await get_raw(gw)) == 200

    assert ways.seen == [FASTAPI]


@pytest.mark.skipif(LAZY, reason="a newer FastAPI keeps them to itself")
async def test_an_application_around_a_route_is_not_gone_past(pool, ways):
    """A route's ``app`` may be wrapped, where FastAPI lets one see the routes it has included."""
    app = included(ProxyRouter(pool))
    called: list[str] = []

    def around(inner):
        async def outer(scope, receive, send):
            called.append(scope["method"])
            await inner(scope, receive, send)

        return outer

    routes: list[Any] = app.routes
    for route in routes:
        if getattr(route, "methods", None) and route.name == "proxy /":
            route.app = around(route.app)
    async with serve(app) as gw:
        assert status(await get_raw(gw)) == 200

    assert (called, ways.seen) == (["GET"], [FASTAPI])


@pytest.mark.skipif(not LAZY, reason="an older FastAPI has no such record")
async def test_a_record_that_is_not_where_it_was_is_left_to_fastapi(pool, ways, monkeypatch):
    """A FastAPI that keeps its record elsewhere is asked itself, so nothing is skipped."""
    monkeypatch.setattr(fastapi.routing, "_FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY", "elsewhere")
    app = FastAPI(dependencies=[Depends(guard)])
    app.include_router(ProxyRouter(pool))
    async with serve(app) as gw:
        assert status(await get_raw(gw)) == 401
        assert status(await get_raw(gw, "/", "Authorization: Bearer good")) == 200

    assert ways.seen == [FASTAPI]
