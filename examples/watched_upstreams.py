"""Three upstreams that are watched, and a page that says how they are.

Start three servers and the gateway, stop one of the servers by hand, and look::

    python -m http.server 9001 & python -m http.server 9002 & python -m http.server 9003 &
    uvicorn examples.watched_upstreams:app
    curl http://127.0.0.1:8000/upstreams

Every state that changes is a line in the log; where a line is not enough, ``tell`` is the place.
"""

import logging
import os

from fastapi import FastAPI

from fastapi_proxy_router import Ejection, HealthCheck, ProxyRouter, Upstream, UpstreamPool

logging.basicConfig(level=logging.INFO)


def tell(upstream: Upstream, before: str, after: str) -> None:
    print(f"Call somebody: {upstream.origin} was {before} and is {after}")


site = UpstreamPool(
    [os.getenv(f"SITE_{number}", f"http://127.0.0.1:900{number}") for number in (1, 2, 3)],
    health=HealthCheck(path="/", interval=float(os.getenv("INTERVAL", "5"))),
    ejection=Ejection(consecutive=3, base_time=10),
    on_state_change=tell,
)

app = FastAPI()


@app.get("/upstreams")
async def upstreams() -> dict[str, str]:
    return {upstream.origin: upstream.health.state for upstream in site.upstreams}


app.include_router(ProxyRouter(site))
