"""One gateway and one upstream for each server and module: the catalogue is long."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, Timeout, UpstreamPool
from tests.servers import SERVERS, raw_upstream, serve
from tests.threats.attack import World


@pytest.fixture(scope="module")
def anyio_backend():
    """Let async fixtures last as long as a module."""
    return "asyncio"


# granian goes first: a thread of its embedded server ends a little later than the server, and
# must not be the last thing in the process.
@pytest.fixture(scope="module", params=reversed(SERVERS))
def server(request):
    """Run each module on each ASGI server."""
    return request.param


@pytest.fixture(scope="module")
def build():
    """Forward everything, with short deadlines; a module may have another gateway."""

    def plain(upstream):
        timeout = Timeout(connect=1, response=1, idle=0.2)
        app = FastAPI()
        app.include_router(ProxyRouter(UpstreamPool(upstream.url, timeout=timeout)))
        return app

    return plain


@pytest.fixture(scope="module")
async def shared(server, build):
    """Serve what the module has built, in front of its upstream."""
    async with raw_upstream() as upstream, serve(build(upstream), server) as gw:
        yield World(server, gw, upstream)


@pytest.fixture
def world(shared):
    """Return the gateway and its upstream, which has heard nothing yet."""
    shared.upstream.requests.clear()
    shared.upstream.connections = 0
    return shared
