"""Fixed responses: an answer without an upstream."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import HeaderEdits, ProxyRouter, ResponseOverride, RouteOverride
from tests.declared.gateways import (
    LIMIT,
    Gateway,
    Got,
    application,
    empty,
    gateway,
    on_one_connection,
)
from tests.declared.test_pages import free_port
from tests.servers import raw_upstream, serve
from tests.test_relay import HANDSHAKE, dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

BACK_SOON = ResponseOverride(
    status=503,
    text="Back soon",
    headers=HeaderEdits(set={"retry-after": "60"}, add={"x": ["1", "2"]}),
)


def answering(answer: ResponseOverride, path: str = "/{rest:path}", **fields) -> RouteOverride:
    return RouteOverride(path=path, answer=answer, **fields)


ANSWERS: list[tuple[ResponseOverride, int, bytes, dict[str, list[bytes]]]] = [
    (
        BACK_SOON,
        503,
        b"Back soon",
        {
            "content-type": [b"text/plain; charset=utf-8"],
            "content-length": [b"9"],
            "retry-after": [b"60"],
            "x": [b"1", b"2"],
        },
    ),
    (ResponseOverride(), 200, b"", {"content-type": [], "content-length": [b"0"]}),
    (ResponseOverride(text="\xe9"), 200, b"\xc3\xa9", {"content-length": [b"2"]}),
    (
        ResponseOverride(text="<p>", media_type="text/html"),
        200,
        b"<p>",
        {"content-type": [b"text/html; charset=utf-8"]},
    ),
    (ResponseOverride(json=[1]), 200, b"[1]", {"content-type": [b"application/json"]}),
    (ResponseOverride(json=None), 200, b"null", {"content-type": [b"application/json"]}),
    (
        ResponseOverride(body=b"\x00\xff"),
        200,
        b"\x00\xff",
        {"content-type": [b"application/octet-stream"]},
    ),
    (ResponseOverride(status=204), 204, b"", {"content-type": [], "content-length": []}),
    (
        ResponseOverride(status=301, headers=HeaderEdits(set={"location": "/new?x=1"})),
        301,
        b"",
        {"location": [b"/new?x=1"]},
    ),
    (
        ResponseOverride(headers=HeaderEdits(add={"set-cookie": ["a=1", "b=2"]})),
        200,
        b"",
        {"set-cookie": [b"a=1", b"b=2"]},
    ),
]


@pytest.mark.parametrize(("answer", "status", "body", "lines"), ANSWERS)
async def test_what_an_answer_is(answer, status, body, lines, server):
    """Its status, its body and its headers; the upstream hears nothing."""
    async with gateway(answering(answer), server=server) as gw:
        got = await gw.get("/x?y")

        assert (got.status, got.body) == (status, body)
        assert {name: got.values(name) for name in lines} == lines
        assert gw.upstream.connections == 0


async def test_in_every_way(way, server):
    """Also for other methods, and only where it matches."""
    async with gateway(answering(BACK_SOON, "/off/{p:path}"), way=way, server=server) as gw:
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            got = await gw.get("/off/x", method=method)
            assert (got.status, got.body) == (503, b"Back soon")
        assert (await gw.get("/on")).status == 200
        assert len(gw.upstream.requests) == 1


async def test_a_head_gets_the_headers_alone(way, server):
    """Those that a GET would get."""
    async with gateway(answering(BACK_SOON), way=way, server=server) as gw:
        got = await gw.get(method="HEAD")

        assert (got.status, got.body) == (503, b"")
        assert got.values("content-length") == [b"9"]


@pytest.mark.parametrize("kind", ["length", "chunked"])
async def test_an_unread_body_does_not_become_the_next_request(way, server, kind):
    """What looks like a request in it is part of it."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    framing, body = b"Content-Length: %d" % len(hidden), hidden
    if kind == "chunked":
        framing = b"Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    first = b"POST /off HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + body
    last = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with gateway(answering(BACK_SOON, "/off"), way=way, server=server) as gw:
        got = await on_one_connection(gw, [first, last])

        assert (got[0].status, got[0].body) == (503, b"Back soon")
        lines = [request.line for request in gw.upstream.requests]
        assert lines in ([], [b"GET /next HTTP/1.1"])
        assert lines or got[0].values("connection") == [b"close"]


