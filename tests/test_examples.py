"""Every example runs on uvicorn in front of real upstreams and does what its docstring says."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import socketio  # type: ignore[import-untyped]
import websockets
from dotenv import dotenv_values
from fastapi import FastAPI, Request, WebSocket
from starlette.routing import Router

from fastapi_proxy_router import Upstream
from tests.servers import Served, raw_upstream, serve

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def load(monkeypatch):
    """Import an example as if for the first time, with these environment variables."""

    def _load(name: str, **environment: str):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.delitem(sys.modules, f"examples.{name}", raising=False)
        return importlib.import_module(f"examples.{name}")

    return _load


@pytest.fixture
async def running():
    """Serve apps until the test ends."""
    async with AsyncExitStack() as stack:

        async def _serve(app) -> Served:
            return await stack.enter_async_context(serve(app))

        yield _serve


@pytest.fixture
async def client():
    """Return an HTTP client."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        yield http


def named(name: str) -> FastAPI:
    """Return an upstream that says its name and what it was asked, and echoes WebSockets."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def answer(request: Request):
        return {
            "name": name,
            "target": request.scope["raw_path"].decode(),
            "headers": dict(request.headers),
            "body": (await request.body()).decode(),
        }

    @app.websocket("/{path:path}")
    async def echo(websocket: WebSocket):
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{name}: {text}")

    return app


def connect(served: Served, path: str = "/", **options) -> websockets.connect:
    return websockets.connect(f"{served.ws}{path}", proxy=None, open_timeout=10, **options)


async def _closed_port() -> str:
    """Return a URL that nobody listens on any more."""
    async with serve(Router(), lifespan="off") as gone:
        return gone.url


# single_upstream


async def test_single_upstream_forwards_http(load, running, client):
    """A request for any path is answered by the upstream."""
    upstream = await running(named("one"))
    gateway = await running(load("single_upstream", UPSTREAM=upstream.url).app)
    answer = await client.post(f"{gateway.url}/any/path", content=b"hello")
    assert answer.json().items() >= {"name": "one", "target": "/any/path", "body": "hello"}.items()


async def test_single_upstream_relays_websockets(load, running):
    """A WebSocket talks to the upstream."""
    upstream = await running(named("one"))
    gateway = await running(load("single_upstream", UPSTREAM=upstream.url).app)
    async with connect(gateway, "/chat") as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "one: hello"


async def test_single_upstream_keeps_its_own_route(load, running, client):
    """The route of the app itself answers, although the upstream would too."""
    upstream = await running(named("one"))
    gateway = await running(load("single_upstream", UPSTREAM=upstream.url).app)
    assert (await client.get(f"{gateway.url}/healthz")).json() == {"status": "ok"}


# several_pools


@pytest.fixture
async def several_pools(load, running):
    """Run the example over four upstreams."""
    upstreams = {
        variable: (await running(named(variable.lower()))).url
        for variable in ("USERS", "ORDERS_1", "ORDERS_2", "WEBSITE")
    }
    return await running(load("several_pools", **upstreams).app)


async def test_several_pools_strip_the_prefix_and_announce_it(several_pools, client):
    """The users service sees the path below its prefix, and is told the prefix."""
    answer = (await client.get(f"{several_pools.url}/users/7")).json()
    assert (answer["name"], answer["target"]) == ("users", "/7")
    assert answer["headers"]["x-forwarded-prefix"] == "/users"


async def test_several_pools_take_turns_by_weight(several_pools, client):
    """Of eight orders, six go to the upstream of weight 3 and two to the one of weight 1."""
    answers = [await client.get(f"{several_pools.url}/orders/1") for _ in range(8)]
    assert Counter(answer.json()["name"] for answer in answers) == {"orders_1": 6, "orders_2": 2}


async def test_several_pools_send_the_rest_to_the_website(several_pools, client):
    """A path with no other prefix goes to the website, with the client's Host."""
    answer = (await client.get(f"{several_pools.url}/about")).json()
    assert (answer["name"], answer["target"]) == ("website", "/about")
    assert answer["headers"]["host"] == several_pools.authority


# auth_in_front


