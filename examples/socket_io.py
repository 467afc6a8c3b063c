"""A gateway in front of a Socket.IO server.

Socket.IO begins with HTTP long-polling and goes over to a WebSocket, both on ``/socket.io/``. The
catch-all takes both, so there is nothing to configure. Run the two apps of this file, the server
first (``pip install python-socketio``)::

    uvicorn examples.socket_io:server --port 9000
    uvicorn examples.socket_io:app

Then connect a Socket.IO client to http://127.0.0.1:8000. A session that polls must stay on one
server, so give such a pool one upstream, or let the clients use ``transports: ["websocket"]``.
"""

import os

import socketio  # type: ignore[import-untyped]
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter


async def shout(_sid: str, message: str) -> str:
    """Answer an event; what is returned is its acknowledgement."""
    return message.upper()


sio = socketio.AsyncServer(async_mode="asgi")
sio.on("shout", shout)
server = socketio.ASGIApp(sio)


app = FastAPI()
app.include_router(ProxyRouter(os.getenv("UPSTREAM", "http://127.0.0.1:9000")))
