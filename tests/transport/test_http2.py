"""HTTP/2 upstreams, through httpx's own transport."""

from __future__ import annotations

import httpx
from fastapi import FastAPI, Request

from fastapi_proxy_router import ProxyRouter, Upstream
from tests.servers import get_raw, serve, status


async def test_an_http_2_upstream_is_reached_through_httpx():
    """The upstream sees HTTP/2, and the client of HTTP/1.1 sees no difference."""
    upstream = FastAPI()

    @upstream.post("/{path:path}")
    async def show(request: Request):
        body = (await request.body()).decode()
        return {"version": request.scope["http_version"], "path": request.url.path, "body": body}

    async with serve(upstream, "hypercorn") as served:
        transport = httpx.AsyncHTTPTransport(http1=False, http2=True)
        app = FastAPI()
        app.include_router(ProxyRouter(Upstream(served.url, transport=transport)))
        async with serve(app) as gateway:
            got = await get_raw(gateway, "/a/b", method="POST", body=b"hello")

    assert status(got) == 200
    assert got.endswith(b'{"version":"2","path":"/a/b","body":"hello"}')
