"""URLs that name a scheme, and those of early hints, turned back to the public side."""

import ssl
from typing import Any

import pytest
import trustme
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_proxy_router import HTTP1Transport, RouteOverride, Upstream, UpstreamPool
from tests.declared.gateways import Gateway, application, gateway, response
from tests.declared.test_urls import ALL, Redirecting
from tests.servers import raw_upstream, serve

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("https://SELF/x", "/api/x"),
        ("//SELF/x", "/api/x"),
        # It was told that the client uses that.
        ("http://SELF/x", "/api/x"),
        ("https://localhost:PORT/x", "https://localhost:PORT/x"),
    ],
)
async def test_an_upstream_with_tls(location, public, way):
    """It calls itself by its own scheme, or by that which it was told the client uses."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    answer = Redirecting(f"Location: {location}")
    async with raw_upstream(answer, ssl=theirs) as answer.upstream:
        upstream = answer.upstream
        target = Upstream(f"https://{upstream.authority}", transport=HTTP1Transport(verify=ours))
        app = application(target, ALL, prefix="/api", way=way)
        async with serve(app) as served:
            got = await Gateway(served.port).get("/api/a")

    assert got.values("location") == [public.replace("PORT", str(upstream.port)).encode()]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_behind_tls_that_ends_before_us(scheme):
    """An ``https`` URL is the upstream's own if it was told of TLS; else it asks for it."""
    answer = Redirecting("Location: https://public.test/x")
    override = RouteOverride(path="/{p:path}", rewrite_urls=True, preserve_host=True)
    async with gateway(
        override,
        answer=answer,
        prefix="/api",
        upstreams=lambda url: UpstreamPool(url, trusted_proxies=["127.0.0.1"]),
    ) as gw:
        answer.upstream = gw.upstream
        got = await gw.get("/api/a", f"X-Forwarded-Proto: {scheme}", host="public.test")

    expected = b"/api/x" if scheme == "https" else b"https://public.test/x"
    assert got.values("location") == [expected]


class Hinting:
    """An application on a server that passes early hints on, and what it was given."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.links: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hinted(message: Message) -> None:
            if message["type"] == "http.response.early_hint":
                self.links += message["links"]
            else:
                await send(message)

        extensions: dict[str, Any] = {"http.response.early_hint": {}}
        await self.app({**scope, "extensions": extensions}, receive, hinted)


@pytest.mark.parametrize("turned", [True, False])
async def test_early_hints(turned, way):
    """What a client is told to load is where it can load it."""

    async def hints(_reader, writer):
        links = b"Link: </a.css>; rel=preload\r\nLink: <//cdn.test/b>; rel=preload\r\n"
        writer.write(b"HTTP/1.1 103 -\r\n" + links + b"\r\n" + response())

    override = RouteOverride(path="/{p:path}", rewrite_urls=turned)
    async with raw_upstream(hints) as upstream:
        app = Hinting(application(upstream.url, override, prefix="/api", way=way))
        async with serve(app) as served:
            assert (await Gateway(served.port).get("/api/x")).status == 200

    own = b"</api/a.css>; rel=preload" if turned else b"</a.css>; rel=preload"
    assert app.links == [own, b"<//cdn.test/b>; rel=preload"]
