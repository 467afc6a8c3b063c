"""Hooks of responses: what they are given, and what the client gets."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import gzip
import logging
import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from fastapi_proxy_router import (
    ForwardedResponse,
    GatewayError,
    HeaderEdits,
    ResponseOverride,
    Upstream,
)
from tests.hooks.helping import answering, json_answer, lines, proxied, text
from tests.servers import get_raw, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


class User(BaseModel):
    """What the upstream knows, of which the client may see the name."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(serialization_alias="userName")


@dataclass
class Plain:
    """The same as a dataclass."""

    name: str


class Typed(TypedDict):
    """The same as a dict."""

    name: str


SECRET = '{"name": "Ann", "password": "hunter2"}'
CODINGS = {
    "none": (SECRET.encode(), []),
    "gzip": (gzip.compress(SECRET.encode()), ["Content-Encoding: gzip"]),
    "x-gzip": (gzip.compress(SECRET.encode()), ["Content-Encoding: X-GZip"]),
    "deflate": (zlib.compress(SECRET.encode()), ["Content-Encoding: deflate"]),
}


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_model_is_parsed_from_the_upstreams_json_and_another_is_sent(coding, server):
    """Decompressed for it; the client gets the new body and headers that go with it."""
    body, headers = CODINGS[coding]
    answer = answering(
        body,
        "Content-Type: application/json",
        'ETag: "strong"',
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "X-Other: kept",
        "Accept-Ranges: bytes",
        *headers,
    )
    async with proxied(answer, server) as one:

        @one.router.override_response("/users/{id}")
        async def mask(user: User, id: int) -> User:
            return User(name=f"{user.name} {id}")

        async with one.serve() as gw:
            got = await get_raw(gw, "/users/7", "Accept-Encoding: br, gzip")
        assert (status(got), text(got)) == (200, b'{"userName":"Ann 7"}')
        assert lines(got, "content-length") == ["20"]
        assert lines(got, "content-type") == ["application/json"]
        assert lines(got, "set-cookie") == ["a=1", "b=2"]
        assert lines(got, "etag") in ([], ['W/"strong"'])
        assert lines(got, "x-other") == ["kept"]
        for gone in ("content-encoding", "accept-ranges"):
            assert lines(got, gone) == []
        accepted = b",".join(one.upstream.last.values(b"accept-encoding"))
        assert b"br" not in accepted


@pytest.mark.parametrize("kind", [User, Plain, Typed, list[User], dict[str, Any], User | None])
async def test_whatever_pydantic_reads_may_be_the_body(kind):
    """As it may be that of a request."""
    listed = str(kind).startswith("list")
    seen: list[Any] = []
    async with proxied(json_answer('[{"name": "Ann"}]' if listed else '{"name": "Ann"}')) as one:

        @one.router.override_response("/x")
        async def hook(body: kind) -> None:  # type: ignore[valid-type]
            seen.extend(body if listed else [body])

        async with one.serve() as gw:
            await get_raw(gw, "/x")
        name = seen[0]["name"] if isinstance(seen[0], dict) else seen[0].name
        assert name == "Ann"


async def test_nothing_leaves_the_response_as_it_came(server):
    """Though it was read: compressed, with its ETag and its length."""
    body, headers = CODINGS["gzip"]
    answer = answering(body, "Content-Type: application/json", 'ETag: "a"', *headers)
    async with proxied(answer, server) as one:

        @one.router.override_response("/x")
        async def hook(user: User) -> None:
            assert user.name == "Ann"

        async with one.serve() as gw:
            got = await get_raw(gw, "/x", "Accept-Encoding: gzip")
        assert text(got) == body
        assert lines(got, "etag") == ['"a"']
        assert lines(got, "content-encoding") == ["gzip"]
        assert lines(got, "content-length") == [str(len(body))]


