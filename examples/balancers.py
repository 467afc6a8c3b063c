"""A pool whose balancer you choose, and a page that says who has got how much.

Start three servers and the gateway, ask it a few times, and look::

    python -m http.server 9001 & python -m http.server 9002 & python -m http.server 9003 &
    BALANCER=round_robin uvicorn examples.balancers:app
    for i in 1 2 3 4 5 6 7 8; do curl --silent --output /dev/null http://127.0.0.1:8000/; done
    curl http://127.0.0.1:8000/shares

The first has a weight of 2. ``PUT /weight/0/6`` gives it more, ``PUT /weight/0/0`` drains it.
Protect such a route in earnest.
"""

import os

from fastapi import FastAPI, HTTPException

from fastapi_proxy_router import ProxyRouter, Upstream, UpstreamPool

URLS = os.getenv("SITES", "http://127.0.0.1:9001,http://127.0.0.1:9002,http://127.0.0.1:9003")
first, *others = URLS.split(",")

site = UpstreamPool(
    [Upstream(first, weight=2), *others], balancer=os.getenv("BALANCER", "two_choices")
)

app = FastAPI()


@app.get("/shares")
async def shares() -> dict[str, int]:
    return {upstream.origin: upstream.requests for upstream in site.upstreams}


@app.put("/weight/{number}/{weight}")
async def weigh(number: int, weight: int) -> dict[str, int]:
    if not 0 <= number < len(site.upstreams) or weight < 0:
        raise HTTPException(404)
    site.upstreams[number].weight = weight
    return {upstream.origin: upstream.weight for upstream in site.upstreams}


app.include_router(ProxyRouter(site))
