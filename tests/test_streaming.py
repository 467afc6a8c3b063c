"""Bodies in motion: streaming, back-pressure, truncation, and clients that leave."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import contextlib
import socket
import struct
import tracemalloc
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware

from fastapi_proxy_router import ProxyRouter, Timeout, Upstream, UpstreamPool, proxy_pass
from tests.servers import RawUpstream, Served, get_raw, raw_upstream, send_raw, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = 1024 * 1024


def gateway(upstream: Served, **options) -> FastAPI:
    app = FastAPI()
    app.state.pool = UpstreamPool(upstream.url, **options)
    app.include_router(ProxyRouter(app.state.pool))
    return app


async def connect(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(served.host, served.port)


async def leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "reset":
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def within_a_second(event: asyncio.Event) -> None:
    async with asyncio.timeout(1):
        await event.wait()


async def test_events_arrive_one_by_one(server):
    """A server-sent event reaches the client before the upstream has written the next one."""
    read_first = asyncio.Event()

    async def events(_reader, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
        )
        await read_first.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await writer.drain()

    async with raw_upstream(events) as upstream, serve(gateway(upstream), server) as gw:
        reader, writer = await connect(gw)
        writer.write(GET)
        async with asyncio.timeout(5):
            await reader.readuntil(b"data: 1\n\n")
            read_first.set()
            await reader.readuntil(b"data: 2\n\n")
            await reader.readuntil(b"0\r\n\r\n")
        await leave(writer, "close")


async def test_the_head_arrives_before_the_first_byte_of_the_body(server):
    """A silent event stream is open for the client as soon as the upstream opened it."""
    read_head = asyncio.Event()

    async def silent(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await read_head.wait()
        writer.write(b"2\r\nok\r\n0\r\n\r\n")
        await writer.drain()

    async with raw_upstream(silent) as upstream, serve(gateway(upstream), server) as gw:
        reader, writer = await connect(gw)
        writer.write(GET)
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
            read_head.set()
            await reader.readuntil(b"0\r\n\r\n")
        await leave(writer, "close")


async def test_an_upload_is_streamed(server):
    """The upstream has the first part of a body before the client has sent the second."""
    first, arrived = asyncio.Event(), []

    async def receive(reader, writer):
        arrived.append(await reader.readexactly(5))
        first.set()
        arrived.append(await reader.readexactly(5))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw_upstream(receive) as upstream, serve(gateway(upstream), server) as gw:
        reader, writer = await connect(gw)
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfirst")
        async with asyncio.timeout(5):
            await first.wait()
            writer.write(b"later")
            head = await reader.readuntil(b"\r\n\r\n")
        await leave(writer, "close")

        assert status(head) == 200
        assert arrived == [b"first", b"later"]


async def _send_forever(_reader, writer, *, size=64 * MIB):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(size // 65536):
        writer.write(bytes(65536))
        await writer.drain()


async def test_a_slow_reader_slows_the_upstream():
    """A download of 64 MiB by a slow reader never costs the process more than 8 MiB."""
    async with raw_upstream(_send_forever) as upstream, serve(gateway(upstream)) as gw:
        reader, writer = await connect(gw)
        tracemalloc.start()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        received = 0
        while received < 64 * MIB:
            received += len(await reader.read(65536))
            for _ in range(10):
                await asyncio.sleep(0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await leave(writer, "close")

        assert peak < 8 * MIB


async def test_a_slow_upstream_slows_the_client():
    """An upload of 64 MiB to a slow upstream never costs the process more than 8 MiB."""

    async def slow(reader, writer):
        received = 0
        while received < 64 * MIB:
            received += len(await reader.read(65536))
            for _ in range(10):
                await asyncio.sleep(0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw_upstream(slow) as upstream, serve(gateway(upstream)) as gw:
        reader, writer = await connect(gw)
        tracemalloc.start()
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(1024):
            writer.write(bytes(65536))
            await writer.drain()
        assert status(await reader.readuntil(b"\r\n\r\n")) == 200
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await leave(writer, "close")

        assert peak < 8 * MIB


TRUNCATED = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "mid-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
}


def truncating(answer: bytes, how: str = "close"):
    async def script(_reader, writer):
        writer.write(answer)
        await writer.drain()
        await leave(writer, how)

    return script


@pytest.mark.parametrize("fault", TRUNCATED)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_truncated_response_is_never_ended_cleanly(server, fault, how):
    """When the upstream breaks off, the client's connection breaks off too."""
    script = truncating(TRUNCATED[fault], how)
    async with raw_upstream(script) as upstream, serve(gateway(upstream), server) as gw:
        answer = await send_raw(gw, GET)

        if status(answer) == 502:
            assert how == "reset"  # The reset overtook the head.
        else:
            assert not answer.endswith(b"0\r\n\r\n")
            assert len(answer.split(b"\r\n\r\n", 1)[1]) < 1000


