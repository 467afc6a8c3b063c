"""An upstream in a process of its own, which writes down what it does: run by the test of restarts.

The arguments are the port to listen on and the file to write to.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvicorn
from starlette.types import Receive, Scope, Send


class Recording:
    """Answers every request after a moment, and has it in the file before."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        os.write(self._file, f"{scope['method']} {scope['path']} {body.decode()}\n".encode())
        # Most of its time an exchange is neither new nor over, as in life.
        await asyncio.sleep(0.002)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


if __name__ == "__main__":
    port, path = sys.argv[1:]
    uvicorn.run(
        Recording(path),
        port=int(port),
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=5,
    )
