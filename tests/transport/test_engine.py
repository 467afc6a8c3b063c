"""``httpx.AsyncClient(transport=HTTP1Transport())`` by itself, without a proxy around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from fastapi_proxy_router.transport import HTTP1Transport
from tests.servers import OK, RawUpstream, Script, raw_upstream
from tests.transport.wire import BOTH_LOOPS, EMPTY, ask, fetch, read_body, scripted, within_a_second

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]


@asynccontextmanager
async def client_of(
    answer: bytes | Script = OK,
) -> AsyncIterator[tuple[httpx.AsyncClient, RawUpstream]]:
    async with raw_upstream(answer) as upstream:
        client = httpx.AsyncClient(transport=HTTP1Transport(), base_url=upstream.url, timeout=5)
        async with client:
            yield client, upstream


async def parts(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_get():
    """Status, headers in their order and case, body and version are the upstream's."""
    answer = b"HTTP/1.1 203 Fine\r\nX-B: 2\r\nx-a: 1\r\nX-B: 3\r\nContent-Length: 2\r\n\r\nok"
    async with client_of(answer) as (client, upstream):
        got = await client.get("/a%2Fb//c?q=%20")

        assert (got.status_code, got.content, got.http_version) == (203, b"ok", "HTTP/1.1")
        assert got.headers.raw[:3] == [(b"X-B", b"2"), (b"x-a", b"1"), (b"X-B", b"3")]
        assert upstream.last.target == b"/a%2Fb//c?q=%20"