async def test_a_truncated_response_stays_truncated_behind_middleware():
    """A middleware that wraps the response cannot turn an abort into a clean end."""

    async def passthrough(request, call_next):
        return await call_next(request)

    async with raw_upstream(truncating(TRUNCATED["chunks"])) as upstream:
        app = gateway(upstream)
        app.add_middleware(BaseHTTPMiddleware, dispatch=passthrough)
        async with serve(app) as gw:
            answer = await send_raw(gw, GET)

            assert b"hello" in answer
            assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_before_the_head_ends_the_exchange(server, how):
    """While the upstream is still thinking, its connection is closed within a second."""
    gone = asyncio.Event()

    async def think(reader, _writer):
        await reader.read()
        gone.set()

    async with raw_upstream(think) as upstream:
        app = gateway(upstream)
        async with serve(app, server) as gw:
            _, writer = await connect(gw)
            writer.write(GET)
            await upstream.received.wait()
            await leave(writer, how)
            await within_a_second(gone)

    assert app.state.pool.upstreams[0].in_flight == 0


async def test_a_client_that_leaves_is_noticed_behind_middleware():
    """Also through Starlette's BaseHTTPMiddleware, before the head and in a silent stream."""

    async def passthrough(request, call_next):
        return await call_next(request)

    async def think(reader, writer):
        if upstream.last.target == b"/stream":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()

    async with raw_upstream(think) as upstream:
        app = gateway(upstream)
        app.add_middleware(BaseHTTPMiddleware, dispatch=passthrough)
        async with serve(app) as gw:
            for target in (b"/", b"/stream"):
                upstream.received.clear()
                upstream.closed.clear()
                reader, writer = await connect(gw)
                writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                await upstream.received.wait()
                if target == b"/stream":
                    await reader.readuntil(b"hello")
                await leave(writer, "close")
                await within_a_second(upstream.closed)


async def call(app: FastAPI, *received: dict[str, Any], **scope: Any) -> list[dict[str, Any]]:
    """Call an application as a server would, with what no client can send through a good server."""
    sent: list[dict[str, Any]] = []
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    for message in received:
        messages.put_nowait(message)

    async def send(message):
        sent.append(message)

    defaults = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "client": ("127.0.0.1", 1),
        "scheme": "http",
    }
    async with asyncio.timeout(3):
        await app({**defaults, **scope}, messages.get, send)
    return sent


async def test_an_http_2_client_that_leaves_before_its_body_is_let_go():
    """A request whose body never comes does not wait for it for ever."""
    async with raw_upstream() as upstream:
        sent = await call(gateway(upstream), {"type": "http.disconnect"}, http_version="2")

        assert sent[0]["status"] == 499
        assert upstream.connections == 0


async def test_an_http_2_body_that_does_not_come_is_a_408():
    """The first byte of a body that nothing announced has the idle deadline, too."""
    async with raw_upstream() as upstream:
        app = gateway(upstream, timeout=Timeout(idle=0.1))
        sent = await call(app, http_version="2")

        assert sent[0]["status"] == 408
        assert app.state.pool.upstreams[0].in_flight == 0


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("body", [b"hello", b""])
async def test_a_request_beside_the_forwarded_one_leaves_its_body_alone(version, body):
    """An endpoint may ask one upstream for permission before it forwards to another."""
    async with raw_upstream() as auth, raw_upstream() as upstream:
        app = FastAPI()

        @app.post("/")
        async def guarded(request: Request):
            asked = await proxy_pass(request, Upstream(auth.url), method="GET", path="/auth")
            assert asked.status_code == 200
            return await proxy_pass(request, Upstream(upstream.url))

        headers = [(b"host", b"x")]
        if version == "1.1" and body:
            headers.append((b"content-length", b"5"))
        message = {"type": "http.request", "body": body, "more_body": False}
        sent = await call(app, message, http_version=version, headers=headers)

        assert sent[0]["status"] == 200
        assert (auth.last.line, auth.last.body) == (b"GET /auth HTTP/1.1", b"")
        assert body in upstream.last.body


