"""Three ways to cut a path.

``/shop/items/7`` reaches the shop as ``/items/7``, and ``X-Forwarded-Prefix`` says what is missing.
``/files/a.txt`` reaches the same upstream with its prefix, and so do old links like
``/files/2019/en/a.txt``, without the two segments that nobody needs any more::

    uvicorn examples.recipes.strip_a_prefix:app
"""

import os

from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, RouteOverride

UPSTREAM = os.getenv("UPSTREAM", "http://127.0.0.1:9000")

shop = ProxyRouter({"/shop": UPSTREAM})
files = ProxyRouter(
    {"/files": UPSTREAM},
    strip_prefix=False,
    overrides=[
        RouteOverride(path="/files/{year:int}/{language}/{rest:path}", rewrite="/files/{rest}")
    ],
)

app = FastAPI()
app.include_router(shop)
app.include_router(files)
