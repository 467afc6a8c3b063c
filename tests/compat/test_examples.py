"""Programs that do what the six examples of fastapi-reverse-proxy do."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import gc
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import socketio  # type: ignore[import-untyped]
from fastapi import FastAPI, HTTPException, Request, WebSocket

from fastapi_proxy_router.compat import (
    HealthChecker,
    LoadBalancer,
    Proxy,
    proxy_pass,
    proxy_pass_websocket,
)
from tests.compat.programs import client_of, closed_port, named, passing
from tests.servers import raw_upstream, serve
from tests.test_relay import dialled

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with Proxy(app):
        yield


def failing_over(primary: str, backup: str) -> FastAPI:
    app = FastAPI(lifespan=lifespan)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def either(request: Request):
        try:
            return await proxy_pass(request, primary, timeout=0.5)
        except HTTPException as error:
            if error.status_code not in (502, 504):
                raise
            return await proxy_pass(request, backup, timeout=10.0)

    return app


async def test_a_catch_all_forwards_everything():
    """Example 1: one route, one upstream."""
    async with serve(named("one")) as upstream:
        async with serve(passing(upstream.url)) as gw, client_of(gw.url) as client:
            answer = (await client.put("/a/b", content=b"text")).json()
    assert answer == {"name": "one", "method": "PUT", "target": "/a/b", "body": "text"}


@pytest.mark.parametrize("body", [b"", b"two apples"])
async def test_an_upstream_that_is_down_is_caught_as_502(body):
    """Example 2: the request, with its body, goes to the backup."""
    async with serve(named("backup")) as backup:
        app = failing_over(await closed_port(), backup.url)
        async with serve(app) as gw, client_of(gw.url) as client:
            answer = (await client.post("/orders", content=body)).json()
    assert (answer["name"], answer["body"]) == ("backup", body.decode())


async def test_an_upstream_that_is_silent_is_caught_as_504():
    """Example 2: the request goes to the backup when the time is up."""

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as primary, serve(named("backup")) as backup:
        app = failing_over(primary.url, backup.url)
        async with serve(app) as gw, client_of(gw.url) as client:
            answer = (await client.get("/orders")).json()
    assert answer["name"] == "backup"


async def test_an_error_of_both_reaches_the_client():
    """Example 2: with the backup down as well the answer is 502."""
    app = failing_over(await closed_port(), await closed_port())
    async with serve(app) as gw, client_of(gw.url) as client:
        answer = await client.get("/orders")
    assert (answer.status_code, answer.json()) == (502, {"detail": "Bad Gateway"})


async def test_http_and_websockets_go_to_the_same_upstream(server):
    """Example 3: two routes of the same path, on every server."""
    async with serve(named("one")) as upstream, serve(passing(upstream.url), server) as gw:
        async with client_of(gw.url) as client:
            assert (await client.get("/chat")).json()["name"] == "one"
        async with dialled(gw, "/chat") as websocket:
            await websocket.send("hello")
            assert await websocket.recv() == "one: hello"


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
@pytest.mark.parametrize("transports", [["polling"], ["polling", "websocket"]])
async def test_socket_io_gets_through(transports):
    """Example 4: the route for WebSockets stands before the one for HTTP."""
    sio = socketio.AsyncServer(async_mode="asgi")

    @sio.event
    async def shout(_sid, text):
        return text.upper()

    async with serve(socketio.ASGIApp(sio)) as upstream:
        app = FastAPI(lifespan=lifespan)

        @app.websocket("/socket.io/{path:path}")
        async def websockets(websocket: WebSocket, path: str):
            await proxy_pass_websocket(websocket, upstream.url)

        @app.api_route("/socket.io/{path:path}", methods=["GET", "POST"])
        async def polling(request: Request, path: str):
            return await proxy_pass(request, upstream.url)

        async with serve(app) as gw, socketio.AsyncSimpleClient() as chat:
            await chat.connect(gw.url, transports=transports)
            assert await chat.call("shout", "hello", timeout=10) == "HELLO"
            await sio.disconnect(chat.sid)
    # Its client does not release the connection of a WebSocket that the server has ended.
    gc.collect()


async def test_a_load_balancer_takes_turns():
    """Example 5: six requests for three upstreams are two for each."""
    async with (
        serve(named("one")) as one,
        serve(named("two")) as two,
        serve(named("three")) as three,
    ):
        balancer = LoadBalancer([one.url, two.url, three.url])
        app = FastAPI(lifespan=lifespan)

        @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
        async def gateway(request: Request, path: str):
            return await balancer.proxy_pass(request, path=f"/{path}")

        async with serve(app) as gw, client_of(gw.url) as client:
            answers = [(await client.get("/x")).json() for _ in range(6)]
    assert Counter(answer["name"] for answer in answers) == {"one": 2, "two": 2, "three": 2}
    assert {answer["target"] for answer in answers} == {"/x"}


async def test_a_health_checker_keeps_traffic_from_what_is_down():
    """Example 6: HTTP and WebSockets go to the one that is up, from the first request on."""
    async with serve(named("one")) as one:
        checker = HealthChecker([await closed_port(), one.url])
        balancer = LoadBalancer(checker)

        @asynccontextmanager
        async def both(app: FastAPI):
            async with Proxy(app), checker:
                yield

        app = FastAPI(lifespan=both)

        @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE"])
        async def gateway(request: Request, path: str):
            return await balancer.proxy_pass(request, path=f"/{path}")

        @app.websocket("/{path:path}")
        async def tunnel(websocket: WebSocket, path: str):
            await balancer.proxy_pass_websocket(websocket, path=f"/{path}")

        async with serve(app) as gw:
            async with client_of(gw.url) as client:
                names = {(await client.get("/x")).json()["name"] for _ in range(3)}
            async with dialled(gw, "/x") as websocket:
                await websocket.send("hello")
                assert await websocket.recv() == "one: hello"
    assert names == {"one"}