async def test_a_transport_that_ignores_the_body_and_the_clock_is_a_504():
    """The deadline holds for any transport."""
    app = FastAPI()
    pool = UpstreamPool(
        Upstream("http://test", transport=_Never()), timeout=Timeout(connect=0.05, response=0.05)
    )
    app.include_router(ProxyRouter(pool))
    sent = await call(app, method="GET")

    assert sent[0]["status"] == 504


class _Never(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("body", [b"hello", b""])
async def test_an_http_2_body_that_a_dependency_has_read_is_sent(body):
    """Also without a header that announces it, and as none where there is none."""

    async def audit(request: Request) -> None:
        await request.body()

    async with raw_upstream() as upstream:
        app = FastAPI(dependencies=[Depends(audit)])
        app.include_router(ProxyRouter(upstream.url))
        message = {"type": "http.request", "body": body, "more_body": False}
        sent = await call(app, message, http_version="2")

        assert sent[0]["status"] == 200
        assert (body in upstream.last.body) is True
        assert upstream.last.values(b"content-length") == ([b"5"] if body else [])


@pytest.mark.parametrize("body", [b"hell", b"hello you"])
async def test_a_body_of_another_length_is_refused(body):
    """Neither padded nor cut: the upstream sees a broken request and the client a 400."""
    async with raw_upstream() as upstream:
        message = {"type": "http.request", "body": body, "more_body": False}
        headers = [(b"host", b"x"), (b"content-length", b"5")]
        sent = await call(gateway(upstream), message, headers=headers)

        assert sent[0]["status"] == 400
        assert upstream.requests == []


async def _silent(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await reader.read()


async def test_expect_without_a_body_does_not_hide_that_a_client_leaves(server):
    """A GET that expects 100-continue is watched like any other."""
    async with raw_upstream(_silent) as upstream, serve(gateway(upstream), server) as gw:
        reader, writer = await connect(gw)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n")
        await reader.readuntil(b"hello")
        await leave(writer, "reset")
        await within_a_second(upstream.closed)


def unread(upstream: Served) -> FastAPI:
    """Build an app whose endpoints do not forward the body that the client sends."""
    app, target = FastAPI(), Upstream(upstream.url)

    @app.post("/own")
    async def own(request: Request):
        return await proxy_pass(request, target, body=b"mine")

    @app.post("/form")
    async def form(request: Request):
        await request.form()
        return await proxy_pass(request, target, json={"mine": True})

    @app.post("/read")
    async def read(request: Request):
        await request.body()
        return await proxy_pass(request, target)

    return app


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/own", "Content-Type: text/plain", b"x" * 300_000),
        ("/own", "Expect: 100-continue", b"x" * 10),
        ("/form", "Content-Type: application/x-www-form-urlencoded", b"a=1"),
        ("/read", "Expect: 100-continue", b"x" * 300_000),
    ],
)
async def test_a_client_whose_body_is_not_forwarded_is_watched_too(path, headers, body):
    """Large, consumed, replaced or kept: the upstream is let go when the client leaves."""
    async with raw_upstream(_silent) as upstream, serve(unread(upstream)) as gw:
        reader, writer = await connect(gw)
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await reader.readuntil(b"hello")
        await leave(writer, "reset")
        await within_a_second(upstream.closed)


