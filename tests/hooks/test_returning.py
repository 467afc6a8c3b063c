"""Hooks of requests: what they return, and what the upstream gets then."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import Depends, Form, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, RootModel

from fastapi_proxy_router import (
    HeaderEdits,
    OutboundRequest,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
    UpstreamPool,
)
from tests.hooks.helping import app_of, json_answer, lines, proxied, tell, text
from tests.servers import get_raw, raw_upstream, send_raw, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


PATHS = [
    "/x/a%2Fb//c?q=%20+&&z",
    "/x/%7Euser/caf%C3%A9;v=1",
    "/x/",
    "/x/a//",
    "/x/a%252Fb?",
    "/x/%E9",
]


@pytest.mark.parametrize("target", PATHS)
async def test_nothing_leaves_the_request_as_the_catch_all_would(target):
    """Byte for byte, with all that is announced."""
    async with raw_upstream() as upstream:
        plain = ProxyRouter({"/x": f"{upstream.url}/base"}, prefix="/api")
        hooked = ProxyRouter({"/x": f"{upstream.url}/base"}, prefix="/hook")

        @hooked.override("/x/{rest:path}", methods=["POST"])
        async def hook(rest: str) -> None:
            """Change nothing."""

        async with serve(app_of(plain, hooked)) as gw:
            for prefix in ("/api", "/hook"):
                headers = ("Content-Type: text/x", "X-Odd:  kept", "Cookie: a=1")
                answer = await get_raw(gw, prefix + target, *headers, method="POST", body=b"\0body")
                assert status(answer) == 200
        first, second = upstream.requests
        assert second.head.replace(b"/hook", b"/api") == first.head
        assert second.body == first.body == b"\0body"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/a"])
async def test_the_path_of_a_hook_may_be_the_prefix_of_a_mapping(path):
    """It is cut off there too."""
    async with raw_upstream() as upstream:
        proxy = ProxyRouter({"/v1": upstream.url, "/": "http://127.0.0.1:1"})

        @proxy.override(path)
        async def hook() -> RequestOverride:
            return tell(hooked=1)

        async with serve(app_of(proxy)) as gw:
            assert status(await get_raw(gw, path)) == 200
        assert upstream.last.target == (path.removeprefix("/v1") or "/").encode()
        assert upstream.last.values(b"x-hooked") == [b"1"]


async def _body(request: Request) -> None:
    await request.body()


async def _json(request: Request) -> None:
    await request.json()


async def _form(request: Request) -> None:
    await request.form()


async def _stream(request: Request) -> None:
    async for _ in request.stream():
        pass


READERS = {"body": _body, "json": _json, "stream": _stream, "form": _form}


@pytest.mark.parametrize("where", ["hook", "dependency", "router-wide"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_whoever_reads_the_body_leaves_it_there(reader, where, framing):
    """All of it is sent to the upstream, with the framing of the client."""
    async with proxied() as one:
        read = READERS[reader]
        if where == "router-wide":

            @one.router.on_request
            async def wide(request: Request) -> None:
                await read(request)

        elif where == "hook":

            @one.router.override("/x", methods=["POST"])
            async def hook(request: Request) -> None:
                await read(request)

        else:

            @one.router.override("/x", methods=["POST"], dependencies=[Depends(read)])
            async def depending() -> None:
                """Change nothing."""

        body = b'{"a": 1}'
        head = b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        if reader == "form":
            head += b"Content-Type: application/x-www-form-urlencoded\r\n"
        if framing == "length":
            head += b"Content-Length: 8\r\n\r\n" + body
        else:
            head += b'Transfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n5\r\n": 1}\r\n0\r\n\r\n'
        async with one.serve() as gw:
            assert status(await send_raw(gw, head)) == 200
        assert body in one.upstream.last.body.replace(b"\r\n5\r\n", b"")


@pytest.mark.parametrize("where", ["hook", "router-wide"])
async def test_a_body_that_a_hook_reads_has_a_limit(where):
    """More of it is a 413, and the upstream hears nothing."""
    async with proxied() as one:
        if where == "hook":

            @one.router.override("/x", methods=["POST"], body_limit=10)
            async def hook(request: Request) -> None:
                await request.body()

        else:

            @one.router.on_request
            async def wide(request: Request) -> None:
                await request.body()

        size = 11 if where == "hook" else 1024 * 1024 + 1
        request = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
        async with one.serve() as gw:
            assert status(await send_raw(gw, request)) == 413
        assert one.upstream.connections == 0


async def test_a_client_that_leaves_while_a_hook_reads_its_body_is_noticed():
    """The hook ends, and the upstream hears nothing."""
    entered, ended = asyncio.Event(), asyncio.Event()
    async with proxied() as one:

        @one.router.override("/x", methods=["POST"])
        async def hook(request: Request) -> None:
            entered.set()
            try:
                await request.body()
            finally:
                ended.set()

        async with one.serve() as gw:
            _, writer = await asyncio.open_connection(gw.host, gw.port)
            writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            async with asyncio.timeout(3):
                await entered.wait()
                writer.close()
                await writer.wait_closed()
                await ended.wait()
        assert one.upstream.connections == 0


async def test_a_form_over_the_limit_is_a_413():
    """Also where FastAPI reads it."""
    async with proxied() as one:

        @one.router.override("/x", methods=["POST"], body_limit=10)
        async def hook(a: Annotated[str, Form()]) -> None:
            pytest.fail("it was called")

        async with one.serve() as gw:
            kind = "Content-Type: application/x-www-form-urlencoded"
            assert status(await get_raw(gw, "/x", kind, method="POST", body=b"a=123456789")) == 413
        assert one.upstream.connections == 0


async def test_a_hook_that_reads_a_header_only_leaves_bodies_of_any_size_alone():
    """They are far over the limit, and stream."""
    async with proxied() as one:

        @one.router.override("/x", methods=["POST"], body_limit=10)
        async def hook(request: Request) -> RequestOverride:
            return tell(kind=request.headers["content-type"])

        body = b"x" * 3_000_000
        async with one.serve() as gw:
            kind = "Content-Type: multipart/form-data; boundary=x"
            assert status(await get_raw(gw, "/x", kind, method="POST", body=body)) == 200
        assert one.upstream.last.body == body


@pytest.mark.parametrize("available", [True, False])
async def test_a_response_is_the_answer_at_once(available, server):
    """With its status, headers and body; also when there is no upstream."""
    async with proxied(server=server) as one:
        if not available:
            one.pool.remove(one.pool.upstreams[0])

        @one.router.override("/x")
        async def hook() -> JSONResponse:
            return JSONResponse({"a": 1}, 202, headers={"x-a": "b"})

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert (status(answer), text(answer)) == (202, b'{"a":1}')
        assert lines(answer, "x-a") == ["b"]
        assert one.upstream.connections == 0


class Reading(BaseModel):
    """A body."""

    value: int


RETURNED: dict[str, Any] = {
    "a number": 5,
    "a dict": {"value": 1},
    "a list": [Reading(value=1)],
    "text": "x",
    "true": True,
    "the override of a response": ResponseOverride(status=204),
    "a class": Reading,
    "an exception": HTTPException(404),
}


@pytest.mark.parametrize("kind", RETURNED)
@pytest.mark.parametrize("phase", ["override", "override_response", "on_request", "on_response"])
async def test_whatever_else_a_hook_returns_is_a_500(kind, phase):
    """It is a mistake of ours: the upstream is not blamed, and none of it leaks."""
    result = RETURNED[kind]
    if phase.endswith("response") and isinstance(result, ResponseOverride):
        result = RequestOverride(path="/other")
    async with proxied(json_answer("{}")) as one:
        decorate = getattr(one.router, phase)

        def hook():
            return result

        (decorate("/x") if phase.startswith("override") else decorate)(hook)
        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert status(answer) == 500
        assert b"hook" not in answer
        assert bool(one.upstream.requests) == phase.endswith("response")


async def test_a_root_model_is_a_body_too():
    """A list is one: it is the way to return it."""
    async with proxied() as one:

        @one.router.override("/x", methods=["PUT"])
        async def hook() -> RootModel[list[int]]:
            return RootModel[list[int]]([1, 2])

        async with one.serve() as gw:
            await get_raw(gw, "/x", method="PUT")
        assert one.upstream.last.body == b"[1,2]"


@pytest.mark.parametrize("spelling", ["x-user", "X-USER", "x_user", "X_uSeR"])
@pytest.mark.parametrize("kind", ["override", "on_request", "on_send"])
async def test_a_value_that_a_hook_sets_replaces_every_spelling_of_the_name(kind, spelling):
    """What the client sent under another one is gone."""
    async with proxied() as one:
        edits = RequestOverride(headers=HeaderEdits(set={"X-User": "bob"}))
        if kind == "override":
            one.router.override("/x")(lambda: edits)
        elif kind == "on_request":
            one.router.on_request(lambda: edits)
        else:

            @one.router.on_send
            def send(outbound: OutboundRequest) -> None:
                outbound.headers["X-User"] = "bob"

        async with one.serve() as gw:
            await get_raw(gw, "/x", f"{spelling}: eve", f"{spelling.swapcase()}: eve2")
        found = [pair for pair in one.upstream.last.headers if b"user" in pair[0]]
        assert found == [(b"x-user", b"bob")]


async def test_a_hook_may_return_an_upstream_of_its_own():
    """One that is in no pool."""
    async with raw_upstream() as other, proxied() as one:
        pool = UpstreamPool(other.url)

        @one.router.override("/x")
        async def hook() -> RequestOverride:
            return RequestOverride(upstream=pool.upstreams[0], path="/y")

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 200
        assert other.last.target == b"/y"
        assert one.upstream.connections == 0
        assert pool.upstreams[0].in_flight == 0


async def test_the_answer_of_a_hook_can_be_awaited_text():
    """Any class of responses will do, from a hook that is a plain function too."""
    async with proxied() as one:

        @one.router.override("/x")
        def hook() -> PlainTextResponse:
            return PlainTextResponse("here")

        async with one.serve() as gw:
            assert text(await get_raw(gw, "/x")) == b"here"
