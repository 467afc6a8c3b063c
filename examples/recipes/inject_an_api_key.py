"""The upstream wants a key that no client may know.

It goes with every request and every WebSocket, in place of what a client sends under that name, in
any spelling. Each upstream has a key of its own here, so a hook puts it in, which knows who was
picked. Were there one key for all, one declared header would do::

    RouteOverride(path="/{rest:path}", request_headers=HeaderEdits(set={"x-api-key": KEY}))

Run it with ``uvicorn examples.recipes.inject_an_api_key:app``.
"""

import os

from fastapi import FastAPI

from fastapi_proxy_router import OutboundRequest, ProxyRouter, Upstream

KEYS = {
    Upstream(os.getenv("EU", "http://127.0.0.1:9001")): os.getenv("EU_KEY", "eu-key"),
    Upstream(os.getenv("US", "http://127.0.0.1:9002")): os.getenv("US_KEY", "us-key"),
}

proxy = ProxyRouter(list(KEYS))


@proxy.on_send
async def authorize(outbound: OutboundRequest, upstream: Upstream) -> None:
    """Put the upstream's key in; called once more when another upstream is tried."""
    outbound.headers["x-api-key"] = KEYS[upstream]


app = FastAPI()
app.include_router(proxy)
