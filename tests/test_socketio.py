"""Socket.IO through the gateway, with its real client for Python, on every server.

Its client for browsers is in tests/browser/.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
import socketio  # type: ignore[import-untyped]
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from fastapi_proxy_router import ProxyRouter
from tests.servers import SERVERS, Served, serve

pytestmark = pytest.mark.anyio

#: Seconds; nothing waits so long when all is well.
PATIENCE = 10

#: What a client may use, and in which order.
WAYS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}

every_way = pytest.mark.parametrize("way", WAYS)
every_websocket = pytest.mark.parametrize("way", ["websocket", "upgrade"])

BINARY = bytes(range(256)) * 800


@dataclass
class Session:
    """A client as the upstream knows it."""

    connected: dict[str, Any] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Upstream(Served):
    """A Socket.IO server, and what it has seen."""

    def __init__(self) -> None:
        super().__init__(0)
        # A ping answers a poll: none is left for long when its client has gone.
        self.sio = socketio.AsyncServer(
            async_mode="asgi", cookie="io", ping_interval=0.5, ping_timeout=PATIENCE
        )
        self.sessions: defaultdict[str, Session] = defaultdict(Session)
        #: The scope of every request, for each session of the transport below.
        self.scopes: defaultdict[str, list[Scope]] = defaultdict(list)
        self._app = socketio.ASGIApp(self.sio)
        for handler in (self._connect, self._disconnect, self._reverse, self._ask_back):
            self.sio.on(handler.__name__.removeprefix("_"), handler)
        self.sio.on("join", self.sio.enter_room)
        self.sio.on("say", self._say)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope.get("query_string", b"").decode())
        self.scopes[query.get("sid", [""])[0]].append(scope)
        await self._app(scope, receive, send)

    def scopes_of(self, client: socketio.AsyncClient) -> list[Scope]:
        """Return the scopes of the requests of *client*, after its first."""
        return self.scopes[client.eio.sid]

    async def _connect(self, sid: str, environ: dict[str, Any]) -> None:
        self.sessions[sid].connected = environ

    async def _disconnect(self, sid: str, _reason: str) -> None:
        self.sessions[sid].ended.set()

    async def _reverse(self, _sid: str, data: Any) -> Any:
        return data[::-1]

    async def _ask_back(self, sid: str, data: Any) -> Any:
        return await self.sio.call("question", data, to=sid, timeout=PATIENCE)

    async def _say(self, sid: str, room: str, message: Any) -> None:
        await self.sio.emit("said", message, room=room, skip_sid=sid)


@pytest.fixture(scope="module")
def anyio_backend():
    """Keep one event loop for all tests, so that a gateway is started once for many of them."""
    return "asyncio"


@pytest.fixture(scope="module")
async def upstream():
    """Run one Socket.IO server for all tests."""
    upstream = Upstream()
    async with serve(upstream, lifespan="off") as served:
        upstream.port = served.port
        yield upstream
        await upstream.sio.shutdown()


@pytest.fixture(scope="module", params=SERVERS)
async def front(request, upstream):
    """Run a gateway on each server."""
    app = FastAPI(openapi_url=None)
    app.include_router(ProxyRouter(upstream.url))
    async with serve(app, request.param) as served:
        yield served


@pytest.fixture
async def talking(front, upstream):
    """Connect clients until a block ends."""

    @asynccontextmanager
    async def _talking(way: str, **headers: str) -> AsyncIterator[socketio.AsyncClient]:
        # Cookies of an address, not of a name, are kept only in a jar that is told so.
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as http:
            client = socketio.AsyncClient(
                http_session=http, reconnection=False, handle_sigint=False
            )
            await client.connect(front.url, headers, transports=WAYS[way], wait_timeout=PATIENCE)
            yield client
            await leave(client)

    return _talking


async def leave(client: socketio.AsyncClient) -> None:
    """End the tasks of *client*; what closes its HTTP session closes its connections.

    It is no use to say goodbye while polling: nobody answers the last poll.
    """
    tasks = [task for task in (client.eio.read_loop_task, client.eio.write_loop_task) if task]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def ask(client: socketio.AsyncClient, event: str, data: Any) -> Any:
    """Return the acknowledgement of an event."""
    return await client.call(event, data, timeout=PATIENCE)


def heard(client: socketio.AsyncClient, event: str) -> asyncio.Queue[Any]:
    """Return a queue of what *client* is sent as *event*."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    client.on(event, queue.put)
    return queue


