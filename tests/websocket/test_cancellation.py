"""Cancelled at any of its steps, a relay leaves nothing behind: no task, no connection."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from fastapi import WebSocket
from websockets.exceptions import ConnectionClosed

from fastapi_proxy_router import Upstream, proxy_pass_websocket
from fastapi_proxy_router.upgrade import close_relays
from tests.servers import serve
from tests.test_relay import dialled, ended, gateway, ws_upstream
from tests.transport.stepping import HOWS, cancelled_at
from tests.websocket.hooking import upstream_told

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

SCOPE = {
    "type": "websocket",
    "path": "/ws",
    "raw_path": b"/ws",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"x")],
    "client": ("127.0.0.1", 1),
    "subprotocols": [],
}


class Client:
    """A client as an application sees it: it sends one message, and leaves when that is echoed."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})

    async def receive(self):
        try:
            return await self._events.get()
        except asyncio.CancelledError:
            # Some servers need a while for that.
            await asyncio.sleep(0)
            raise

    async def send(self, message):
        await asyncio.sleep(0)
        if message["type"] == "websocket.accept":
            self._events.put_nowait({"type": "websocket.receive", "text": "hello"})
        elif message["type"] == "websocket.send":
            self._events.put_nowait({"type": "websocket.disconnect", "code": 4000, "reason": ""})


@pytest.mark.parametrize("how", HOWS)
async def test_a_relay_that_is_cancelled_leaves_no_connection(how):
    """From the first step of dialling to the last of closing."""
    async with ws_upstream() as upstream:
        target = Upstream(upstream.url)
        for step in range(1, 100):
            client = Client()
            websocket = WebSocket(SCOPE, client.receive, client.send)
            if not await cancelled_at(proxy_pass_websocket(websocket, target), step, how):
                break
            assert target.in_flight == 0
        else:
            pytest.fail("there are too many steps")
        assert step > 5
        async with asyncio.timeout(3):
            await asyncio.gather(*(one.wait_closed() for one in upstream.connections))


async def test_the_end_of_one_event_loop_does_not_touch_the_relays_of_another():
    """As in tests, whose clients have one each: nobody waits for them, and they go on."""
    ready, go_on = threading.Event(), threading.Event()
    outcome: list[Any] = []

    async def elsewhere() -> None:
        async with ws_upstream() as upstream:
            app = gateway(upstream)
            async with serve(app) as gw, dialled(gw) as client:
                outcome.extend(app.state.pool.upstreams)
                ready.set()
                await asyncio.to_thread(go_on.wait, 5)
                await client.send("hello")
                outcome.append(await client.recv())

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    await asyncio.to_thread(ready.wait, 5)
    async with asyncio.timeout(1):
        await close_relays([outcome[0]])
    go_on.set()
    await asyncio.to_thread(thread.join, 5)

    assert outcome[1:] == ["hello"]


async def test_a_websocket_that_is_accepted_already_is_a_mistake():
    """What its client sends would be lost while the upstream is asked."""
    client = Client()
    websocket = WebSocket(SCOPE, client.receive, client.send)
    await websocket.accept()

    with pytest.raises(RuntimeError, match="accept no WebSocket before"):
        await proxy_pass_websocket(websocket, Upstream("http://127.0.0.1:1"))


async def test_relays_are_closed_at_the_end_of_the_lifespan():
    """The upstream and the client are told 1012."""
    async with ws_upstream() as upstream:
        app = gateway(upstream)
        async with serve(app) as gw, dialled(gw) as client:
            await client.send("hello")
            await client.recv()
            await close_relays(app.state.pool.upstreams)
            assert (await ended(client))[0] == 1012
        with contextlib.suppress(ConnectionClosed):
            await upstream.closed.wait()
        assert upstream.connections[0].close_code == 1012


async def test_a_server_that_never_says_that_it_has_accepted_holds_nothing_up():
    """As granian when it stops just then: the upstream is told 1012, and the endpoint ends."""
    accepted = asyncio.Event()

    class Stopping(Client):
        async def send(self, message):
            if message["type"] == "websocket.accept":
                accepted.set()
                await asyncio.Event().wait()

    client = Stopping()
    websocket = WebSocket(SCOPE, client.receive, client.send)
    async with ws_upstream() as upstream, asyncio.timeout(3):
        target = Upstream(upstream.url)
        endpoint = asyncio.create_task(proxy_pass_websocket(websocket, target))
        await accepted.wait()
        await close_relays([target])
        await endpoint
        assert (await upstream_told(upstream))[0] == 1012
    assert target.in_flight == 0
