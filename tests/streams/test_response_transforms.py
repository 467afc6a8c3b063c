"""Functions that an upstream's body passes through on its way to the client."""

import asyncio
import gzip
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from fastapi_proxy_router import BadGateway, StreamAborted, Timeout, Upstream
from fastapi_proxy_router.client import ClientStream
from fastapi_proxy_router.core.changes import Changes
from fastapi_proxy_router.failover import Forwarding
from tests.retries.pools import true
from tests.servers import raw_upstream
from tests.streams.endpoints import (
    GZIPPED,
    HELLO,
    MIB,
    Noted,
    answer_of,
    call,
    in_chunks,
    parts_of,
    same,
    transformed_by,
    upper,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("streams")]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DESCRIBING = ("Content-MD5", "Digest", "Content-Digest", "Repr-Digest", "Accept-Ranges")


async def test_the_client_gets_what_the_transform_yields(streams, server):
    """Of a body that is there at once, and of one that comes in chunks."""
    for answer in (answer_of(body=b"hello"), CHUNKED + in_chunks(b"hel", b"lo")):
        async with raw_upstream(answer) as upstream:
            then = transformed_by(upper)
            async with streams.gateway_with(upstream, then=then, server=server) as gw:
                got = await gw.ask()

            assert (got.status, got.body, got.complete) == (200, b"HELLO", True)
            assert got.values(b"content-length") == []


async def test_a_connection_is_used_again_after_a_transform(streams):
    """The upstream's body was read to its end."""
    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(upper)) as gw:
            for _ in range(3):
                assert (await gw.ask()).body == b"HELLO"

        assert upstream.connections == 1


async def test_several_transforms_see_the_body_in_order(streams):
    """Each what the one before has yielded."""

    async def adding(chunks):
        async for chunk in chunks:
            yield chunk + b"a"

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(adding, upper)) as gw:
            assert (await gw.ask()).body == b"HELLOA"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", GZIPPED),
        ("x-gzip", gzip.compress(b"hello ", mtime=0) + gzip.compress(HELLO[6:], mtime=0)),
        ("deflate", zlib.compress(HELLO)),
        ("gzip, deflate", zlib.compress(GZIPPED)),
        ("identity", HELLO),
    ],
    ids=["gzip", "members", "deflate", "both", "identity"],
)
async def test_a_transform_gets_the_body_decoded(streams, coding, body):
    """And what it yields goes to the client as it is."""
    answer = answer_of(f"Content-Encoding: {coding}", body=body)
    async with raw_upstream(answer) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(upper)) as gw:
            got = await gw.ask("GET", "/x", "Accept-Encoding: gzip, deflate")

        assert got.body == HELLO.upper()
        assert got.values(b"content-encoding") == []


async def test_a_coding_that_nobody_knows_is_a_502(streams, caplog):
    """Before the head is sent; why is in the log, and the upstream is not blamed."""
    noted = Noted()
    async with raw_upstream(answer_of("Content-Encoding: br", body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(noted)) as gw:
            got = await gw.ask()

        assert (got.status, got.body) == (502, b'{"detail":"Bad Gateway"}')
        assert gw.blamed() == noted.began == 0
        assert "the coding 'br' is not known" in caplog.text


async def test_headers_of_the_old_body_are_dropped(streams):
    """Those that say what it is stay."""
    lines = [f"{name}: old" for name in DESCRIBING]
    answer = answer_of(*lines, 'ETag: "a"', "Content-Type: text/plain", body=b"hello")
    async with raw_upstream(answer) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(same)) as gw:
            got = await gw.ask()

        assert [got.values(name.lower().encode()) for name in DESCRIBING] == [[]] * 5
        assert got.values(b"etag") == [b'W/"a"']
        assert got.values(b"content-type") == [b"text/plain"]


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
async def test_a_response_without_a_body_is_not_transformed(streams, server, method, status):
    """But has the headers of one that is."""
    noted = Noted()
    answer = f'HTTP/1.1 {status}\r\nETag: "a"\r\nContent-Encoding: gzip\r\n\r\n'.encode()
    async with raw_upstream(answer) as upstream:
        then = transformed_by(noted)
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            got = await gw.ask(method)

        assert (got.status, got.values(b"etag")) == (int(status[:3]), [b'W/"a"'])
        assert noted.began == 0