async def test_two_exchanges_at_once_are_both_watched():
    """A request that is sent to two upstreams at once leaves neither behind."""
    async with raw_upstream(_silent) as first, raw_upstream(_thinking) as second:
        app = FastAPI()

        @app.get("/")
        async def both(request: Request):
            answers = await asyncio.gather(
                proxy_pass(request, Upstream(first.url)), proxy_pass(request, Upstream(second.url))
            )
            return answers[0]

        async with serve(app) as gw:
            _, writer = await connect(gw)
            writer.write(GET)
            await first.received.wait()
            await second.received.wait()
            await leave(writer, "reset")
            await within_a_second(second.closed)
            await within_a_second(first.closed)


async def _thinking(reader, _writer):
    await reader.read()


async def test_a_transport_may_answer_while_it_reads_the_body():
    """An answer that is made of the body is relayed whole."""

    app = FastAPI()
    app.include_router(ProxyRouter(Upstream("http://test", transport=_Echo())))
    async with serve(app) as gw:
        got = await get_raw(gw, method="POST", body=b"x" * 200_000)

        assert status(got) == 200
        assert got.count(b"x") >= 200_000


class _Echo(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=request.stream)


async def test_background_tasks_run_whether_or_not_the_client_stays():
    """A task that a dependency adds is not lost when the client leaves a stream."""
    ran = asyncio.Event()

    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.set)

    async with raw_upstream(_silent) as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url, dependencies=[Depends(later)]))
        async with serve(app) as gw:
            reader, writer = await connect(gw)
            writer.write(GET)
            await reader.readuntil(b"hello")
            await leave(writer, "reset")
            await within_a_second(ran)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_a_silent_stream_ends_the_exchange(server, how):
    """Also while no byte flows, the upstream's connection is closed within a second."""
    gone = asyncio.Event()

    async def silent(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()
        gone.set()

    async with raw_upstream(silent) as upstream:
        app = gateway(upstream)
        async with serve(app, server) as gw:
            reader, writer = await connect(gw)
            writer.write(GET)
            await reader.readuntil(b"hello")
            await leave(writer, how)
            await within_a_second(gone)

    assert app.state.pool.upstreams[0].in_flight == 0


async def test_a_client_that_leaves_a_download_ends_the_exchange(server):
    """The upstream is not read to its end for nobody."""

    async def endless(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"5\r\nhello\r\n" * 1000)
            await writer.drain()

    async with raw_upstream(endless) as upstream, serve(gateway(upstream), server) as gw:
        reader, writer = await connect(gw)
        writer.write(GET)
        await reader.readuntil(b"hello")
        await leave(writer, "reset")
        await within_a_second(upstream.closed)


@pytest.mark.parametrize(
    ("framing", "part"),
    [(b"Content-Length: 10", b"hello"), (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n")],
)
async def test_a_truncated_upload_is_never_completed(server, framing, part):
    """When the client breaks off, the upstream sees a broken request, not a short one."""
    started, body = asyncio.Event(), bytearray()

    async def receive(reader, _writer):
        while chunk := await reader.read(65536):
            body.extend(chunk)
            started.set()

    async with raw_upstream(receive) as upstream, serve(gateway(upstream), server) as gw:
        _, writer = await connect(gw)
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + part)
        await started.wait()
        await leave(writer, "close")
        await within_a_second(upstream.closed)

    assert bytes(body) == part


async def test_a_client_that_leaves_is_not_blamed_on_the_upstream(server, caplog):
    """Nothing is logged as a failure when it is the client that left."""

    async def think(reader, _writer):
        await reader.read()

    async with raw_upstream(think) as upstream, serve(gateway(upstream), server) as gw:
        _, writer = await connect(gw)
        writer.write(GET)
        await upstream.received.wait()
        await leave(writer, "close")
        await within_a_second(upstream.closed)

    assert [record for record in caplog.records if record.name == "fastapi_proxy_router"] == []


async def test_100_continue_waits_for_the_upstream(server):
    """A client that waits for 100 Continue hears 502, not 100, when the upstream is down."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = Served(unused.getsockname()[1])
        async with serve(gateway(down), server) as gw:
            reader, writer = await connect(gw)
            writer.write(
                b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            )
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                if server == "hypercorn":  # It says 100 before the application is called.
                    head = await reader.readuntil(b"\r\n\r\n")
            await leave(writer, "close")

            assert status(head) == 502


async def test_100_continue_is_given_once_the_upstream_is_there(server):
    """Then the client sends its body, which arrives whole; Expect stays here."""
    async with raw_upstream() as upstream, serve(gateway(upstream), server) as gw:
        reader, writer = await connect(gw)
        writer.write(
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        async with asyncio.timeout(5):
            assert status(await reader.readuntil(b"\r\n\r\n")) == 100
            writer.write(b"hello")
            assert status(await reader.readuntil(b"\r\n\r\n")) == 200
        await leave(writer, "close")

        assert upstream.last.body == b"hello"
        assert upstream.last.values(b"expect") == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", 502),
        (b"nonsense\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Le", 502),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n", 502),
    ],
)
async def test_an_upstream_that_breaks_the_protocol_is_a_502(server, answer, code):
    """Whatever the upstream sends instead of HTTP, the client gets a clean answer without names."""
    async with raw_upstream(truncating(answer)) as upstream, serve(gateway(upstream), server) as gw:
        got = await get_raw(gw)

        assert status(got) == code
        assert got.endswith(b'{"detail":"Bad Gateway"}')
        assert upstream.authority.encode() not in got


async def test_an_upstream_that_is_down_is_a_502_with_one_line_in_the_log(server, caplog):
    """The client is not told where the upstream is; the log is, with the reason and no secret."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = Served(unused.getsockname()[1])
        async with serve(gateway(down), server) as gw:
            got = await get_raw(gw, "/x?token=SECRET", "Authorization: Bearer SECRET")

    assert status(got) == 502
    assert down.authority.encode() not in got
    lines = [r.getMessage() for r in caplog.records if r.name == "fastapi_proxy_router"]
    assert len(lines) == 1
    assert down.url in lines[0]
    assert "ConnectError" in lines[0]
    assert "SECRET" not in lines[0]


async def test_an_upstream_that_never_answers_is_a_504(server):
    """The response deadline runs out and the upstream's connection is closed."""

    async def think(reader, _writer):
        await reader.read()

    async with raw_upstream(think) as upstream:
        app = gateway(upstream, timeout=Timeout(response=0.1))
        async with serve(app, server) as gw:
            got = await get_raw(gw, method="POST", body=b"x")

            assert status(got) == 504
            await within_a_second(upstream.closed)
            assert app.state.pool.upstreams[0].in_flight == 0


async def test_an_upload_that_stalls_is_a_408(server):
    """A client that sends nothing for too long does not hold its upstream."""

    async def receive(reader, _writer):
        await reader.read()

    async with raw_upstream(receive) as upstream:
        async with serve(gateway(upstream, timeout=Timeout(idle=0.1)), server) as gw:
            reader, writer = await connect(gw)
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello")
            async with asyncio.timeout(5):
                assert status(await reader.readuntil(b"\r\n\r\n")) == 408
            await within_a_second(upstream.closed)
            await leave(writer, "close")


async def test_a_drip_of_header_bytes_does_not_move_the_deadline():
    """The response deadline is for the whole head, not for each byte of it."""

    async def drip(_reader, writer):
        while True:
            writer.write(b"HTTP/1.1 200 OK\r\nX-A: "[:20])
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_upstream(drip) as upstream:
        async with serve(gateway(upstream, timeout=Timeout(response=0.2))) as gw:
            async with asyncio.timeout(3):
                assert status(await get_raw(gw)) in (502, 504)


async def test_a_body_that_stalls_is_aborted():
    """The idle deadline drops the client's connection in the middle of a body."""

    async def stall(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read()

    async with raw_upstream(stall) as upstream:
        async with serve(gateway(upstream, timeout=Timeout(idle=0.1))) as gw:
            got = await send_raw(gw, GET)

            assert b"hello" in got
            assert not got.endswith(b"0\r\n\r\n")
            await within_a_second(upstream.closed)


async def test_pipelined_requests_are_answered_in_order():
    """Two requests in one packet get two answers, each its own."""

    async def echo(_reader, writer):
        target = upstream.last.target
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(target), target))
        await writer.drain()

    upstream: RawUpstream
    async with raw_upstream(echo) as upstream, serve(gateway(upstream)) as gw:
        got = await send_raw(
            gw,
            b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )

        assert got.index(b"/first") < got.index(b"/second")
