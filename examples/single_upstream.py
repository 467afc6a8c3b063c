"""One upstream behind a FastAPI app: HTTP and WebSocket, every path and method.

Give it something to forward to, then run it::

    python -m http.server 9000 --bind 127.0.0.1
    uvicorn examples.single_upstream:app

Then open http://127.0.0.1:8000/. ``UPSTREAM=http://127.0.0.1:3000`` forwards to another server.
"""

import os

from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter

app = FastAPI()


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer here: FastAPI tries the routes in order, and this one stands before the proxy's."""
    return {"status": "ok"}


app.include_router(ProxyRouter(os.getenv("UPSTREAM", "http://127.0.0.1:9000")))