@pytest.mark.parametrize("body", [b"", gzip.compress(b"", mtime=0)], ids=["nothing", "gzip"])
async def test_an_empty_body_is_transformed(streams, body):
    """Whatever its coding; the transform may have something to say."""

    async def greeting(chunks):
        async for chunk in chunks:
            yield chunk
        yield b"hi"

    async with raw_upstream(answer_of("Content-Encoding: gzip", body=body)) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(greeting)) as gw:
            assert (await gw.ask()).body == b"hi"


@pytest.mark.parametrize(
    "parts",
    [
        (CHUNKED, in_chunks(b"one", end=False), in_chunks(b"two")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"one", b"two"),
    ],
    ids=["chunks", "length"],
)
async def test_the_head_is_sent_before_the_first_chunk(streams, server, parts):
    """And each chunk before the next one has come."""
    read = asyncio.Event()

    async def script(_reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await read.wait()
            read.clear()

    async with raw_upstream(script) as upstream:
        then = transformed_by(upper)
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                for seen in (b"\r\n\r\n", b"ONE", b"TWO"):
                    await client.until(seen)
                    read.set()
                assert (await client.answer()).complete


async def test_a_slow_client_slows_the_upstream(streams):
    """A download of 50 MiB through a transform costs no more than 8 MiB, and waits meanwhile."""
    sent = 0

    async def large(_reader, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (50 * MIB))
        for _ in range(50 * 16):
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with raw_upstream(large) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(same)) as gw:
            async with gw.client() as client:
                tracemalloc.start()
                await client.send(gw.head())
                await client.until(b"\r\n\r\n")
                await _stalled(lambda: sent)
                assert sent < 40 * MIB
                async with asyncio.timeout(20):
                    while not client.received.endswith(b"\r\n0\r\n\r\n"):
                        del client.received[:-16]
                        assert await client._more()
                assert tracemalloc.get_traced_memory()[1] < 8 * MIB
                tracemalloc.stop()
        assert sent == 50 * MIB


async def _stalled(progress):
    """Wait until nothing has moved for a while."""
    before = -1
    async with asyncio.timeout(10):
        while before != progress():
            before = progress()
            await asyncio.sleep(0.2)


async def test_a_small_body_that_stands_for_a_large_one_costs_little(streams):
    """64 MiB of zeroes, decoded bit by bit."""
    seen = 0

    async def counting(chunks):
        nonlocal seen
        async for chunk in chunks:
            seen += len(chunk)
        yield b"done"

    body = gzip.compress(bytes(64 * MIB))
    async with raw_upstream(answer_of("Content-Encoding: gzip", body=body)) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(counting)) as gw:
            tracemalloc.start()
            assert (await gw.ask()).body == b"done"
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
            tracemalloc.stop()

    assert seen == 64 * MIB


ERRORS = [ValueError("mistake"), OSError("no file"), TimeoutError("slow"), BadGateway("of a hook")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_of_a_transform_drops_the_client(streams, error):
    """It is raised to the server, and the upstream is closed and not blamed."""

    async def failing(chunks):
        async for chunk in chunks:
            yield chunk
            raise error

    async with raw_upstream(
        parts_of(CHUNKED + in_chunks(b"one", end=False), stay=True)
    ) as upstream:
        then, timeout = transformed_by(failing), Timeout(total=5)
        async with streams.gateway_with(upstream, then=then, timeout=timeout) as gw:
            got = await gw.ask()
            await true(upstream.closed.is_set)

        assert (got.status, got.body, got.complete) == (200, b"one", False)
        assert error in (gw.raised[0], gw.raised[0].__cause__)
        assert gw.blamed() == 0


async def test_an_error_of_a_transform_is_an_abort_on_every_server(streams, server):
    """It never looks like the end of the body."""

    async def failing(chunks):
        yield b"one"
        raise ValueError

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        then = transformed_by(failing)
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            got = await gw.ask()

        assert (got.status, got.complete) == (200, False)
        assert [type(error) for error in gw.raised] == [ValueError]


BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello",
    "chunks": CHUNKED + in_chunks(b"hello", end=False),
    "gzip": answer_of("Content-Encoding: gzip", body=GZIPPED[:-4]),
    "checksum": answer_of("Content-Encoding: gzip", body=GZIPPED[:-8] + bytes(8)),
}


