"""WebSockets through the gateway, on every server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fastapi_proxy_router import (
    GatewayTimeout,
    HeaderEdits,
    ProxyRouter,
    RouteOverride,
    Timeout,
    Upstream,
    UpstreamPool,
    WebSocketOptions,
    proxy_pass_websocket,
)
from tests.servers import Served, listening_socket, raw_upstream, serve
from tests.test_streaming import leave

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

#: A handshake in bytes, for what a client library would hide.
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Handler = Callable[[ServerConnection], Awaitable[None]]


@dataclass
class WebSocketUpstream(Served):
    connections: list[ServerConnection] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def ws_upstream(
    handler: Handler | None = None, **options
) -> AsyncIterator[WebSocketUpstream]:
    """Serve *handler*, or an echo, with the websockets library."""
    upstream = WebSocketUpstream(0)

    async def run(connection: ServerConnection) -> None:
        upstream.connections.append(connection)
        try:
            await (handler or echo)(connection)
        finally:
            await connection.close()
            upstream.closed.set()

    listener = listening_socket()
    upstream.port = listener.getsockname()[1]
    async with serve_websockets(run, sock=listener, **options):
        yield upstream


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


def gateway(upstream: Served, **options) -> FastAPI:
    app = FastAPI()
    app.state.pool = UpstreamPool(upstream.url, **options)
    app.include_router(ProxyRouter(app.state.pool, prefix="/ws"))
    return app


@asynccontextmanager
async def dialled(gw: Served, path: str = "/ws", **options) -> AsyncIterator[ClientConnection]:
    async with connect(gw.ws + path, proxy=None, max_size=None, **options) as client:
        yield client


@asynccontextmanager
async def anyio_deadline(seconds: float) -> AsyncIterator[None]:
    """Cancel as anyio does, at every await and not once."""
    with anyio.fail_after(seconds):
        yield


async def ended(client: ClientConnection) -> tuple[int | None, str]:
    async with asyncio.timeout(3):
        await client.wait_closed()
    return client.close_code, client.close_reason or ""


async def test_text_stays_text_and_binary_stays_binary(server):
    """Every message comes back with its type and bytes, the empty ones too."""
    async with ws_upstream() as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw) as client:
            for message in ("hello", "", "caf\xe9 \U0001f600", b"\x00\xff", b""):
                await client.send(message)
                assert await client.recv() == message


async def test_a_large_message_passes(server):
    """There is no cap of 1 MiB, in either direction."""
    message = b"x" * (4 * 1024 * 1024)
    async with ws_upstream(max_size=None) as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw) as client:
            await client.send(message)
            assert await client.recv() == message


async def test_fragments_arrive_as_one_message(server):
    """A message sent in fragments reaches the upstream whole."""
    async with ws_upstream() as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw) as client:
            await client.send(["a", "b", "c"])
            assert await client.recv() == "abc"


async def test_the_handshake_carries_what_the_client_sent(server):
    """Path, query, Cookie, Origin and Authorization reach the upstream; per-hop headers do not."""
    async with ws_upstream() as upstream, serve(gateway(upstream), server) as gw:
        headers = {"Cookie": "a=1", "Authorization": "Bearer x", "X-Own": "caf\xe9"}
        async with dialled(
            gw, "/ws/a%2Fb?x=%2F&y", origin="https://site.test", additional_headers=headers
        ):
            pass
        async with dialled(upstream, "/", additional_headers=headers):
            pass
        request, direct = (connection.request for connection in upstream.connections)
        assert request is not None
        assert direct is not None
        assert request.headers["X-Own"] == direct.headers["X-Own"]
        assert request.path == "/a%2Fb?x=%2F&y"
        assert request.headers["Cookie"] == "a=1"
        assert request.headers["Authorization"] == "Bearer x"
        assert request.headers["Origin"] == "https://site.test"
        assert request.headers["Host"] == upstream.authority
        assert request.headers["X-Forwarded-Prefix"] == "/ws"
        assert request.headers["X-Forwarded-Host"] == gw.authority
        assert request.headers["X-Forwarded-Proto"] == "http"
        assert request.headers["X-Forwarded-For"] == "127.0.0.1"
        assert "Sec-WebSocket-Extensions" not in request.headers
        assert len(request.headers.get_all("Sec-WebSocket-Key")) == 1


async def test_an_unsafe_target_is_refused(server):
    """The target rules are those of HTTP: the upstream never hears of it."""
    async with ws_upstream() as upstream, serve(gateway(upstream), server) as gw:
        for path in ("/ws/../x", "/ws/%2e%2e/x", "/ws//evil", "/ws/%5cx", "/ws%2fx"):
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, path):
                    pass
            assert refused.value.response.status_code == 400

        assert upstream.connections == []


@pytest.mark.parametrize("chosen", ["chat", None])
async def test_the_subprotocol_is_the_upstreams_choice(server, chosen):
    """All offers go up; the upstream's choice comes back, and none is none."""
    supported = [chosen] if chosen else None
    async with ws_upstream(subprotocols=supported) as upstream:
        async with serve(gateway(upstream), server) as gw:
            async with dialled(gw, subprotocols=["superchat", "chat"]) as client:
                assert client.subprotocol == chosen
            request = upstream.connections[0].request
            assert request is not None
            offers = request.headers["Sec-WebSocket-Protocol"]
            assert [offer.strip() for offer in offers.split(",")] == ["superchat", "chat"]