async def test_other_parameters_are_validated_before_the_upstream_hears_anything():
    """Path, query, header and dependencies: those that are wrong are a 422."""
    order: list[str] = []

    def dependency(x_viewer: Annotated[str, Header()]) -> str:
        order.append("dependency")
        return x_viewer

    async with proxied(json_answer(SECRET)) as one:

        @one.router.override_response("/x/{id}")
        async def hook(
            user: User,
            id: int,
            viewer: Annotated[str, Depends(dependency)],
            tags: Annotated[list[str], Query()],
            page: int = 1,
        ) -> Response:
            order.append("hook")
            return JSONResponse([user.name, id, viewer, tags, page])

        async with one.serve() as gw:
            for wrong in ("/x/a?tags=t", "/x/1", "/x/1?tags=t&page=x"):
                assert status(await get_raw(gw, wrong, "X-Viewer: v")) == 422
            assert status(await get_raw(gw, "/x/1?tags=t")) == 422
            assert one.upstream.connections == 0
            order.clear()
            got = await get_raw(gw, "/x/1?tags=t&tags=u", "X-Viewer: v")
        assert text(got) == b'["Ann",1,"v",["t","u"],1]'
        assert order == ["dependency", "hook"]


async def test_a_hook_may_ask_for_the_request_the_response_and_the_upstream():
    """In any order, without a body."""
    async with proxied(answering(b"not json", "X-A: b")) as one:

        @one.router.override_response("/x")
        def hook(upstream: Upstream, request: Request, response: ForwardedResponse) -> Response:
            values = [upstream.url, request.method, response.status_code, response.headers["x-a"]]
            return JSONResponse(values)

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert text(answer) == f'["{one.upstream.url}","GET",200,"b"]'.encode()


async def test_an_override_edits_what_came_and_keeps_the_status():
    """Its headers and body, and its status only if it says so."""
    async with proxied(json_answer(SECRET, "X-Old: 1", status="201 Created")) as one:

        @one.router.override_response("/x")
        async def hook(user: User, code: int | None = None) -> ResponseOverride:
            edits = HeaderEdits(set={"x-new": user.name}, remove=["x-old"])
            return ResponseOverride(status=code, headers=edits, text="changed")

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
            assert (status(answer), text(answer)) == (201, b"changed")
            assert lines(answer, "x-new") == ["Ann"]
            assert lines(answer, "x-old") == []
            assert lines(answer, "content-type") == ["text/plain; charset=utf-8"]
            assert status(await get_raw(gw, "/x?code=418")) == 418


@pytest.mark.parametrize("code", [204, 304])
async def test_a_status_without_a_body_has_none(code, server):
    """Whatever the upstream has sent, and however long that was."""
    async with proxied(json_answer(SECRET), server) as one:

        @one.router.override_response("/x")
        async def hook() -> ResponseOverride:
            return ResponseOverride(status=code)

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert (status(answer), text(answer)) == (code, b"")


async def test_a_response_is_sent_instead(server):
    """With none of the upstream's headers."""
    async with proxied(json_answer(SECRET, "X-Old: 1"), server) as one:

        @one.router.override_response("/x")
        async def hook() -> Response:
            return JSONResponse({"other": 1}, 202)

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert (status(answer), text(answer)) == (202, b'{"other":1}')
        assert lines(answer, "x-old") == []


