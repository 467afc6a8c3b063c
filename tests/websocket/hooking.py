"""An endpoint with message hooks, and what is seen of it from outside."""

# No postponed annotations here: FastAPI reads those of functions.

import asyncio
from typing import Any

from fastapi import FastAPI, WebSocket

from fastapi_proxy_router import Upstream, WebSocketOptions, proxy_pass_websocket
from tests.servers import Served
from tests.test_relay import WebSocketUpstream

NO_OPTIONS = WebSocketOptions()


class Hooked:
    """An ASGI app that passes ``/ws`` on with hooks, and remembers what it raised."""

    def __init__(
        self,
        upstream: Served,
        from_client: Any = None,
        from_upstream: Any = None,
        options: WebSocketOptions = NO_OPTIONS,
    ) -> None:
        self.raised: list[Exception] = []
        self.target = target = Upstream(upstream.url)
        self.app = app = FastAPI()

        @app.websocket("/ws")
        async def endpoint(websocket: WebSocket):
            await proxy_pass_websocket(
                websocket,
                target,
                on_client_message=from_client,
                on_upstream_message=from_upstream,
                options=options,
            )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            self.raised.append(error)
            raise


async def upstream_told(upstream: WebSocketUpstream) -> tuple[int, str]:
    """Return the code and reason of the close frame that the upstream got."""
    async with asyncio.timeout(3):
        await upstream.closed.wait()
    close = upstream.connections[0].protocol.close_rcvd
    assert close is not None, "it got none"
    return close.code, close.reason