async def _ends_well(chunks):
    try:
        async for chunk in chunks:
            yield chunk
    except Exception:  # noqa: BLE001 - that is what is tested
        yield b"the end"


async def _fails_itself(chunks):
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        raise ValueError from error


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("transform", [same, _ends_well, _fails_itself])
async def test_a_transform_cannot_make_a_whole_of_a_response_that_broke_off(
    streams, fault, transform
):
    """It sees the error; whatever it does then, the client is dropped and the upstream blamed."""
    async with raw_upstream(parts_of(BROKEN[fault])) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(transform)) as gw:
            got = await gw.ask()

        assert (got.status, got.complete) == (200, False)
        assert [type(error) for error in gw.raised] == [StreamAborted]
        assert gw.blamed() == 1


async def _deaf(chunks):
    with suppress(BaseException):
        async for chunk in chunks:
            yield chunk


async def _impatient(chunks):
    with suppress(TimeoutError):
        while True:
            yield await asyncio.wait_for(anext(chunks), 0.05)
    yield b"the end"


@pytest.mark.parametrize("transform", [_deaf, _impatient])
async def test_a_transform_cannot_make_a_whole_of_a_response_that_was_cancelled(streams, transform):
    """By a deadline of ours or by itself; what it reads from has no more to give then."""
    script = parts_of(CHUNKED + in_chunks(b"hello", end=False), stay=True)
    async with raw_upstream(script) as upstream:
        options = {"timeout": Timeout(total=0.4), "then": transformed_by(transform)}
        async with streams.gateway_with(upstream, **options) as gw:
            got = await gw.ask()

        assert (got.status, got.complete) == (200, False)


async def test_a_broken_response_is_an_abort_on_every_server(streams, server):
    """Although the transform ends as if nothing were wrong."""
    async with raw_upstream(parts_of(BROKEN["chunks"])) as upstream:
        then = transformed_by(_ends_well)
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            got = await gw.ask()

        assert (got.status, got.complete) == (200, False)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_closes_the_transform(streams, server, how):
    """And the upstream's connection, while the stream is silent."""
    noted = Noted()
    script = parts_of(CHUNKED + in_chunks(b"hello", end=False), stay=True)
    async with raw_upstream(script) as upstream:
        then = transformed_by(noted)
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await client.until(b"hello")
                client.leave(how)
                async with asyncio.timeout(1):
                    await upstream.closed.wait()
                    await noted.closed.wait()

        assert gw.blamed() == 0
        assert gw.raised == []


async def test_a_client_that_leaves_ends_a_transform_that_hangs(streams):
    """As it waits for something else than the upstream."""
    closed = asyncio.Event()

    async def hanging(chunks):
        try:
            yield b"hello"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with raw_upstream(answer_of(body=b"x")) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(hanging)) as gw:
            async with gw.client() as client:
                await client.send(gw.head())
                await client.until(b"hello")
                client.leave("reset")
                async with asyncio.timeout(1):
                    await closed.wait()


async def test_only_the_total_deadline_ends_a_transform_that_hangs(streams):
    """The idle time is for the upstream's next byte."""

    async def hanging(chunks):
        yield b"hello"
        await asyncio.Event().wait()

    async with raw_upstream(answer_of(body=b"x")) as upstream:
        options = {"timeout": Timeout(idle=0.05, total=0.5), "then": transformed_by(hanging)}
        async with streams.gateway_with(upstream, **options) as gw:
            loop = asyncio.get_running_loop()
            began = loop.time()
            got = await gw.ask()

        assert not got.complete
        assert loop.time() - began > 0.4
        assert gw.blamed() == 0


async def test_an_upstream_that_falls_silent_is_blamed_behind_a_transform(streams):
    """The idle time holds as ever."""
    script = parts_of(CHUNKED + in_chunks(b"hello", end=False), stay=True)
    async with raw_upstream(script) as upstream:
        options = {"timeout": Timeout(idle=0.1), "then": transformed_by(same)}
        async with streams.gateway_with(upstream, **options) as gw:
            assert not (await gw.ask()).complete

        assert gw.blamed() == 1


