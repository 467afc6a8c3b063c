"""Three upstreams of which two may fail, and clients that notice nothing.

Start three, end one or two of them, and go on asking::

    UPSTREAMS=http://127.0.0.1:9001,http://127.0.0.1:9002 SPARE=http://127.0.0.1:9003 \
        uvicorn examples.retries:app
"""

import os

from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, Queue, Retry, Timeout, Upstream, UpstreamPool

URLS = os.getenv("UPSTREAMS", "http://127.0.0.1:9001,http://127.0.0.1:9002").split(",")
SPARE = os.getenv("SPARE", "http://127.0.0.1:9003")

orders = UpstreamPool(
    [*(Upstream(url, max_concurrent=100) for url in URLS), Upstream(SPARE, backup=True)],
    name="orders",
    retry=Retry(
        per_try=2,  # then it is the next one's turn
        statuses={502, 503},  # what an upstream answers that is about to stop
        idempotency_key=True,  # so a POST that has one is repeated as well
    ),
    timeout=Timeout(connect=1, total=10),
    queue=Queue(size=1000, timeout=2),
)

app = FastAPI()
app.include_router(ProxyRouter(orders))