async def test_a_large_upload_gets_its_answer(way, server):
    """A client that sends all of it before it reads is not cut off."""
    size = 512 * 1024
    async with gateway(answering(BACK_SOON), way=way, server=server) as gw:
        async with asyncio.timeout(LIMIT):
            got = await gw.get("/off", method="POST", body=b"x" * size)

        assert (got.status, got.body) == (503, b"Back soon")


@pytest.mark.parametrize("down", ["nobody", "refuses"])
async def test_although_all_upstreams_are_down(way, server, down):
    """Nobody is picked for it."""
    upstreams = empty() if down == "nobody" else f"http://127.0.0.1:{free_port()}"
    app = application(upstreams, answering(BACK_SOON), way=way)
    async with serve(app, server) as served:
        got = await Gateway(served.port).get("/x")

    assert (got.status, got.body) == (503, b"Back soon")
    assert got.values("retry-after") == [b"60"]


async def test_dependencies_run_before_it(server):
    """Who may not come in does not hear that there is nobody home."""

    async def signed_in(x_key: str = Header()):
        if x_key != "k":
            raise HTTPException(403)

    async with raw_upstream() as upstream:
        app = FastAPI()
        router = ProxyRouter(upstream.url, overrides=[answering(BACK_SOON)])
        app.include_router(router, dependencies=[Depends(signed_in)])
        async with serve(app, server) as served:
            gw = Gateway(served.port)
            assert (await gw.get("/x")).status == 422
            assert (await gw.get("/x", "X-Key: no")).status == 403
            assert (await gw.get("/x", "X-Key: k")).status == 503
        assert upstream.connections == 0


async def test_it_comes_before_the_hook_of_the_route():
    """A hook has nothing to say of what is not forwarded, but what it wants is checked still."""
    called = []
    router = ProxyRouter("http://down.test", overrides=[answering(BACK_SOON)])

    @router.override("/x")
    async def hook(page: int) -> None:
        called.append(page)

    app = FastAPI()
    app.include_router(router)
    async with serve(app) as served:
        gw = Gateway(served.port)
        assert (await gw.get("/x?page=1")).status == 503
        assert (await gw.get("/x?page=one")).status == 422

    assert called == []


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (BACK_SOON, 503, b"Back soon"),
        (ResponseOverride(status=403), 403, b""),
        (ResponseOverride(status=204), 204, b""),
    ],
)
async def test_a_handshake_is_refused_with_it(answer, status, body, server):
    """With its status, its headers and its body, where the server can send them."""
    async with ws_upstream() as upstream:
        app = application(upstream.url, answering(answer))
        async with serve(app, server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/x"):
                    pass

        response = refused.value.response
        assert (response.status_code, bytes(response.body or b"")) == (status, body)
        if status == 503:
            assert response.headers["Retry-After"] == "60"
        assert upstream.connections == []


async def test_a_handshake_is_redirected(server):
    """A client that follows redirects learns where to."""
    moved = ResponseOverride(status=307, headers=HeaderEdits(set={"location": "/new"}))
    app = application("http://down.test", answering(moved))
    async with serve(app, server) as served:
        handshake = HANDSHAKE.replace(b"Host: x", b"Host: x\r\nOrigin: http://x")
        reader, writer = await asyncio.open_connection(served.host, served.port)
        try:
            writer.write(handshake)
            async with asyncio.timeout(LIMIT):
                got = Got(await reader.readuntil(b"\r\n\r\n"))
        finally:
            writer.close()

    assert got.status == 307
    assert got.values("location") == [b"/new"]


async def test_a_handshake_is_never_accepted_by_a_success(server):
    """An answer with 200 is a refusal of a WebSocket, too."""
    async with ws_upstream() as upstream:
        app = application(upstream.url, answering(ResponseOverride(text="hello")))
        async with serve(app, server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/x"):
                    pass

        assert refused.value.response.status_code >= 200
        assert upstream.connections == []


async def test_it_comes_before_the_hook_of_a_websocket(server):
    """Neither the hook nor the upstream hears of the handshake."""
    called = []
    async with ws_upstream() as upstream:
        router = ProxyRouter(upstream.url, overrides=[answering(BACK_SOON)])

        @router.override_websocket("/x")
        async def hook() -> None:
            called.append("hook")

        app = FastAPI()
        app.include_router(router)
        async with serve(app, server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/x"):
                    pass

        assert refused.value.response.status_code == 503
        assert called == []
        assert upstream.connections == []
