"""Several pools, each with its path prefix and its own way to forward.

``/users/7`` reaches the users service as ``/7`` with ``X-Forwarded-Prefix: /users``; ``/orders``
takes turns between two upstreams, three requests to the first for one to the second; the rest goes
to the website with the ``Host`` that the client asked for::

    uvicorn examples.several_pools:app
"""

import os

from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, Timeout, Upstream, UpstreamPool

orders = UpstreamPool(
    [
        Upstream(os.getenv("ORDERS_1", "http://127.0.0.1:9001"), weight=3),
        Upstream(os.getenv("ORDERS_2", "http://127.0.0.1:9002")),
    ],
    name="orders",
    balancer="round_robin",
    timeout=Timeout(connect=2, response=30),
)
website = UpstreamPool(os.getenv("WEBSITE", "http://127.0.0.1:9003"), preserve_host=True)

app = FastAPI()
app.include_router(
    ProxyRouter(
        {
            "/users": os.getenv("USERS", "http://127.0.0.1:9000"),
            "/orders": orders,
            "/": website,
        }
    )
)
