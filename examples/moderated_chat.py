"""A chat whose messages are looked into on their way.

Each room is a WebSocket of an upstream. Messages are JSON: the hook below is given them as a model,
passes on what it returns, drops ``None``, and answers the sender with a ``Reply``::

    uvicorn examples.moderated_chat:app
    python -m websockets ws://127.0.0.1:8000/rooms/1
    > {"text": "hello"}
"""

import os

from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_proxy_router import (
    ProxyRouter,
    Reply,
    UpstreamPool,
    WebSocketOptions,
    WebSocketOverride,
)

chat = UpstreamPool(
    os.getenv("UPSTREAM", "http://127.0.0.1:9000"),
    websocket=WebSocketOptions(max_message_size=64 * 1024, idle=3600),
)
proxy = ProxyRouter(chat)


class Message(BaseModel):
    """What a client says."""

    text: str


@proxy.override_websocket("/rooms/{room}")
async def moderate(room: int) -> WebSocketOverride:
    """Let three messages through for each WebSocket, without what surrounds them."""
    said = 0

    async def check(message: Message) -> Message | Reply | None:
        nonlocal said
        text = message.text.strip()
        if not text:
            return None
        said += 1
        if said > 3:
            return Reply({"error": "Three messages are enough."})
        return Message(text=text)

    return WebSocketOverride(path=f"/v2/rooms/{room}", on_client_message=check)


app = FastAPI()
app.include_router(proxy)
