"""An upstream that knows neither its public host nor its prefix.

It says ``Location: http://127.0.0.1:9000/login`` and ``Set-Cookie: sid=1; Path=/;
Domain=shop.internal``. The client is told ``/shop/login`` and a cookie for its own host, below
``/shop``, that only goes over TLS::

    uvicorn examples.recipes.redirects_and_cookies:app
"""

import os

from fastapi import FastAPI

from fastapi_proxy_router import CookieEdits, ProxyRouter, RouteOverride

proxy = ProxyRouter(
    {"/shop": os.getenv("UPSTREAM", "http://127.0.0.1:9000")},
    overrides=[
        RouteOverride(
            path="/shop/{rest:path}",
            rewrite_urls=True,
            cookies=CookieEdits(domain="", path=True, secure=True, same_site="lax"),
        )
    ],
)

app = FastAPI()
app.include_router(proxy)
