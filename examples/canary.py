"""A new version that gets a small part of the traffic, and everybody who asks for it.

Of new clients 5 % come to the canary, and a cookie keeps each client on its version. Whoever sends
``X-Canary: always`` gets the canary, and a 503 if it is down::

    uvicorn examples.canary:app

``PUT /weight/50`` gives it half of the new clients, ``PUT /weight/0`` none. Protect such a route in
earnest.
"""

import os
from typing import Annotated

from fastapi import FastAPI, Path

from fastapi_proxy_router import Canary, CookieAffinity, ProxyRouter, Split, UpstreamPool

versions = CookieAffinity("version", secret=os.getenv("AFFINITY_SECRET"))
stable = UpstreamPool(
    os.getenv("STABLE", "http://127.0.0.1:9001"), name="stable", affinity=versions
)
canary = UpstreamPool(
    os.getenv("CANARY", "http://127.0.0.1:9002"), name="canary", affinity=versions
)
split = Split({stable: 95, canary: 5}, rules=[Canary(canary, header="x-canary", value="always")])

app = FastAPI()


@app.put("/weight/{percent}")
async def weigh(percent: Annotated[int, Path(ge=0, le=100)]) -> str:
    split.reweight({stable: 100 - percent, canary: percent})
    return repr(split)


app.include_router(ProxyRouter(split))