async def test_no_subprotocol_header_is_sent_when_none_is_offered(server):
    """A client without subprotocols does not become one with an empty header."""
    async with ws_upstream() as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw):
            pass
        request = upstream.connections[0].request
        assert request is not None
        assert "Sec-WebSocket-Protocol" not in request.headers


async def test_headers_of_the_upstreams_101_reach_the_client(server):
    """A cookie set by the handshake arrives, and repeated ones stay apart."""

    def with_cookies(_connection, _request, response):
        response.headers["Set-Cookie"] = "a=1"
        response.headers["Set-Cookie"] = "b=2"

    async with ws_upstream(process_response=with_cookies) as upstream:
        async with serve(gateway(upstream), server) as gw:
            async with dialled(gw) as client:
                assert client.response is not None
                # granian drops the headers of an accepted WebSocket.
                expected = [] if server == "granian" else ["a=1", "b=2"]
                assert client.response.headers.get_all("Set-Cookie") == expected


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1000, "bye"), (1001, "later"), (3000, "x"), (4001, "because")]
)
async def test_the_upstreams_close_reaches_the_client(server, code, reason):
    """Code and reason of the upstream's close frame are the client's."""

    async def close(connection):
        await connection.close(code, reason)

    async with ws_upstream(close) as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw) as client:
            assert await ended(client) == (code, reason)


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (3000, "x"), (4002, "y")])
async def test_the_clients_close_reaches_the_upstream(server, code, reason):
    """Code and reason of the client's close frame are the upstream's."""
    async with ws_upstream() as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw) as client:
            await client.close(code, reason)
            await upstream.closed.wait()
            connection = upstream.connections[0]
            # granian does not show the reason to the application; hypercorn reports every close
            # as 1006, which goes on as 1001.
            expected = {"granian": (code, ""), "hypercorn": (1001, "")}.get(server, (code, reason))
            assert (connection.close_code, connection.close_reason) == expected


async def test_messages_before_a_close_are_delivered(server):
    """What the upstream sent before it closed arrives before the close."""

    async def burst(connection):
        for number in range(100):
            await connection.send(str(number))
        await connection.close(4000)

    async with ws_upstream(burst) as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw) as client:
            received = [await client.recv() for _ in range(100)]
            await ended(client)
            assert received == [str(number) for number in range(100)]
            assert client.close_code == 4000


async def test_an_upstream_that_vanishes_is_an_abnormal_end(server):
    """The client is told at once, with 1014, and never that all was well."""

    async def vanish(connection):
        await connection.recv()
        connection.transport.abort()

    async with ws_upstream(vanish) as upstream, serve(gateway(upstream), server) as gw:
        async with dialled(gw) as client:
            await client.send("x")
            assert (await ended(client))[0] == 1014


async def test_a_client_that_vanishes_closes_the_upstream(server):
    """The upstream's connection ends within a second, and not with 1000."""
    async with ws_upstream() as upstream:
        app = gateway(upstream)
        async with serve(app, server) as gw:
            async with dialled(gw) as client:
                await client.send("x")
                await client.recv()
                client.transport.abort()
                async with asyncio.timeout(1):
                    await upstream.closed.wait()
                assert upstream.connections[0].close_code != 1000
    assert app.state.pool.upstreams[0].in_flight == 0


async def test_a_message_over_the_limit_ends_both_sides_with_1009(server):
    """A breach of max_message_size is told to both sides for what it is."""

    async def large(connection):
        with contextlib.suppress(ConnectionClosed):
            await connection.send(b"x" * 2000)
        await connection.wait_closed()

    async with ws_upstream(large) as upstream:
        async with serve(
            gateway(upstream, websocket=WebSocketOptions(max_message_size=1000)), server
        ) as gw:
            async with dialled(gw) as client:
                assert (await ended(client))[0] == 1009
            await upstream.closed.wait()
            assert upstream.connections[0].close_code == 1009


