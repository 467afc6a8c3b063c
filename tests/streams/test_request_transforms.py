"""Functions that the client's body passes through on its way to the upstream."""

import asyncio
import errno
import tracemalloc
from contextlib import suppress

import httpx
import pytest
from fastapi import HTTPException

from fastapi_proxy_router import BadGateway, RequestRefused, Timeout, Upstream
from fastapi_proxy_router.core.changes import Changes
from fastapi_proxy_router.core.headers import Edits
from tests.retries.pools import closing, fast, true
from tests.servers import raw_upstream
from tests.streams.endpoints import (
    MIB,
    Noted,
    answer_of,
    call,
    in_chunks,
    out_of_chunks,
    same,
    upper,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("streams")]

DESCRIBING = (b"content-length", b"content-md5", b"digest", b"content-digest", b"repr-digest")


def through(*transforms, **fields):
    return Changes(transforms=transforms, **fields)


async def test_the_upstream_gets_what_the_transform_yields(streams, server):
    """In chunks, whatever framing the client has used."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(upper), server=server) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
                await client.send(in_chunks(b"one", b"two"))
                assert (await client.answer()).status == 200

        assert [out_of_chunks(one.body) for one in upstream.requests] == [b"HELLO", b"ONETWO"]
        for request in upstream.requests:
            assert request.values(b"transfer-encoding") == [b"chunked"]
            assert request.values(b"content-length") == []


async def test_several_transforms_see_the_body_in_order(streams):
    """Each what the one before has yielded."""

    def adding(tail):
        async def add(chunks):
            async for chunk in chunks:
                yield chunk
            yield tail

        return add

    async with raw_upstream() as upstream:
        changes = through(adding(b"b"), upper, adding(b"c"))
        async with streams.gateway_with(upstream, changes=changes) as gw:
            await gw.ask("POST", body=b"a")

        assert out_of_chunks(upstream.last.body) == b"ABc"


async def test_only_headers_that_describe_the_old_bytes_are_dropped(streams):
    """What the body is, and how it is coded, is for the transform to keep."""
    sent = [f"{name.decode()}: old" for name in DESCRIBING[1:]]
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(same)) as gw:
            await gw.ask(
                "POST", "/x", *sent, "Content-Encoding: gzip", "Content-Type: a/b", body=b"x"
            )

        assert [upstream.last.values(name) for name in DESCRIBING] == [[]] * 5
        assert upstream.last.values(b"content-encoding") == [b"gzip"]
        assert upstream.last.values(b"content-type") == [b"a/b"]


async def test_a_digest_that_the_override_sets_is_sent(streams):
    """Whoever sets it knows what the transform does."""
    edits = Edits(set=((b"content-digest", b"new"),))
    async with raw_upstream() as upstream:
        changes = through(same, request=(edits,))
        async with streams.gateway_with(upstream, changes=changes) as gw:
            await gw.ask("POST", "/x", "Content-Digest: old", body=b"x")

        assert upstream.last.values(b"content-digest") == [b"new"]


async def test_a_transform_sees_the_overrides_own_body(streams):
    """As one chunk, and the client's not at all."""
    noted = Noted()
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(noted, body=b"mine")) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

        assert noted.read == [b"mine"]
        assert out_of_chunks(upstream.last.body) == b"mine"


async def test_a_get_that_drops_the_clients_body_transforms_nothing(streams):
    """There is no body left."""
    noted = Noted()
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(noted, method="GET")) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

        assert noted.began == 0
        assert upstream.last.values(b"transfer-encoding") == []


async def test_a_request_without_a_body_is_not_transformed(streams, server):
    """None is made up for it."""
    noted = Noted()
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(noted), server=server) as gw:
            assert (await gw.ask("GET")).status == 200

        assert noted.began == 0
        assert upstream.last.values(b"transfer-encoding") == []


async def test_an_empty_body_that_is_announced_is_transformed(streams):
    """The transform may have something to say all the same."""

    async def greeting(chunks):
        async for chunk in chunks:
            yield chunk
        yield b"hi"

    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(greeting)) as gw:
            assert (await gw.ask("POST", "/x", "Content-Length: 0")).status == 200

        assert out_of_chunks(upstream.last.body) == b"hi"


