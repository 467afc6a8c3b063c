"""W14: a server that stops with WebSockets open. Both sides are told, and nobody waits."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, UpstreamPool
from tests.servers import serve, waits_for_clients
from tests.threats.websocket.wire import LOST, OPEN, Peer, greet, relayed, upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

SOCKETS = 20


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_shutdown_is_told_to_both_sides(server, busy):
    """All upstreams hear 1012 in good time; so do the clients, where the server can still say."""
    if waits_for_clients(server):
        pytest.skip("it waits for its clients, and tells nobody")
    told = []

    async def chat(peer: Peer) -> None:
        await greet(peer)
        writing = asyncio.create_task(chatter(peer)) if busy else None
        told.append((await peer.end(limit=8))[1].code)
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        up.received, up.ended = [], (await peer.end(limit=0.1))[1]

    async def chatter(peer: Peer) -> None:
        while True:
            await peer.message("more")
            await asyncio.sleep(0.01)

    async with upstream() as up:
        up.behaviour = chat
        app = FastAPI()
        pool = UpstreamPool(up.raw.url)
        app.include_router(ProxyRouter(pool))
        async with AsyncExitStack() as clients:
            async with serve(app, server) as gw:
                peers = [await clients.enter_async_context(relayed(gw)) for _ in range(SOCKETS)]
                for peer in peers:
                    await peer.greet()
                begin = asyncio.get_running_loop().time()
            took = asyncio.get_running_loop().time() - begin
            ends = [(await peer.end(limit=1))[1].code for peer in peers]

        assert told == [1012] * SOCKETS
        # granian has stopped talking before it tells us; its embedded server may leave it open.
        assert set(ends) <= ({LOST, OPEN} if server == "granian" else {1012})
        assert took < 5
        assert sum(each.in_flight for each in pool.upstreams) == 0
