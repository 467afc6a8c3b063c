"""A new version for those who ask for it.

Who sends ``X-Canary`` gets the canary, and so does everybody in the office, who comes by another
host. All others get the pool that serves the prefix::

    uvicorn examples.recipes.canary_by_header:app
"""

import os

from fastapi import FastAPI

from fastapi_proxy_router import HeaderEdits, ProxyRouter, RouteOverride, UpstreamPool

stable = UpstreamPool(os.getenv("STABLE", "http://127.0.0.1:9001"), name="stable")
canary = UpstreamPool(os.getenv("CANARY", "http://127.0.0.1:9002"), name="canary")
seen = HeaderEdits(set={"x-served-by": "canary"})

proxy = ProxyRouter(
    stable,
    named_pools=[canary],
    overrides=[
        RouteOverride(
            path="/{rest:path}",
            match_headers={"x-canary": True},
            pool="canary",
            response_headers=seen,
        ),
        RouteOverride(
            path="/{rest:path}",
            hosts=["office.example.com"],
            pool="canary",
            response_headers=seen,
        ),
    ],
)

app = FastAPI()
app.include_router(proxy)