async def test_chunks_are_passed_on_one_by_one(streams, server):
    """The upstream has the first before the client has sent the second."""
    first = asyncio.Event()

    async def receive(reader, writer):
        await reader.readuntil(b"ONE\r\n")
        first.set()
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(answer_of())

    async with raw_upstream(receive) as upstream:
        async with streams.gateway_with(upstream, changes=through(upper), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
                await client.send(in_chunks(b"one", end=False))
                async with asyncio.timeout(5):
                    await first.wait()
                await client.send(in_chunks(b"two"))
                assert (await client.answer()).status == 200


async def test_a_slow_upstream_slows_the_client(streams):
    """An upload of 50 MiB through a transform costs no more than 8 MiB, and waits meanwhile."""
    go, sent = asyncio.Event(), 0

    async def stalling(reader, writer):
        await go.wait()
        while not (await reader.read(65536)).endswith(b"0\r\n\r\n"):
            pass
        writer.write(answer_of())

    async with raw_upstream(stalling) as upstream:
        async with (
            streams.gateway_with(upstream, changes=through(same)) as gw,
            gw.client() as client,
        ):
            await client.send(gw.head("POST", "/x", f"Content-Length: {50 * MIB}"))
            tracemalloc.start()

            async def upload():
                nonlocal sent
                for _ in range(50 * 16):
                    await client.send(bytes(65536))
                    sent += 65536

            uploading = asyncio.create_task(upload())
            await _stalled(lambda: sent)
            assert sent < 40 * MIB
            go.set()
            await uploading
            assert (await client.answer()).status == 200
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
            tracemalloc.stop()


async def _stalled(progress):
    """Wait until nothing has moved for a while."""
    before = -1
    async with asyncio.timeout(10):
        while before != progress():
            before = progress()
            await asyncio.sleep(0.2)


async def test_expect_is_answered_when_the_transform_reads(streams, server):
    """The client waits for 100 Continue before it sends."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(upper), server=server) as gw:
            async with gw.client() as client:
                headers = ("Content-Length: 5", "Expect: 100-continue")
                await client.send(gw.head("POST", "/x", *headers))
                await client.until(b"HTTP/1.1 100 ")
                await client.send(b"hello")
                assert (await client.answer()).status == 200

        assert out_of_chunks(upstream.last.body) == b"HELLO"


async def test_every_try_is_transformed_anew(streams):
    """From the bytes of the client that were kept."""
    noted = Noted()
    async with closing(after=10) as broken, raw_upstream() as good:
        options = {"retry": fast(), "changes": through(noted)}
        async with streams.gateway_with(broken, good, **options) as gw:
            assert (await gw.ask("PUT", body=b"hello")).status == 200

        assert noted.began == 2
        assert out_of_chunks(good.last.body) == b"hello"


async def test_a_transform_is_closed_when_the_upstream_fails(streams):
    """While it waits for the client's next chunk."""
    noted = Noted()
    async with closing(after=10) as broken:
        async with (
            streams.gateway_with(broken, changes=through(noted)) as gw,
            gw.client() as client,
        ):
            await client.send(gw.head("POST", "/x", "Content-Length: 10"))
            await client.send(b"hello")
            assert (await client.answer()).status == 502

        assert noted.closed.is_set()
        assert gw.blamed() == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_transform_is_closed_when_the_client_leaves(streams, server, how):
    """And the upload is not completed upstream."""
    noted, arrived = Noted(), []

    async def receive(reader, _writer):
        arrived.append(await reader.readuntil(b"hello\r\n"))
        arrived.append(await reader.read())

    async with raw_upstream(receive) as upstream:
        async with streams.gateway_with(upstream, changes=through(noted), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Content-Length: 10") + b"hello")
                await true(lambda: arrived)
                client.leave(how)
                async with asyncio.timeout(1):
                    await upstream.closed.wait()

        assert arrived[1:] == [b""]
        assert noted.closed.is_set()
        assert gw.blamed() == 0


ERRORS = [
    ValueError("mistake"),
    OSError(errno.EMFILE, "no more files"),
    TimeoutError("too slow"),
    httpx.ConnectError("elsewhere"),
    BadGateway("of the hook"),
    HTTPException(418, "teapot"),
]


def failing(error):
    async def fail(chunks):
        async for chunk in chunks:
            yield chunk
            raise error

    return fail


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_of_a_transform_is_the_applications(streams, error):
    """It is raised as it is, nobody is blamed or asked again, and the upload is not completed."""
    arrived = bytearray()

    async def receive(reader, _writer):
        while data := await reader.read(65536):
            arrived.extend(data)

    async with raw_upstream(receive) as upstream, raw_upstream() as other:
        options = {"retry": fast(), "timeout": Timeout(total=5), "changes": through(failing(error))}
        async with streams.gateway_with(upstream, other, **options) as gw:
            answer = await gw.ask("PUT", body=b"hello")
            await true(upstream.closed.is_set)

        assert answer.status == getattr(error, "status_code", 500)
        assert gw.raised == ([] if isinstance(error, HTTPException) else [error])
        assert error.__cause__ is error.__context__ is None
        assert not arrived.endswith(b"0\r\n\r\n")
        assert other.connections == gw.blamed() == 0


async def test_an_error_of_a_transform_is_told_apart_in_any_transport(streams):
    """Also by a transport that makes an error of its own of it."""

    class Wrapping(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            try:
                await request.aread()
            except Exception as error:
                raise httpx.WriteError("lost") from error
            return httpx.Response(200)

    error = ValueError("mistake")
    upstream = Upstream("http://test", transport=Wrapping())
    async with streams.gateway_with(upstream, changes=through(failing(error))) as gw:
        assert (await gw.ask("POST", body=b"hello")).status == 500

        assert gw.raised == [error]
        assert gw.blamed() == 0


async def test_any_transport_sends_what_is_transformed(streams):
    """And the transform is closed."""
    noted, got = Noted(), []

    async def handle(request):
        got.append(await request.aread())
        return httpx.Response(200)

    upstream = Upstream("http://test", transport=httpx.MockTransport(handle))
    async with streams.gateway_with(upstream, changes=through(upper, noted)) as gw:
        assert (await gw.ask("POST", body=b"hello")).status == 200

    assert got == [b"HELLO"]
    assert noted.closed.is_set()


async def test_a_transform_is_closed_that_a_transport_leaves(streams):
    """It has read some of the body, answers, and never looks at it again."""
    noted = Noted()

    class Careless(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            self.kept = aiter(request.stream)
            await anext(self.kept)
            return httpx.Response(200, stream=httpx.ByteStream(b"ok"))

    upstream = Upstream("http://test", transport=Careless())
    async with streams.gateway_with(upstream, changes=through(noted)) as gw:
        assert (await gw.ask("POST", body=b"hello")).status == 200
        assert noted.closed.is_set()


async def test_a_transform_cannot_make_a_whole_of_an_upload_that_broke_off(streams, server):
    """Whatever it does when the client leaves, the upstream never sees an end."""
    arrived = []

    async def hiding(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except Exception:  # noqa: BLE001 - that is what is tested
            yield b"end"

    async def receive(reader, _writer):
        arrived.append(await reader.readuntil(b"hello\r\n"))
        arrived.append(await reader.read())

    async with raw_upstream(receive) as upstream:
        async with streams.gateway_with(upstream, changes=through(hiding), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Content-Length: 10") + b"hello")
                await true(lambda: arrived)
                client.leave("reset")
                await true(upstream.closed.is_set)

        assert b"0\r\n\r\n" not in arrived[1]


async def _deaf(chunks):
    with suppress(BaseException):
        async for chunk in chunks:
            yield chunk


async def _impatient(chunks):
    with suppress(TimeoutError):
        while True:
            yield await asyncio.wait_for(anext(chunks), 0.05)
    yield b"end"


@pytest.mark.parametrize(("transform", "status"), [(_deaf, 504), (_impatient, 500)])
async def test_a_transform_cannot_make_a_whole_of_an_upload_that_was_cancelled(
    streams, transform, status
):
    """By a deadline of ours or by itself; what it reads from has no more to give then."""
    arrived = []

    async def receive(reader, _writer):
        arrived.append(await reader.read())

    async with raw_upstream(receive) as upstream:
        options = {"timeout": Timeout(total=0.4), "changes": through(transform)}
        async with streams.gateway_with(upstream, **options) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/x", "Content-Length: 10") + b"hello")
            assert (await client.answer()).status == status
            await true(upstream.closed.is_set)

        assert b"hello" in arrived[0]
        assert b"0\r\n\r\n" not in arrived[0]
        assert gw.blamed() == 0


async def test_a_transform_cannot_hide_that_another_has_failed(streams):
    """The one behind it swallows the error."""

    async def hiding(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except ValueError:
            yield b"end"

    error = ValueError("mistake")
    async with raw_upstream() as upstream:
        changes = through(failing(error), hiding)
        async with streams.gateway_with(upstream, changes=changes) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 500

        assert gw.raised == [error]
        assert upstream.requests == []


async def _text(chunks):
    async for chunk in chunks:
        yield chunk.decode()


async def _coroutine(chunks):
    return [chunk async for chunk in chunks]


@pytest.mark.parametrize("wrong", [_text, _coroutine, lambda _chunks: [b"x"]])
async def test_a_transform_of_another_kind_is_a_type_error(streams, wrong):
    """It yields text, or nothing at all."""
    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(wrong)) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 500

        assert [type(error) for error in gw.raised] == [TypeError]
        assert upstream.requests == []


async def test_a_transform_that_hangs_is_our_mistake(streams):
    """A 500 once the idle time is over, which the upstream is not blamed for."""
    never = asyncio.Event()

    async def hanging(chunks):
        async for chunk in chunks:
            await never.wait()
            yield chunk

    async with raw_upstream() as upstream, raw_upstream() as other:
        options = {"retry": fast(), "timeout": Timeout(idle=0.1), "changes": through(hanging)}
        async with streams.gateway_with(upstream, other, **options) as gw:
            assert (await gw.ask("PUT", body=b"hello")).status == 500

        assert [type(error) for error in gw.raised] == [TimeoutError]
        assert upstream.requests == []
        assert other.connections == gw.blamed() == 0


async def test_a_transform_that_hangs_for_the_whole_time_is_not_the_upstreams_fault(streams):
    """The deadline of the exchange is over, and the upstream had no part in it."""
    never = asyncio.Event()

    async def hanging(chunks):
        async for chunk in chunks:
            await never.wait()
            yield chunk

    async with raw_upstream() as upstream:
        options = {"timeout": Timeout(total=0.2), "changes": through(hanging)}
        async with streams.gateway_with(upstream, **options) as gw:
            assert (await gw.ask("PUT", body=b"hello")).status == 504

        assert gw.blamed() == 0


async def test_a_slow_client_is_not_a_transform_that_hangs(streams):
    """It is the client that has to send the next chunk in time: 408."""
    async with raw_upstream() as upstream:
        options = {"timeout": Timeout(idle=0.2), "changes": through(same)}
        async with streams.gateway_with(upstream, **options) as gw, gw.client() as client:
            await client.send(gw.head("POST", "/x", "Content-Length: 10") + b"hello")
            assert (await client.answer()).status == 408

        assert gw.raised == []


async def test_a_slow_transform_is_not_the_upstreams_latency(streams):
    """What it takes is left out."""

    async def slow(chunks):
        async for chunk in chunks:
            await asyncio.sleep(0.3)
            yield chunk

    async with raw_upstream() as upstream:
        async with streams.gateway_with(upstream, changes=through(slow)) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 200

        assert gw.pool.snapshot().upstreams[0].latency < 0.2


async def test_a_transform_that_stops_early_leaves_the_rest(streams, server):
    """What it has yielded is the whole body, and the client, which sends on, reads its answer."""

    async def brief(chunks):
        async for chunk in chunks:
            yield chunk[:5]
            return

    async with raw_upstream(answer_of(body=b"x" * 1000)) as upstream:
        async with streams.gateway_with(upstream, changes=through(brief), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", f"Content-Length: {4 * MIB}"))
                for _ in range(64):
                    await client.send(b"hello" + bytes(65531))
                answer = await client.answer()

        assert (answer.status, len(answer.body), answer.complete) == (200, 1000, True)
        assert out_of_chunks(upstream.last.body) == b"hello"


async def test_a_client_is_watched_whose_rest_is_not_wanted(streams, server):
    """The upstream's silent stream is ended when it leaves."""

    async def nothing(chunks):
        yield b"done"

    async def stream(reader, writer):
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()

    async with raw_upstream(stream) as upstream:
        async with streams.gateway_with(upstream, changes=through(nothing), server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Content-Length: 1000000"))
                await client.send(bytes(300_000))
                await client.until(b"hello")
                client.leave("reset")
                async with asyncio.timeout(1):
                    await upstream.closed.wait()


async def test_a_transform_that_fails_after_the_answer_began_ends_it_there(streams, server):
    """The client's connection is dropped, and the upstream is not blamed."""
    error = ValueError("mistake")

    async def duplex(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()

    async with raw_upstream(duplex) as upstream:
        changes = through(failing(error))
        async with streams.gateway_with(upstream, changes=changes, server=server) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Transfer-Encoding: chunked"))
                await client.until(b"hello")
                await client.send(in_chunks(b"one"))
                await client.end()
                assert not (await client.answer()).complete

        assert gw.raised == [error]
        assert gw.blamed() == 0


@pytest.mark.parametrize("sent", [b"hello", b""])
async def test_an_http_2_body_is_transformed_if_there_is_one(streams, sent):
    """Nothing has to announce it there."""
    noted, got = Noted(), []

    async def handle(request):
        got.append((await request.aread(), request.headers.get("transfer-encoding")))
        return httpx.Response(200)

    upstream = Upstream("http://test", transport=httpx.MockTransport(handle))
    await call(upstream, sent, changes=through(noted), http_version="2")

    assert got == [(sent, "chunked" if sent else None)]
    assert noted.began == (1 if sent else 0)


@pytest.mark.parametrize("sent", [b"hell", b"hello you"])
async def test_a_body_of_another_length_is_refused_behind_a_transform(streams, sent):
    """The length that was declared is not sent, but it was meant."""
    headers = [(b"host", b"x"), (b"content-length", b"5")]
    async with raw_upstream() as upstream:
        with pytest.raises(RequestRefused):
            await call(Upstream(upstream.url), sent, changes=through(same), headers=headers)
        await true(upstream.closed.is_set)

        assert upstream.requests == []


async def test_a_client_is_watched_whose_rest_is_not_wanted_any_more(streams):
    """The transform stops when the answer has begun."""
    go = asyncio.Event()

    async def later(chunks):
        async for chunk in chunks:
            yield chunk[:5]
            await go.wait()
            return

    async def duplex(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"4\r\ndone\r\n")
        await reader.read()

    async with raw_upstream(duplex) as upstream:
        async with streams.gateway_with(upstream, changes=through(later)) as gw:
            async with gw.client() as client:
                await client.send(gw.head("POST", "/x", "Content-Length: 1000000"))
                await client.send(bytes(300_000))
                await client.until(b"hello")
                go.set()
                await client.until(b"done")
                client.leave("reset")
                async with asyncio.timeout(1):
                    await upstream.closed.wait()


async def test_a_timeout_of_a_hook_is_not_the_upstreams(streams):
    """What sees the request before it is sent may fail in any way, too."""

    async def sender(_out, _upstream):
        raise TimeoutError("of the hook")

    async with raw_upstream() as upstream:
        options = {"timeout": Timeout(total=5), "changes": Changes(senders=(sender,))}
        async with streams.gateway_with(upstream, **options) as gw:
            assert (await gw.ask()).status == 500

        assert [type(error) for error in gw.raised] == [TimeoutError]
        assert gw.blamed() == upstream.connections == 0