@pytest.mark.parametrize("code", [401, 403, 404, 503])
async def test_a_refusal_reaches_the_client(server, code):
    """Status, headers and body of the upstream's refusal are the client's."""

    def refuse(connection, _request):
        response = connection.respond(code, "not you\n")
        response.headers["X-Why"] = "because"
        return response

    async with ws_upstream(process_request=refuse) as upstream:
        async with serve(gateway(upstream), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw):
                    pass
            response = refused.value.response
            assert response.status_code == code
            assert response.headers["X-Why"] == "because"
            assert bytes(response.body or b"") == b"not you\n"


async def test_a_refusal_with_repeated_headers_reaches_the_client(server):
    """Repeated lines survive where the server can send them, and never take the gateway down."""

    def refuse(connection, _request):
        response = connection.respond(403, "")
        for value in ("a=1", "b=2"):
            response.headers["Set-Cookie"] = value
        for value in ("Basic", "Bearer"):
            response.headers["WWW-Authenticate"] = value
        return response

    async with ws_upstream(process_request=refuse) as upstream:
        async with serve(gateway(upstream), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw):
                    pass
            headers = refused.value.response.headers
            assert ", ".join(headers.get_all("WWW-Authenticate")) == "Basic, Bearer"
            cookies = ["a=1"] if server == "granian" else ["a=1", "b=2"]
            assert headers.get_all("Set-Cookie") == cookies


@pytest.mark.parametrize("code", ["200 OK", "204 No Content", "100 Continue", "103 Early Hints"])
async def test_an_answer_that_is_no_refusal_is_a_502(server, code):
    """An upstream that takes the handshake for a GET cannot show its page past the app's routes."""
    answer = f"HTTP/1.1 {code}\r\nContent-Length: 6\r\n\r\nSECRET".encode()
    async with raw_upstream(answer) as upstream, serve(gateway(upstream), server) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw):
                pass
        assert refused.value.response.status_code == 502
        assert b"SECRET" not in bytes(refused.value.response.body or b"")


async def test_a_client_that_leaves_during_the_handshake_is_noticed(server):
    """The upstream that has not answered yet is let go within a second."""
    if server == "granian":
        pytest.skip("granian does not tell before the WebSocket is accepted")

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        app = gateway(upstream)
        async with serve(app, server) as gw:
            _, writer = await asyncio.open_connection(gw.host, gw.port)
            writer.write(HANDSHAKE)
            await upstream.received.wait()
            await leave(writer, "reset")
            async with asyncio.timeout(1):
                await upstream.closed.wait()
    assert app.state.pool.upstreams[0].in_flight == 0


async def test_declared_overrides_apply_to_websockets(server):
    """Those for GET: path, request headers and headers of the 101."""
    override = RouteOverride(
        path="/ws/old/{id}",
        methods=["GET"],
        rewrite="/new/{id}",
        request_headers=HeaderEdits(set={"x-user": "bob"}, remove=["cookie"]),
        response_headers=HeaderEdits(set={"x-seen": "1"}),
    )
    async with ws_upstream() as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter({"/ws": upstream.url}, overrides=[override]))
        async with serve(app, server) as gw:
            headers = {"X-User": "eve", "Cookie": "a=1"}
            async with dialled(gw, "/ws/old/a%20b", additional_headers=headers) as client:
                assert client.response is not None
                # granian drops the headers of an accepted WebSocket.
                assert ("x-seen" in client.response.headers) is (server != "granian")
        request = upstream.connections[0].request
        assert request is not None
        assert request.path == "/new/a%20b"
        assert request.headers.get_all("X-User") == ["bob"]
        assert "Cookie" not in request.headers


async def test_redirects_are_not_followed(server):
    """A redirect of the handshake is the client's business."""
    location = "ws://127.0.0.1:1/elsewhere"
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(answer.encode()) as upstream:
        async with serve(gateway(upstream), server) as gw:
            # The client library would follow it, so look at the bytes.
            reader, writer = await asyncio.open_connection(gw.host, gw.port)
            writer.write(HANDSHAKE)
            async with asyncio.timeout(3):
                head = await reader.readuntil(b"\r\n\r\n")
            await leave(writer, "close")

            assert b" 302 " in head.split(b"\r\n")[0] + b" "
            assert location.encode() in head
            assert len(upstream.requests) == 1