async def test_a_transform_that_stops_early_ends_the_response(streams, server):
    """What it has yielded is the whole body; the upstream is let go of."""

    async def brief(chunks):
        async for chunk in chunks:
            yield chunk[:5]
            return

    script = parts_of(CHUNKED + in_chunks(b"hello world", end=False), stay=True)
    async with raw_upstream(script) as upstream:
        then = transformed_by(brief)
        async with streams.gateway_with(upstream, then=then, server=server) as gw:
            got = await gw.ask()
            await true(upstream.closed.is_set)

        assert (got.body, got.complete) == (b"hello", True)
        assert gw.blamed() == 0


async def test_a_transform_of_text_is_a_type_error(streams):
    """The client is dropped, and the application told."""

    async def text(chunks):
        async for chunk in chunks:
            yield chunk.decode()

    async with raw_upstream(answer_of(body=b"hello")) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(text)) as gw:
            assert not (await gw.ask()).complete

        assert [type(error) for error in gw.raised] == [TypeError]


async def test_both_bodies_are_transformed_at_once(streams, server):
    """An echo, chunk by chunk."""

    async def echo(reader, writer):
        writer.write(CHUNKED)
        while data := await reader.read(65536):
            writer.write(data)
            if data.endswith(b"0\r\n\r\n"):
                break

    async with raw_upstream(echo) as upstream:
        options = {"changes": Changes(transforms=(upper,)), "then": transformed_by(_doubled)}
        async with streams.gateway_with(upstream, server=server, **options) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
                for part in (b"one", b"two"):
                    await client.send(in_chunks(part, end=False))
                    await client.until(part.upper() * 2)
                await client.send(in_chunks())
                got = await client.answer()

        assert (got.body, got.complete) == (b"ONEONETWOTWO", True)


async def _doubled(chunks):
    async for chunk in chunks:
        yield chunk * 2


async def test_any_transports_response_is_transformed(streams):
    """Decoded by us."""

    def handle(_request):
        stream = httpx.ByteStream(GZIPPED)
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream)

    upstream = Upstream("http://test", transport=httpx.MockTransport(handle))
    async with streams.gateway_with(upstream, then=transformed_by(upper)) as gw:
        assert (await gw.ask()).body == HELLO.upper()


async def test_an_upstream_that_gives_a_slow_transform_up_is_not_blamed(streams):
    """It was not read meanwhile."""

    async def slow(chunks):
        async for chunk in chunks:
            await asyncio.sleep(1.1)
            yield chunk

    async with raw_upstream(parts_of(CHUNKED + in_chunks(b"hello", end=False))) as upstream:
        async with streams.gateway_with(upstream, then=transformed_by(slow)) as gw:
            assert not (await gw.ask()).complete

        assert gw.blamed() == 0


@pytest.mark.parametrize(("transforms", "kept"), [((), True), ((same,), False)])
async def test_trailers_follow_but_for_digests_of_what_was_changed(streams, transforms, kept):
    """Where the server and the client take them."""
    answer = CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Digest: x\r\n\r\n"
    scope: dict[str, Any] = {
        "method": "GET",
        "headers": [(b"host", b"x"), (b"te", b"trailers"), (b"connection", b"te")],
        "extensions": {"http.response.trailers": {}},
    }
    async with raw_upstream(answer) as upstream:
        sent = await call(Upstream(upstream.url), transforms=transforms, **scope)

        names = [name for name, _ in sent[-1]["headers"]]
        assert names == [b"x-sum", b"content-digest"][: 1 + kept]


async def test_an_exchange_is_closed_whose_body_cannot_be_decoded(streams):
    """Nothing was sent, and nothing is left of it."""
    answer = answer_of("Content-Encoding: br", body=b"hello")
    async with raw_upstream(answer) as upstream:
        app = FastAPI()

        async def forward(scope, receive, send):
            client = ClientStream(scope, receive)
            try:
                exchange = await Forwarding(client, app.state.pool.upstreams[0]).open()
                with pytest.raises(BadGateway):
                    await exchange.relay(send, 200, [], (same,))
                await Response(status_code=502)(scope, receive, send)
            finally:
                await client.aclose()

        app.mount("/", forward)
        async with streams.gateway_with(upstream, app=app) as gw:
            assert (await gw.ask()).status == 502