async def test_auth_in_front_refuses_http(load, running, client):
    """Without the token the answer is 401, and the upstream hears nothing."""
    async with raw_upstream() as upstream:
        gateway = await running(
            load("auth_in_front", API_TOKEN="secret", UPSTREAM=upstream.url).app
        )
        answer = await client.get(gateway.url, headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert upstream.connections == 0


async def test_auth_in_front_refuses_websockets(load, running):
    """Without the token the handshake is answered with 401, and the upstream hears nothing."""
    async with raw_upstream() as upstream:
        gateway = await running(
            load("auth_in_front", API_TOKEN="secret", UPSTREAM=upstream.url).app
        )
        with pytest.raises(websockets.InvalidStatus) as refusal:
            async with connect(gateway):
                pass
    assert refusal.value.response.status_code == 401
    assert upstream.connections == 0


async def test_auth_in_front_lets_the_token_in(load, running, client):
    """With the token both HTTP and WebSocket reach the upstream."""
    upstream = await running(named("one"))
    gateway = await running(load("auth_in_front", API_TOKEN="secret", UPSTREAM=upstream.url).app)
    headers = {"Authorization": "Bearer secret"}
    assert (await client.get(gateway.url, headers=headers)).json()["name"] == "one"
    async with connect(gateway, additional_headers=headers) as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "one: hello"


# failover_by_hand


async def test_failover_by_hand_uses_the_first(load, running, client):
    """While the first upstream answers, it gets the requests."""
    first, second = await running(named("first")), await running(named("second"))
    gateway = await running(load("failover_by_hand", FIRST=first.url, SECOND=second.url).app)
    assert (await client.get(gateway.url)).json()["name"] == "first"


async def test_failover_by_hand_sends_the_body_to_the_second(load, running, client):
    """When nobody listens at the first, the second gets the request with its whole body."""
    second = await running(named("second"))
    example = load("failover_by_hand", FIRST=await _closed_port(), SECOND=second.url)
    gateway = await running(example.app)
    answer = (await client.post(f"{gateway.url}/orders", content=b"two apples")).json()
    assert (answer["name"], answer["body"]) == ("second", "two apples")


async def test_failover_by_hand_does_not_repeat_what_was_sent(load, running, client):
    """When the first closes after it has read the request, the second is not asked."""

    async def hang_up(_reader, _writer):
        return

    async with raw_upstream(hang_up) as first, raw_upstream() as second:
        gateway = await running(load("failover_by_hand", FIRST=first.url, SECOND=second.url).app)
        answer = await client.post(gateway.url, content=b"two apples")
    assert answer.status_code == 502
    assert (len(first.requests), second.connections) == (1, 0)


async def test_failover_by_hand_words_its_own_error(load, running, client):
    """When both are gone, the answer is that of the app's exception handler."""
    example = load("failover_by_hand", FIRST=await _closed_port(), SECOND=await _closed_port())
    gateway = await running(example.app)
    answer = await client.get(gateway.url)
    assert (answer.status_code, answer.headers["retry-after"]) == (502, "60")
    assert answer.json() == {"detail": "We will be back in a minute"}


# socket_io


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
async def test_socket_io_works_on_every_transport(load, running, transports):
    """A Socket.IO client gets its answer over polling, over a WebSocket, and over both in turn."""
    example = load("socket_io")
    server = await running(example.server)
    gateway = await running(load("socket_io", UPSTREAM=server.url).app)
    async with socketio.AsyncSimpleClient() as chat:
        await chat.connect(gateway.url, transports=transports)
        assert await chat.call("shout", "hello", timeout=10) == "HELLO"
        assert chat.transport == transports[-1]
        # A client that says goodbye itself waits for its last poll, which nothing answers.
        await example.sio.disconnect(chat.sid)
    # Its client does not release the connection of a WebSocket that the server has ended.
    gc.collect()


# settings_from_environment


async def test_settings_from_environment_build_the_gateway(load, running, client):
    """The file beside the example, with addresses of real upstreams, makes a working gateway."""
    environment = {k: v for k, v in dotenv_values(EXAMPLES / "gateway.env").items() if v}
    one, two = await running(named("one")), await running(named("two"))
    site = await running(named("site"))
    environment["PROXY_POOLS__USERS__UPSTREAMS"] = f"{one.url},{two.url}"
    environment["PROXY_POOLS__SITE__UPSTREAMS"] = site.url
    gateway = await running(load("settings_from_environment", **environment).app)

    answers = [(await client.get(f"{gateway.url}/users/7")).json() for _ in range(2)]
    assert [answer["name"] for answer in answers] == ["one", "two"]
    assert answers[0]["target"] == "/7"
    assert (await client.get(f"{gateway.url}/about")).json()["name"] == "site"
    legacy = (await client.get(f"{gateway.url}/users/legacy/a%20b")).json()
    assert legacy["target"] == "/v2/a%20b"
    assert Upstream(one.url).authority.decode() == legacy["headers"]["host"]


# moderated_chat


async def test_moderated_chat_looks_into_messages(load, running):
    """Blanks go, empty messages are dropped, the fourth is answered, and nonsense ends it."""
    upstream = await running(named("chat"))
    gateway = await running(load("moderated_chat", UPSTREAM=upstream.url).app)
    async with connect(gateway, "/rooms/1") as websocket:
        for text in ("one", "  ", " two ", "three", "four"):
            await websocket.send(json.dumps({"text": text}))
        received = [await websocket.recv() for _ in range(4)]
        assert sorted(received) == [
            'chat: {"text":"one"}',
            'chat: {"text":"three"}',
            'chat: {"text":"two"}',
            '{"error":"Three messages are enough."}',
        ]
        await websocket.send("hello")
        await websocket.wait_closed()
        assert websocket.close_code == 1008


async def test_moderated_chat_refuses_a_room_that_is_no_number(load, running):
    """The upstream hears nothing of it."""
    gateway = await running(load("moderated_chat", UPSTREAM=await _closed_port()).app)
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(gateway, "/rooms/lobby"):
            pass
    assert refused.value.response.status_code == 403


def test_every_example_is_tested():
    """No example stands without a test in this file."""
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"}
    names = {name for name in names if not name.startswith("demo")}
    source = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in names if f"def test_{name}_" not in source} == set()