WITHOUT_JSON = {
    "no content": ("GET", b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
    "not modified": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nX-A: b\r\n\r\n'),
    "redirect": ("GET", answering(b"moved", "Location: /y", "X-A: b", status="302 Found")),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 100\r\n\r\n"),
}


@pytest.mark.parametrize("case", WITHOUT_JSON)
async def test_a_hook_that_wants_json_does_not_see_what_has_none(case, server):
    """They pass untouched."""
    method, answer = WITHOUT_JSON[case]
    async with proxied(answer, server) as one:

        @one.router.override_response("/x", methods=["GET", "HEAD"], when="always")
        async def hook(user: User) -> None:
            pytest.fail("it was called")

        async with one.serve() as gw:
            got = await get_raw(gw, "/x", method=method)
        assert got.split(b" ")[1] == answer.split(b" ")[1]
        assert text(got) == (b"moved" if case == "redirect" else b"")
        assert lines(got, "x-a") == ["b"]


@pytest.mark.parametrize(
    ("when", "codes"),
    [("success", {200, 302}), ("failure", {404, 500}), ("always", {200, 302, 404, 500})],
)
async def test_a_hook_sees_the_responses_that_it_is_for(when, codes):
    """By their status, as the edits of headers."""
    seen: set[int] = set()
    for code in (200, 302, 404, 500):
        async with proxied(json_answer(SECRET, status=f"{code} X")) as one:

            @one.router.override_response("/x", when=when)
            async def hook(response: ForwardedResponse) -> None:
                seen.add(response.status_code)

            async with one.serve() as gw:
                assert status(await get_raw(gw, "/x")) == code
    assert seen == codes


CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{"
BROKEN = {
    "no JSON": json_answer('{"name": "hunter2'),
    "another shape": json_answer('{"name": {"hunter2": 1}}'),
    "not UTF-8": answering(b'{"name": "\xff hunter2"}'),
    "empty": answering(b""),
    "too large": json_answer('{"name": "%s"}' % ("hunter2" * 1000)),
    "a bomb": answering(gzip.compress(b" " * 100_000 + SECRET.encode()), "Content-Encoding: gzip"),
    "no gzip": answering(b"hunter2 is no gzip", "Content-Encoding: gzip"),
    "another coding": answering(b"hunter2", "Content-Encoding: br"),
    "cut off": None,
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("optional", [False, True])
async def test_json_that_cannot_be_used_is_a_502_whose_reason_is_in_the_log(
    case, optional, caplog, server
):
    """Not in the body, and once; a hook that allows None is no way round it."""

    async def cut(_reader, writer):
        writer.write(CUT_OFF)
        await writer.drain()

    kind = User | None if optional else User
    caplog.set_level(logging.WARNING, "fastapi_proxy_router")
    async with proxied(BROKEN[case] or cut, server) as one:

        @one.router.override_response("/x", body_limit=4000)
        async def hook(user: kind) -> None:  # type: ignore[valid-type]
            pytest.fail("it was called")

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert (status(answer), text(answer)) == (502, b'{"detail":"Bad Gateway"}')
        records = [one for one in caplog.records if one.name == "fastapi_proxy_router"]
        assert len(records) == 1
        assert "hunter2" not in records[0].getMessage()


async def test_a_hook_that_asks_for_the_error_is_given_that_of_the_json():
    """It may answer in its place."""
    async with proxied(json_answer("{")) as one:

        @one.router.override_response("/x")
        async def hook(user: User | None, error: GatewayError | None) -> Any:
            assert user is None
            assert error is not None
            return JSONResponse({"instead": error.status_code})

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x")
        assert (status(answer), text(answer)) == (200, b'{"instead":502}')


async def test_a_response_that_nobody_reads_streams():
    """A hook of its head only does not hold the body back, nor asks for another coding."""
    answer = answering(b"x" * 500_000, "Content-Encoding: br")
    async with proxied(answer) as one:

        @one.router.override_response("/x", body_limit=1)
        async def hook(response: ForwardedResponse) -> None:
            response.headers["x-seen"] = "1"

        async with one.serve() as gw:
            got = await get_raw(gw, "/x", "Accept-Encoding: br")
        assert len(text(got)) == 500_000
        assert lines(got, "x-seen") == ["1"]
        assert one.upstream.last.values(b"accept-encoding") == [b"br"]


async def test_a_hook_reads_the_response_by_itself():
    """With its own limit, if it says that it does."""
    async with proxied(answering(gzip.compress(b"text"), "Content-Encoding: gzip")) as one:

        @one.router.override_response("/x", reads_response=True)
        async def hook(response: ForwardedResponse) -> ResponseOverride:
            return ResponseOverride(body=(await response.read()).upper())

        async with one.serve() as gw:
            got = await get_raw(gw, "/x", "Accept-Encoding: br")
        assert text(got) == b"TEXT"
        assert lines(got, "content-encoding") == []
        assert b"br" not in b"".join(one.upstream.last.values(b"accept-encoding"))
