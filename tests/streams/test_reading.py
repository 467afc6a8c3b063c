"""Endpoints that read an upstream's response, or send another body in its place."""

import asyncio
import gzip
import json

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request, Response

from fastapi_proxy_router import (
    BadGateway,
    Ejection,
    ForwardedResponse,
    GatewayTimeout,
    Timeout,
    Upstream,
    proxy_pass,
)
from fastapi_proxy_router.core.changes import Changes
from tests.retries.pools import fast, true
from tests.servers import raw_upstream
from tests.streams.endpoints import (
    GZIPPED,
    HELLO,
    Noted,
    answer_of,
    in_chunks,
    parts_of,
    upper,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("streams")]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CODED = "Content-Encoding: gzip"


class Reader:
    """Reads a response, and keeps what comes of it."""

    def __init__(self, **options):
        self.options = options
        self.read = []
        self.errors = []

    async def __call__(self, response):
        try:
            self.read.append(await response.read(**self.options))
        except Exception as error:
            self.errors.append(error)
            raise


WHOLE = {
    "length": (answer_of(body=HELLO), HELLO),
    "chunks": (CHUNKED + in_chunks(HELLO[:5], HELLO[5:]), HELLO),
    "gzip": (answer_of(CODED, body=GZIPPED), GZIPPED),
    "gzip in chunks": (
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
        + in_chunks(GZIPPED[:9], GZIPPED[9:]),
        GZIPPED,
    ),
}


@pytest.mark.parametrize("how", WHOLE)
async def test_what_was_read_is_sent_as_it_came(streams, server, how):
    """The reader gets it decoded, and the client the original bytes."""
    answer, raw = WHOLE[how]
    reader = Reader()
    async with raw_upstream(answer) as upstream:
        async with streams.gateway_with(upstream, then=reader, server=server) as gw:
            got = await gw.ask("GET", "/x", "Accept-Encoding: gzip")

        assert reader.read == [HELLO]
        assert (got.body, got.complete) == (raw, True)
        assert got.values(b"content-encoding") == ([b"gzip"] if raw == GZIPPED else [])
        if server != "granian":  # Which declares the length of a body that is there at once.
            assert (got.values(b"content-length") == []) == ("chunks" in how)


async def test_headers_stay_that_describe_what_was_read(streams):
    """The bytes are the same, and so are those."""
    lines = ('ETag: "a"', "Content-Digest: x", "Accept-Ranges: bytes")
    async with raw_upstream(answer_of(*lines, body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=Reader()) as gw:
            got = await gw.ask()

        names = (b"etag", b"content-digest", b"accept-ranges")
        assert [got.values(name) for name in names] == [[b'"a"'], [b"x"], [b"bytes"]]


async def test_it_may_be_read_again(streams):
    """Whole, whatever else was read before."""
    read = []

    async def twice(response):
        read.extend([await response.read(), await response.read(), await response.json()])

    async with raw_upstream(answer_of(body=b'"hello"')) as upstream:
        async with streams.gateway_with(upstream, then=twice) as gw:
            assert (await gw.ask()).body == b'"hello"'

    assert read == [b'"hello"', b'"hello"', "hello"]


async def test_the_upstream_is_let_go_of_once_it_was_read(streams):
    """Its connection carries the next request while the hook thinks, and its health hears of it."""
    idle = []

    async def look(response):
        await response.read()
        idle.append((gw.pool.in_flight, response.upstream.in_flight))

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=look) as gw:
            for _ in range(2):
                assert (await gw.ask()).status == 200

        assert idle == [(0, 0)] * 2
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
async def test_a_response_that_can_have_no_body_has_an_empty_one(streams, method, status):
    """Whatever coding it claims, and its headers are sent."""
    reader = Reader()
    answer = f'HTTP/1.1 {status}\r\nETag: "a"\r\nContent-Encoding: gzip\r\n\r\n'.encode()
    async with raw_upstream(answer) as upstream:
        async with streams.gateway_with(upstream, then=reader) as gw:
            got = await gw.ask(method)

        assert reader.read == [b""]
        assert (got.status, got.values(b"etag")) == (int(status[:3]), [b'"a"'])