async def test_an_upstream_that_is_down_is_a_502(server):
    """The handshake is answered, at once and without naming the upstream."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = Served(unused.getsockname()[1])
        async with serve(gateway(down), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw):
                    pass
            assert refused.value.response.status_code == 502
            assert bytes(refused.value.response.body or b"") == b'{"detail":"Bad Gateway"}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_an_invalid_handshake_is_a_502(server, answer):
    """An upstream that does not speak WebSocket is a bad gateway, not a hang."""

    async def script(_reader, writer):
        writer.write(answer)
        await leave(writer, "close")

    async with raw_upstream(script) as upstream, serve(gateway(upstream), server) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw):
                pass
        assert refused.value.response.status_code == 502


async def test_a_silent_handshake_is_a_504(server):
    """An upstream that accepts the connection and says nothing does not hang the client."""

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        async with serve(gateway(upstream, timeout=Timeout(response=0.1)), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw):
                    pass
            assert refused.value.response.status_code == 504
            async with asyncio.timeout(1):
                await upstream.closed.wait()


@pytest.mark.parametrize("scope", [asyncio.timeout, anyio_deadline])
async def test_a_deadline_of_ones_own_ends_the_handshake(scope):
    """Whoever cancels, the upstream is let go and no task stays."""
    cancelled = []

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        app, target = FastAPI(), Upstream(upstream.url)

        @app.websocket("/")
        async def own(websocket: WebSocket):
            try:
                async with scope(0.1):
                    await proxy_pass_websocket(websocket, target)
            except TimeoutError:
                cancelled.append(target.in_flight)
                await websocket.close()

        async with serve(app) as gw:
            with pytest.raises(InvalidStatus):
                async with dialled(gw, "/"):
                    pass
            async with asyncio.timeout(1):
                await upstream.closed.wait()
        assert cancelled == [0]


async def test_a_handshake_that_was_sent_is_not_blamed_on_the_connection():
    """Its stage says that the upstream may have acted on it."""
    stages = []

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        pool = UpstreamPool(upstream.url, timeout=Timeout(response=0.1))
        app = FastAPI()

        @app.websocket("/")
        async def own(websocket: WebSocket):
            try:
                await proxy_pass_websocket(websocket, pool.upstreams[0])
            except GatewayTimeout as error:
                stages.append(error.stage)
                raise

        async with serve(app) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/"):
                    pass
            assert refused.value.response.status_code == 504
    assert stages == ["head"]


async def test_environment_proxies_are_not_used(monkeypatch):
    """HTTP_PROXY and its kin do not move the upstream's WebSockets."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "WS_PROXY", "ws_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with ws_upstream() as upstream, serve(gateway(upstream)) as gw, dialled(gw) as client:
        await client.send("x")
        assert await client.recv() == "x"


@pytest.mark.filterwarnings("ignore")  # One of the three is deprecated, and still used.
@pytest.mark.parametrize("implementation", ["websockets", "websockets-sansio", "wsproto"])
async def test_every_websocket_implementation_of_uvicorn_works(implementation):
    """Messages, a subprotocol and a close code cross whichever implementation uvicorn uses."""

    async def once(connection):
        await connection.send(await connection.recv())
        await connection.close(4001, "done")

    async with ws_upstream(once, subprotocols=["chat"]) as upstream:
        async with serve(gateway(upstream), ws=implementation) as gw:
            async with dialled(gw, subprotocols=["chat"]) as client:
                await client.send("x")
                assert await client.recv() == "x"
                assert client.subprotocol == "chat"
                assert await ended(client) == (4001, "done")


async def test_shutting_the_server_down_closes_the_upstream():
    """A WebSocket that is open when the server stops does not keep its upstream."""
    async with ws_upstream() as upstream:
        async with serve(gateway(upstream)) as gw:
            client = await connect(gw.ws + "/ws", proxy=None)
            await client.send("x")
            await client.recv()
        async with asyncio.timeout(3):
            await upstream.closed.wait()
        await client.wait_closed()

        assert client.close_code == 1012
        assert upstream.connections[0].close_code == 1012


async def test_a_client_that_does_not_read_slows_the_upstream():
    """The relay holds no queue of its own between a fast upstream and a slow client."""
    sent = 0
    message = b"x" * 65536

    async def flood(connection):
        nonlocal sent
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1024):
                await connection.send(message)
                sent += 1

    async with ws_upstream(flood) as upstream, serve(gateway(upstream)) as gw:
        async with dialled(gw, compression=None, max_queue=1) as client:
            assert await client.recv() == message
            in_between = sent
            received = 1
            async for _ in client:
                received += 1

            assert received == 1024
            assert in_between < 512


async def test_a_failed_handshake_is_one_line_in_the_log(caplog):
    """With the reason and the upstream, and without the query or a header."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = Served(unused.getsockname()[1])
        async with serve(gateway(down)) as gw:
            with pytest.raises(InvalidStatus):
                async with dialled(gw, "/ws?token=SECRET", additional_headers={"Cookie": "SECRET"}):
                    pass

    lines = [r.getMessage() for r in caplog.records if r.name == "fastapi_proxy_router"]
    assert len(lines) == 1
    assert down.url in lines[0]
    assert "SECRET" not in lines[0]