async def test_an_http_1_0_response_says_so():
    """The version of the response is not made up."""
    async with client_of(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok") as (client, _):
        assert (await client.get("/")).http_version == "HTTP/1.0"


async def test_nothing_is_added_to_a_request():
    """What is on the wire is the request and no header more."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream, ask("GET", (b"X-Odd", b"\xe9"), target=b"/%zz?"))

        assert upstream.last.head == b"GET /%zz? HTTP/1.1\r\nhost: x\r\nX-Odd: \xe9"


async def test_the_targets_own_bytes_can_be_given():
    """The extension ``target`` beats the URL, which httpx would normalise."""
    async with client_of() as (client, upstream):
        await client.get("/", extensions={"target": b"/a/../b%2f?x"})

        assert upstream.last.target == b"/a/../b%2f?x"


async def test_a_post_of_bytes():
    """A body at hand is sent with its length."""
    async with client_of() as (client, upstream):
        got = await client.post("/", content=b"hello")

        assert got.content == b"ok"
        assert upstream.last.values(b"content-length") == [b"5"]
        assert upstream.last.body == b"hello"


async def test_an_upload_without_a_length():
    """Every chunk of the body is one of the request; an empty one does not end it."""
    async with client_of() as (client, upstream):
        await client.post("/", content=parts(b"hel", b"", b"lo"))

        assert upstream.last.values(b"transfer-encoding") == [b"chunked"]
        assert upstream.last.body == b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"


async def test_an_upload_of_nothing():
    """A body that turns out to be empty is ended all the same."""
    async with client_of() as (client, upstream):
        await client.post("/", content=parts())

        assert upstream.last.body == b"0\r\n\r\n"


async def test_an_upload_with_a_length():
    """A length that is given is kept, and the body follows as it is."""
    async with client_of() as (client, upstream):
        await client.put("/", content=parts(b"hel", b"lo"), headers={"Content-Length": "5"})

        assert upstream.last.values(b"content-length") == [b"5"]
        assert upstream.last.values(b"transfer-encoding") == []
        assert upstream.last.body == b"hello"


async def test_bytes_in_chunks():
    """A body at hand can be framed in chunks by its headers."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        chunked = ask("PUT", (b"transfer-encoding", b"chunked"), body=b"hello")
        await fetch(transport, upstream, chunked)

        assert upstream.last.body == b"5\r\nhello\r\n0\r\n\r\n"


async def test_a_form_with_a_file():
    """httpx's own streams are sent."""
    async with client_of() as (client, upstream):
        await client.post("/", files={"file": ("name.txt", b"content")})

        assert b'filename="name.txt"' in upstream.last.body
        assert b"content" in upstream.last.body


async def test_an_upload_arrives_as_it_is_made():
    """The upstream has the first chunk before there is a second."""
    first = asyncio.Event()

    async def receive(reader, writer):
        await reader.readuntil(b"hel\r\n")
        first.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(OK)

    async def body():
        yield b"hel"
        await within_a_second(first)
        yield b"lo"

    async with client_of(receive) as (client, _):
        assert (await client.post("/", content=body())).content == b"ok"


async def test_a_download_arrives_as_it_is_made():
    """The first chunk is here before the upstream has written the second."""
    read = asyncio.Event()

    async def write(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
        await read.wait()
        writer.write(b"2\r\nlo\r\n0\r\n\r\n")
        await writer.drain()

    async with client_of(write) as (client, _), client.stream("GET", "/") as got:
        chunks = got.aiter_raw()
        assert await anext(chunks) == b"hel"
        read.set()
        assert [chunk async for chunk in chunks] == [b"lo"]


async def test_a_large_body_each_way():
    """Eight megabytes go up and come back as they were."""
    sent = bytes(range(256)) * 4096 * 8

    async def echo(request, reader, writer):
        body = await read_body(request, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async with scripted(echo) as upstream:
        async with httpx.AsyncClient(transport=HTTP1Transport()) as client:
            got = await client.post(upstream.url, content=sent)

            assert got.content == sent


async def test_a_head():
    """The response to HEAD has a length and no body."""
    async with client_of(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") as (client, _):
        got = await client.head("/")

        assert (got.headers["content-length"], got.content) == ("1000", b"")


async def test_a_stream_that_is_left_closes_its_connection():
    """A response whose body nobody wants is not read to its end."""

    async def endless(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"ffff\r\n" + bytes(0xFFFF) + b"\r\n")
            await writer.drain()

    async with client_of(endless) as (client, upstream):
        async with client.stream("GET", "/") as got:
            assert got.status_code == 200
        await within_a_second(upstream.closed)


async def test_closing_the_client_closes_the_connections():
    """Nothing idles on behalf of a client that is gone."""
    async with client_of() as (client, upstream):
        await client.get("/")
        await client.aclose()

        await within_a_second(upstream.closed)


async def test_many_at_once():
    """A hundred requests in parallel are answered, each with its own answer."""

    async def number(request, _reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + request.target[1:])

    async with scripted(number) as upstream:
        async with httpx.AsyncClient(transport=HTTP1Transport()) as client:
            numbers = [str(number) for number in range(100, 200)]
            got = await asyncio.gather(*(client.get(f"{upstream.url}/{n}") for n in numbers))

            assert [answer.text for answer in got] == numbers


async def test_an_error_knows_its_request():
    """What httpx's client adds to an error is there."""
    async with client_of() as (client, upstream):
        url = upstream.url
    with pytest.raises(httpx.ConnectError) as error:
        async with httpx.AsyncClient(transport=HTTP1Transport()) as client:
            await client.get(url)

    assert error.value.request.url == url


async def test_the_clients_timeout_is_honoured():
    """An answer that does not come in time is httpx's ReadTimeout."""

    async def silent(reader, _writer):
        await reader.read()

    async with client_of(silent) as (client, upstream):
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=httpx.Timeout(5, read=0.05))
        await within_a_second(upstream.closed)


async def test_an_error_in_the_callers_body_is_the_callers():
    """What an upload raises is raised as it is, and the upstream sees an upload cut short."""
    rest = []

    async def receive(reader, _writer):
        rest.append(await reader.read())

    async def body():
        yield b"hel"
        raise LookupError("no more")

    async with client_of(receive) as (client, upstream):
        with pytest.raises(LookupError, match="no more"):
            await client.post("/", content=body())
        await within_a_second(upstream.closed)

        assert not rest or not rest[0].endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "/nowhere"])
async def test_an_unknown_scheme_is_an_error_of_httpx(url):
    """As with httpx's own transport."""
    async with httpx.AsyncClient(transport=HTTP1Transport()) as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get(url)


async def test_a_port_that_cannot_be_is_an_error_of_httpx():
    """The system has no words of its own for it."""
    async with httpx.AsyncClient(transport=HTTP1Transport()) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://127.0.0.1:99999/")


@pytest.mark.parametrize("length", ["3", "9"])
async def test_a_length_that_is_not_the_bodys_is_refused(length):
    """Else the rest of one body would be the next request, or the next request a body."""
    async with client_of() as (client, upstream):
        with pytest.raises(httpx.LocalProtocolError):
            await client.post("/", content=b"hello", headers={"Content-Length": length})

        assert upstream.requests == []


async def test_a_request_that_says_close_is_the_last():
    """Its sender may send no other on that connection (RFC 9112, 9.6)."""
    async with client_of(EMPTY) as (client, upstream):
        await client.get("/", headers={"Connection": "Close"})
        await client.get("/")

        assert upstream.connections == 2