async def test_the_length_of_a_body_that_head_stands_for_is_kept(streams):
    """It was never there to be read."""
    async with raw_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") as upstream:
        async with streams.gateway_with(upstream, then=Reader(limit=10)) as gw:
            got = await gw.ask("HEAD")

        assert (got.status, got.values(b"content-length")) == (200, [b"1000"])


TOO_LARGE = {
    "declared": answer_of(body=b"x" * 101),
    "in chunks": CHUNKED + in_chunks(b"x" * 60, b"x" * 41),
    "decoded": answer_of(CODED, body=gzip.compress(b"x" * 101)),
    "raw": answer_of(CODED, body=gzip.compress(b"") * 6),
    "bomb": answer_of(CODED, body=gzip.compress(bytes(70_000_000))[:100]),
}


@pytest.mark.parametrize("how", TOO_LARGE)
async def test_more_than_the_limit_is_a_502(streams, caplog, how):
    """For the client without a reason; the upstream is let go of and not blamed."""
    reader = Reader(limit=100)
    async with raw_upstream(TOO_LARGE[how]) as upstream:
        async with streams.gateway_with(upstream, then=reader) as gw:
            got = await gw.ask()

        assert (got.status, got.body) == (502, b'{"detail":"Bad Gateway"}')
        assert "more than 100 bytes" in caplog.text
        assert gw.blamed() == 0


ENDLESS = {
    "declared": b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
    "in chunks": CHUNKED + in_chunks(b"x" * 60, b"x" * 41, end=False),
    "raw": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    + in_chunks(gzip.compress(b"") * 6, end=False),
}


@pytest.mark.parametrize("how", ENDLESS)
async def test_no_more_is_waited_for_once_it_is_too_much(streams, how):
    """The upstream would not come to an end."""
    async with raw_upstream(parts_of(ENDLESS[how], stay=True)) as upstream:
        async with streams.gateway_with(upstream, then=Reader(limit=100)) as gw:
            assert (await gw.ask()).status == 502


async def test_an_upstream_that_was_read_has_succeeded(streams):
    """So what broke off before it and after it is not in a row."""
    answers = iter([BROKEN["chunks"], answer_of(body=b"hello")] * 3)

    async def alternating(_reader, writer):
        writer.write(next(answers))
        await writer.drain()

    async with raw_upstream(alternating) as upstream, raw_upstream() as other:
        options = {"then": Reader(), "ejection": Ejection(consecutive=2)}
        async with streams.gateway_with(upstream, other, **options) as gw:
            assert [(await gw.ask()).status for _ in range(6)] == [502, 200] * 3

        assert other.connections == 0


async def test_up_to_the_limit_is_read(streams):
    """To the byte."""
    reader = Reader(limit=100)
    async with raw_upstream(answer_of(CODED, body=gzip.compress(b"x" * 100))) as upstream:
        async with streams.gateway_with(upstream, then=reader) as gw:
            await gw.ask()

    assert reader.read == [b"x" * 100]


async def test_a_smaller_limit_holds_for_what_was_read_already(streams):
    """And what was read is still there to be sent."""
    errors = []

    async def again(response):
        await response.read()
        try:
            await response.read(2)
        except BadGateway as error:
            errors.append(error.reason)

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=again) as gw:
            assert (await gw.ask()).body == b"hello"

    assert errors == ["its body has more than 2 bytes"]


BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello",
    "chunks": CHUNKED + in_chunks(b"hello", end=False),
    "gzip": answer_of(CODED, body=GZIPPED[:-4]),
    "no gzip": answer_of(CODED, body=b"hello"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_body_that_breaks_off_is_a_502(streams, server, caplog, how):
    """Nothing was sent yet; the upstream is blamed."""
    async with raw_upstream(parts_of(BROKEN[how])) as upstream:
        async with streams.gateway_with(upstream, then=Reader(), server=server) as gw:
            got = await gw.ask()

        assert (got.status, got.body) == (502, b'{"detail":"Bad Gateway"}')
        assert gw.blamed() == 1
        assert caplog.text.count("failed at body, fault of upstream") == 1


async def test_a_coding_that_nobody_knows_is_a_502(streams, caplog):
    """But the upstream is as healthy as before."""
    async with raw_upstream(answer_of("Content-Encoding: br", body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=Reader()) as gw:
            assert (await gw.ask()).status == 502

        assert gw.blamed() == 0
        assert "the coding 'br' is not known" in caplog.text


async def test_what_could_not_be_read_cannot_be_sent(streams):
    """Some of it is gone, so whoever goes on gets the same error."""

    async def careless(response):
        with pytest.raises(BadGateway):
            await response.read()
        with pytest.raises(BadGateway):
            await response.read()

    async with raw_upstream(parts_of(BROKEN["chunks"])) as upstream:
        async with streams.gateway_with(upstream, then=careless) as gw:
            assert (await gw.ask()).status == 502


async def test_something_else_can_be_sent_instead(streams):
    """After it could not be read."""

    async def careful(response):
        with pytest.raises(BadGateway):
            await response.read()
        response.replace_body(b"sorry")

    async with raw_upstream(parts_of(BROKEN["chunks"])) as upstream:
        async with streams.gateway_with(upstream, then=careful) as gw:
            assert (await gw.ask()).body == b"sorry"


async def test_a_response_that_was_closed_cannot_be_read_or_sent(streams):
    """That is a mistake of whoever does it."""

    async def closing(response):
        await response.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await response.read()

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=closing) as gw:
            assert (await gw.ask()).status == 500

        assert [type(error) for error in gw.raised] == [RuntimeError]


@pytest.mark.parametrize("timeout", [Timeout(idle=0.1), Timeout(total=0.3)])
async def test_the_deadlines_hold_while_it_is_read(streams, timeout):
    """504, because nothing was sent yet."""
    reader = Reader()
    script = parts_of(CHUNKED + in_chunks(b"hello", end=False), stay=True)
    async with raw_upstream(script) as upstream:
        async with streams.gateway_with(upstream, then=reader, timeout=timeout) as gw:
            assert (await gw.ask()).status == 504

    assert [type(error) for error in reader.errors] == [GatewayTimeout]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_ends_the_reading(streams, server, how):
    """The upstream's connection is closed, and nobody is told but the endpoint: 499."""
    reader = Reader()
    script = parts_of(CHUNKED + in_chunks(b"hello", end=False), stay=True)
    async with raw_upstream(script) as upstream:
        async with streams.gateway_with(upstream, then=reader, server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await upstream.received.wait()
                client.leave(how)
                async with asyncio.timeout(1):
                    await upstream.closed.wait()
            await true(lambda: reader.errors or gw.idle())

        assert [error.status_code for error in reader.errors] in ([499], [])
        assert gw.blamed() == 0
        assert gw.raised == []


JSON = {
    b'{"a": [1, "\xc3\xa9"]}': {"a": [1, "é"]},
    '"é"'.encode("utf-16"): "é",
    b"null": None,
}


@pytest.mark.parametrize("body", JSON, ids=["utf-8", "utf-16", "null"])
async def test_json_is_read(streams, body):
    """In any encoding that JSON may have."""
    read = []

    async def look(response):
        read.append(await response.json())

    async with raw_upstream(answer_of(CODED, body=gzip.compress(body))) as upstream:
        async with streams.gateway_with(upstream, then=look) as gw:
            assert gzip.decompress((await gw.ask()).body) == body

    assert read == [JSON[body]]


NOT_JSON = {
    "nothing": b"",
    "cut off": b"{",
    "no text": b"\xff",
    "no number": b"NaN",
    "html": b"<p>secret</p>",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_what_is_not_json_is_a_502(streams, caplog, body):
    """The reason is in the log, without what was read."""

    async def look(response):
        await response.json()

    async with raw_upstream(answer_of(body=body)) as upstream:
        async with streams.gateway_with(upstream, then=look) as gw:
            got = await gw.ask()

        assert (got.status, got.body) == (502, b'{"detail":"Bad Gateway"}')
        assert "its body is not JSON" in caplog.text
        assert "secret" not in caplog.text
        assert gw.blamed() == 0


async def test_json_has_a_limit(streams):
    """Its own, too."""

    async def look(response):
        await response.json(limit=3)

    async with raw_upstream(answer_of(body=b"[1, 2]")) as upstream:
        async with streams.gateway_with(upstream, then=look) as gw:
            assert (await gw.ask()).status == 502


REPLACED = {
    "Content-Encoding": "gzip",
    "Content-MD5": "x",
    "Digest": "x",
    "Content-Digest": "x",
    "Repr-Digest": "x",
    "Accept-Ranges": "bytes",
}


@pytest.mark.parametrize("read", [True, False])
async def test_a_body_is_replaced(streams, server, read):
    """With its own length, and without what was said of the old one."""

    async def then(response):
        if read:
            await response.read()
        response.replace_body(b"mine")

    lines = [f"{name}: {value}" for name, value in REPLACED.items()]
    answer = answer_of(*lines, 'ETag: "a"', "Content-Type: a/b", body=GZIPPED)
    async with raw_upstream(answer) as upstream:
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            got = await gw.ask()

        assert (got.body, got.complete) == (b"mine", True)
        assert got.values(b"content-length") == [b"4"]
        assert [got.values(name.lower().encode()) for name in REPLACED] == [[]] * 6
        assert (got.values(b"etag"), got.values(b"content-type")) == ([b'W/"a"'], [b"a/b"])


async def test_headers_may_be_edited_before_and_after_a_body_is_replaced(streams):
    """The same object holds them."""

    async def then(response):
        headers = response.headers
        headers["x-before"] = "1"
        response.replace_body(b"mine")
        headers["x-after"] = "2"
        assert headers["content-length"] == "4"

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            got = await gw.ask()

        assert (got.values(b"x-before"), got.values(b"x-after")) == ([b"1"], [b"2"])


async def test_a_replaced_body_waits_for_the_upload_to_be_given_up(streams, caplog):
    """What the upload passes through takes a moment to be closed, and is closed once."""

    async def careful(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await asyncio.sleep(0.1)

    async def then(response):
        response.replace_body(b"mine")

    async def early(reader, writer):
        await reader.readuntil(b"hello\r\n")
        writer.write(answer_of(body=b"no"))
        await reader.read()

    async with raw_upstream(early) as upstream:
        options = {"changes": Changes(transforms=(careful,)), "then": then}
        async with streams.gateway_with(upstream, **options) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
            await client.send(in_chunks(b"hello", end=False))
            await client.until(b"HTTP/1.1 200")
            await client.send(in_chunks())
            assert (await client.answer()).body == b"mine"

    assert "failed" not in caplog.text


async def test_the_upstream_of_a_replaced_body_is_let_go_of_at_once(streams):
    """Before the response is sent; its endless body is nobody's failure."""

    async def then(response):
        response.replace_body(b"mine")
        await true(upstream.closed.is_set)

    script = parts_of(CHUNKED + in_chunks(b"hello", end=False), stay=True)
    async with raw_upstream(script) as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            assert (await gw.ask()).body == b"mine"

        assert gw.blamed() == 0


@pytest.mark.parametrize("status", [204, 304])
async def test_a_replaced_body_of_a_response_that_can_have_none_is_not_sent(
    streams, server, status
):
    """Nor its length promised."""

    async def then(response):
        response.replace_body(b"mine")
        response.status_code = status

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            got = await gw.ask()

        assert (got.status, got.body, got.rest) == (status, b"", b"")
        assert got.values(b"content-length") == []


async def test_head_has_the_length_of_the_replaced_body(streams):
    """As GET would have."""

    async def then(response):
        response.replace_body(b"mine")

    async with raw_upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            got = await gw.ask("HEAD")

        assert (got.values(b"content-length"), got.rest) == ([b"4"], b"")


async def test_a_replaced_body_is_what_is_read_later(streams):
    """By a hook that comes after."""
    read = []

    async def then(response):
        response.replace_body(b"[1]")
        read.append(await response.json())

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            assert (await gw.ask()).body == b"[1]"

    assert read == [[1]]


async def test_what_was_read_may_be_transformed(streams):
    """Decoded, as it would be if nobody had read it."""

    async def then(response):
        await response.read()
        response.transform(upper)

    async with raw_upstream(answer_of(CODED, body=GZIPPED)) as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            assert (await gw.ask()).body == HELLO.upper()


async def test_what_is_transformed_may_be_read(streams):
    """The reader and the client get what the transform has made of it, once."""
    noted, read = Noted(), []

    async def then(response):
        response.transform(upper)
        response.transform(noted)
        read.append(await response.read())

    async with raw_upstream(answer_of(CODED, body=GZIPPED)) as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            assert (await gw.ask()).body == HELLO.upper()

    assert read == [HELLO.upper()]
    assert noted.began == 1


async def test_an_error_of_a_transform_that_is_read_is_the_applications(streams):
    """500; nothing was sent yet, and the upstream is not blamed."""

    async def failing(chunks):
        async for _ in chunks:
            raise ValueError("mistake")
        yield b""

    async def then(response):
        response.transform(failing)
        await response.read()

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            assert (await gw.ask()).status == 500

        assert [type(error) for error in gw.raised] == [ValueError]
        assert gw.blamed() == 0


async def test_a_response_that_is_read_and_not_sent_is_closed(streams):
    """The block ends when nothing is left of the exchange."""

    async def then(response):
        return Response(await response.read(), status_code=201)

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=then) as gw:
            got = await gw.ask()

        assert (got.status, got.body) == (201, b"hello")


async def test_any_transports_response_is_read(streams):
    """And sent as it came."""

    def handle(_request):
        stream = httpx.ByteStream(GZIPPED)
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)

    reader = Reader()
    upstream = Upstream("http://test", transport=httpx.MockTransport(handle))
    async with streams.gateway_with(upstream, then=reader) as gw:
        assert (await gw.ask()).body == GZIPPED

    assert reader.read == [HELLO]


async def test_trailers_follow_a_body_that_was_read(streams):
    """Where the server and the client take them."""
    answer = CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with raw_upstream(answer) as upstream:
        async with streams.gateway_with(upstream, then=Reader(), server="hypercorn") as gw:
            async with gw.client() as client:
                await client.send(gw.head("GET", "/x", "TE: trailers", "Connection: TE"))
                got = await client.answer()

        assert (got.body, got.complete) == (b"hello", True)


async def test_reading_leaves_the_clients_body_for_another_upstream(streams, server):
    """One may be asked for permission before the body goes to the other."""
    answer = answer_of(body=b'{"allowed": true}')
    async with raw_upstream(answer) as auth, raw_upstream() as upstream:
        app = FastAPI()

        @app.post("/x")
        async def guarded(request: Request):
            asked = await proxy_pass(request, Upstream(auth.url), method="GET")
            assert isinstance(asked, ForwardedResponse)
            if not (await asked.json())["allowed"]:
                raise HTTPException(403)
            return await proxy_pass(request, Upstream(upstream.url))

        async with streams.gateway_with(upstream, app=app, server=server) as gw:
            assert (await gw.ask("POST", body=b"x" * 300_000)).status == 200

        assert upstream.last.body == b"x" * 300_000


async def test_two_upstreams_are_merged(streams):
    """Asked at once, and one answer made of both."""
    async with raw_upstream(answer_of(body=b'{"a": 1}')) as one:
        async with raw_upstream(answer_of(CODED, body=gzip.compress(b'{"b": 2}'))) as two:
            app = FastAPI()

            async def part(request: Request, upstream):
                response = await proxy_pass(request, Upstream(upstream.url))
                assert isinstance(response, ForwardedResponse)
                return await response.json()

            @app.get("/x")
            async def merged(request: Request):
                parts = await asyncio.gather(part(request, one), part(request, two))
                return {key: value for found in parts for key, value in found.items()}

            async with streams.gateway_with(one, app=app) as gw:
                assert json.loads((await gw.ask()).body) == {"a": 1, "b": 2}


async def test_the_answer_to_an_upload_that_goes_on_is_read(streams):
    """The upstream answers before it has read the body, and the client still reads the answer."""

    async def early(_reader, writer):
        writer.write(answer_of(body=b"no", status="401 Unauthorized"))
        await writer.drain()

    reader = Reader()
    async with raw_upstream(early) as upstream:
        async with streams.gateway_with(upstream, then=reader, retry=fast()) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Content-Length: 1000000"))
                await client.send(bytes(100_000))
                await true(lambda: reader.read)
                await client.send(bytes(900_000))
                got = await client.answer()

        assert (got.status, got.body) == (401, b"no")