async def take(queue: asyncio.Queue[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await queue.get()


@every_way
async def test_a_client_connects_by_its_transport(talking, upstream, way):
    """Both ends agree on the transport, and what begins with polling has been upgraded."""
    async with talking(way) as client:
        expected = "polling" if way == "polling" else "websocket"
        assert client.transport() == expected
        assert upstream.sio.transport(client.get_sid()) == expected


@every_way
async def test_the_upstream_sees_real_websockets(talking, upstream, way):
    """An upgrade is a WebSocket at the upstream too, and polling is none."""
    async with talking(way) as client:
        await ask(client, "reverse", "abc")
        kinds = {scope["type"] for scope in upstream.scopes_of(client)}
    # The first request of a client has no session yet.
    assert kinds == {"polling": {"http"}, "websocket": set(), "upgrade": {"websocket"}}[way]


@every_way
@pytest.mark.parametrize(
    "data", ["grüße \U0001f44b", "", BINARY, b""], ids=["text", "empty", "binary", "no bytes"]
)
async def test_an_acknowledgement_has_what_the_upstream_returned(talking, way, data):
    """Text and bytes go to the upstream, and what it makes of them comes back."""
    async with talking(way) as client:
        assert await ask(client, "reverse", data) == data[::-1]


@every_way
async def test_bytes_keep_their_places_in_a_structure(talking, way):
    """Several attachments of one event arrive where they belong."""
    async with talking(way) as client:
        data = [b"\x00\xff", {"text": "ü", "bytes": BINARY[:1000]}, [b"", 7, None]]
        assert await ask(client, "reverse", data) == data[::-1]


@every_way
async def test_the_upstream_is_acknowledged(talking, way):
    """The upstream gets the client's answer to its own question, bytes and all."""
    async with talking(way) as client:

        async def question(data):
            return {"asked": data, "more": b"\x01"}

        client.on("question", question)
        assert await ask(client, "ask_back", BINARY) == {"asked": BINARY, "more": b"\x01"}


@every_way
async def test_events_keep_their_order(talking, way):
    """Events that are sent at once are heard in their order."""
    # Engine.IO takes no more than 16 packets in one request.
    numbers = range(10 if way == "polling" else 100)
    async with talking(way) as client, talking("websocket") as other:
        room = f"order {client.get_sid()}"
        await other.call("join", room, timeout=PATIENCE)
        said = heard(other, "said")
        for number in numbers:
            await client.emit("say", (room, number))
        assert [await take(said) for _ in numbers] == list(numbers)


@pytest.mark.parametrize("other", WAYS)
@every_way
async def test_a_room_is_shared_by_transports(talking, way, other):
    """What one client says in a room, another hears, whichever way each of them came."""
    async with talking(way) as speaker, talking(other) as listener, talking(way) as outsider:
        room = f"room {speaker.get_sid()}"
        said, missed = heard(listener, "said"), heard(outsider, "said")
        for client in (speaker, listener):
            await client.call("join", room, timeout=PATIENCE)
        await speaker.emit("say", (room, {"text": "grüße", "bytes": b"\x00\x01"}))
        assert await take(said) == {"text": "grüße", "bytes": b"\x00\x01"}
        await ask(outsider, "reverse", "all that was sent before has arrived")
        assert missed.empty()


@every_way
async def test_cookies_of_the_handshake_reach_the_upstream(talking, upstream, way):
    """The application can know the client by its cookies when it connects."""
    async with talking(way, Cookie="session=s3cret; theme=dark") as client:
        environ = upstream.sessions[client.get_sid()].connected
        cookies = SimpleCookie(environ["HTTP_COOKIE"])
    assert {name: cookie.value for name, cookie in cookies.items()} == {
        "session": "s3cret",
        "theme": "dark",
    }


async def test_the_cookie_of_the_first_poll_is_sent_with_the_upgrade(talking, upstream):
    """The session's cookie, by which load balancers know it, comes back with the WebSocket."""
    async with talking("upgrade") as client:
        (upgrade,) = upstream.scopes_of(client)
        cookies = SimpleCookie(dict(upgrade["headers"])[b"cookie"].decode())
        assert cookies["io"].value == client.eio.sid


@every_websocket
async def test_a_goodbye_reaches_the_upstream(talking, upstream, way):
    """The upstream is told within a second that a client has left, and the client that it may."""
    async with talking(way) as client:
        session = upstream.sessions[client.get_sid()]
        async with asyncio.timeout(1):
            await client.disconnect()
            await session.ended.wait()


@every_websocket
async def test_a_client_that_vanishes_is_noticed(talking, upstream, way):
    """The upstream is told within a second that a client's connection is gone."""
    async with talking(way) as client:
        session = upstream.sessions[client.get_sid()]
        await client.eio.http.close()
        async with asyncio.timeout(1):
            await session.ended.wait()


@every_websocket
async def test_a_dismissal_reaches_the_client(talking, upstream, way):
    """A client is told that the upstream has ended its session."""
    async with talking(way) as client:
        reasons = heard(client, "disconnect")
        await upstream.sio.disconnect(client.get_sid())
        assert await take(reasons) == "server disconnect"
