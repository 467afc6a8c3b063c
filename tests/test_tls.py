"""Upstreams over TLS: verified by default, and with an authority of one's own."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme
from fastapi import FastAPI
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import ProxyRouter, Upstream
from tests.servers import Served, get_raw, serve, status
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


@pytest.fixture(scope="module")
def authority():
    """Make a certificate authority that nobody knows."""
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def gateway_to(upstream: Upstream) -> AsyncIterator[Served]:
    app = FastAPI()
    app.include_router(ProxyRouter(upstream))
    async with serve(app) as gw:
        yield gw


async def test_an_unknown_certificate_is_refused(authority):
    """A 502 for HTTP and for the WebSocket handshake, and nothing was asked."""
    async with ws_upstream(ssl=server_context(authority, "127.0.0.1")) as upstream:
        async with gateway_to(Upstream(f"https://{upstream.authority}")) as gw:
            assert status(await get_raw(gw)) == 502
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/"):
                    pass
            assert refused.value.response.status_code == 502
        assert upstream.connections == []


@pytest.mark.parametrize(("name", "code"), [("127.0.0.1", 426), ("other.test", 502)])
async def test_an_authority_of_ones_own_is_believed_for_its_names(authority, name, code):
    """A transport brings the authority; the name in the certificate is still checked."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    transport = httpx.AsyncHTTPTransport(verify=context)
    async with ws_upstream(ssl=server_context(authority, name)) as upstream:
        url = f"https://{upstream.authority}"
        async with gateway_to(Upstream(url, transport=transport)) as gw:
            # 426: the upstream speaks WebSocket only, and says so once TLS stands.
            assert status(await get_raw(gw)) == code
