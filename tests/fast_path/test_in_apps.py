"""Exception handlers and middleware do the same on the straight way as on FastAPI's."""

import gzip

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from fastapi_proxy_router import BadGateway, GatewayError, RequestRefused
from tests.fast_path.ways import header, included, text
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = pytest.mark.anyio

#: Nobody listens there: it is the discard service.
NOBODY = "http://127.0.0.1:9"


# --- Exception handlers ------------------------------------------------------------------------


@pytest.mark.parametrize("handled", [BadGateway, GatewayError, HTTPException, 502])
async def test_a_handler_words_a_failure_of_the_upstream(way, ways, proxied, handled):
    """It is found by class, by base class and by status, and is given the route's request."""
    app = included(proxied(NOBODY), ("/x",))

    @app.exception_handler(handled)
    async def worded(request: Request, error: GatewayError) -> PlainTextResponse:
        words = f"{request.path_params['upstream_path']} {error.stage} {error.fault}"
        return PlainTextResponse(words, status_code=599)

    async with serve(app) as gw:
        answer = await get_raw(gw, "/x/y")

    assert (status(answer), text(answer)) == (599, b"/y connect upstream")
    assert ways.seen == [way]


async def test_a_handler_words_a_refusal(way, ways, proxied, upstream):
    """RequestRefused is handled alike, and the upstream hears nothing."""
    app = included(proxied())

    @app.exception_handler(RequestRefused)
    async def worded(_request: Request, error: RequestRefused) -> PlainTextResponse:
        return PlainTextResponse(f"no: {error.reason}", status_code=error.status_code)

    async with serve(app) as gw:
        answer = await get_raw(gw, "/a%00b")

    assert (status(answer), text(answer)) == (400, b"no: The path has an illegal character")
    assert (ways.seen, upstream.connections) == ([way], 0)


async def test_without_a_handler_fastapi_words_it(way, ways, proxied):
    """The answer is FastAPI's JSON for an HTTPException."""
    async with serve(included(proxied(NOBODY))) as gw:
        answer = await get_raw(gw)

    assert (status(answer), text(answer)) == (502, b'{"detail":"Bad Gateway"}')
    assert ways.seen == [way]


async def test_a_failure_passes_the_middleware_of_a_mount(way, ways, proxied):
    """It is worded inside of what a mount is wrapped in, so the answer has its headers too."""
    parent, app = APIRouter(), FastAPI()
    parent.include_router(proxied(NOBODY))
    app.mount("/x", CORSMiddleware(parent, allow_origins=["*"]))
    async with serve(app) as gw:
        answer = await get_raw(gw, "/x/y", "Origin: http://page.test")

    assert status(answer) == 502
    assert header(answer, "access-control-allow-origin") == "*"
    assert ways.seen == [way]


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in a middleware"])
async def test_a_response_that_breaks_off_is_not_ended(way, ways, proxied, wrapped):
    """The client's connection is dropped, also behind a BaseHTTPMiddleware."""
    short = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"

    async def script(_reader, writer):
        writer.write(short)

    async with raw_upstream(script) as breaking:
        app = included(proxied(breaking.url))
        if wrapped:
            app.add_middleware(Stamped)
        async with serve(app) as gw:
            answer = await get_raw(gw)

    assert status(answer) == 200
    assert not answer.endswith(b"0\r\n\r\n")
    assert ways.seen == [way]


# --- Middleware --------------------------------------------------------------------------------


class Stamped(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        route = request.scope["route"]
        response.headers["x-stamp"] = f"{request.method} {route.name} {route.path_format}"
        return response


async def test_a_middleware_sees_route_and_response(way, ways, proxied, upstream):
    """A BaseHTTPMiddleware may read the scope and change the headers, also of a POST."""
    app = included(proxied(), ("/x",))
    app.add_middleware(Stamped)
    async with serve(app) as gw:
        answer = await get_raw(gw, "/x/y", method="POST", body=b"hello")

    assert (status(answer), text(answer)) == (200, b"ok")
    assert header(answer, "x-stamp").startswith("POST proxy / ")
    assert upstream.last.body == b"hello"
    assert ways.seen == [way]


async def test_a_body_that_a_middleware_read_arrives(way, ways, proxied, upstream):
    """Starlette replays it, and it is forwarded whole."""

    class Reading(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            assert await request.body() == b"hello"
            return await call_next(request)

    app = included(proxied())
    app.add_middleware(Reading)
    async with serve(app) as gw:
        assert status(await get_raw(gw, method="POST", body=b"hello")) == 200

    assert upstream.last.body == b"hello"
    assert ways.seen == [way]


async def test_cors_is_the_middlewares(way, ways, proxied, upstream):
    """A preflight is answered without the upstream; an answer, and a failure, get the header."""
    app = included(proxied(), ("/x",))
    app.include_router(proxied(NOBODY), prefix="/broken")
    app.add_middleware(CORSMiddleware, allow_origins=["http://page.test"])
    origin = "Origin: http://page.test"
    async with serve(app) as gw:
        asked = "Access-Control-Request-Method: GET"
        assert status(await get_raw(gw, "/x/y", origin, asked, method="OPTIONS")) == 200
        assert upstream.requests == []
        for path, expected in (("/x/y", 200), ("/broken/y", 502)):
            answer = await get_raw(gw, path, origin)
            assert status(answer) == expected
            assert header(answer, "access-control-allow-origin") == "http://page.test"

    assert ways.seen == [way, way]


PAGE = b"<p>hello</p>" * 200


async def test_gzip_is_the_middlewares(way, ways, proxied):
    """A body that the upstream did not compress is compressed on its way out."""
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE
    async with raw_upstream(plain) as upstream:
        app = included(proxied(upstream.url))
        app.add_middleware(GZipMiddleware)
        async with serve(app) as gw:
            answer = await get_raw(gw, "/", "Accept-Encoding: gzip")

    assert header(answer, "content-encoding") == "gzip"
    assert header(answer, "content-length") == str(len(text(answer)))
    assert gzip.decompress(text(answer)) == PAGE
    assert ways.seen == [way]


async def test_gzip_is_not_done_twice(way, ways, proxied):
    """A body that the upstream has compressed is left as it is."""
    page = gzip.compress(PAGE * 100, compresslevel=0)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    async with raw_upstream(head % len(page) + page) as upstream:
        app = included(proxied(upstream.url))
        app.add_middleware(GZipMiddleware)
        async with serve(app) as gw:
            answer = await get_raw(gw, "/", "Accept-Encoding: gzip")

    assert header(answer, "content-encoding") == "gzip"
    assert text(answer) == page
    assert ways.seen == [way]


async def test_a_middleware_replaces_a_header(way, ways, proxied):
    """Names are in lower case, as ASGI wants them, or a middleware would not find its header."""

    class Private(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            response = await call_next(request)
            assert response.headers["cache-control"] == "public"
            response.headers["Cache-Control"] = "no-store"
            return response

    ok = b"HTTP/1.1 200 OK\r\nCache-Control: public\r\nContent-Length: 2\r\n\r\nok"
    async with raw_upstream(ok) as upstream:
        app = included(proxied(upstream.url))
        app.add_middleware(Private)
        async with serve(app) as gw:
            answer = await get_raw(gw)

    assert (status(answer), header(answer, "cache-control")) == (200, "no-store")
    assert ways.seen == [way]
