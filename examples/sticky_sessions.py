"""Two upstreams that keep sessions in memory, so each client has to stay with its own.

A client is bound to an upstream by a cookie. ``AFFINITY_SECRET`` has to be the same in all workers;
any 16 bytes or more that nobody knows will do::

    AFFINITY_SECRET=... uvicorn examples.sticky_sessions:app --workers 4

``POST /drain/0`` takes the first upstream out of service gently: it gets no new clients and keeps
those that it has. ``POST /drain/0?weight=1`` brings it back. Protect such a route in earnest.
"""

import os

from fastapi import FastAPI, HTTPException

from fastapi_proxy_router import CookieAffinity, ProxyRouter, UpstreamPool

shop = UpstreamPool(
    [
        os.getenv("SHOP_1", "http://127.0.0.1:9001"),
        os.getenv("SHOP_2", "http://127.0.0.1:9002"),
    ],
    name="shop",
    affinity=CookieAffinity("shop", secret=os.getenv("AFFINITY_SECRET")),
)

app = FastAPI()


@app.post("/drain/{number}")
async def drain(number: int, weight: int = 0) -> dict[str, int]:
    if not 0 <= number < len(shop.upstreams) or weight < 0:
        raise HTTPException(404)
    shop.upstreams[number].weight = weight
    return {upstream.url: upstream.weight for upstream in shop.upstreams}


app.include_router(ProxyRouter(shop))
