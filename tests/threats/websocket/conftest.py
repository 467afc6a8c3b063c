"""One gateway and one raw upstream for each server and module."""

from __future__ import annotations

import asyncio
import re

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter, Timeout, UpstreamPool

pytest.register_assert_rewrite("tests.threats.websocket.wire")

from tests.servers import SERVERS, serve  # noqa: E402 - see above
from tests.threats.websocket.wire import World, alive, upstream  # noqa: E402


#: As in the directory above, granian goes first.
@pytest.fixture(scope="module", params=reversed(SERVERS))
def server(request):
    """Run each module on each server."""
    return request.param


@pytest.fixture(scope="module")
def build():
    """Relay everything, with short deadlines; a module may have another gateway."""

    def plain(url):
        app = FastAPI()
        app.include_router(ProxyRouter(UpstreamPool(url, timeout=Timeout(connect=1, response=0.5))))
        return app

    return plain


@pytest.fixture(scope="module")
async def shared(server, build):
    """Serve what the module has built, in front of its upstream."""
    async with upstream() as up, serve(build(up.raw.url), server) as gw:
        # Some servers are still starting when they listen.
        await alive(gw, up)
        yield World(server, gw, up)


#: What a server runs the application in, our own tasks, and our upstream.
_OURS = re.compile(r"\.run_asgi|\.future_watcher|\b_handle\b|^relay |^proxy |\braw_upstream\.")


def _running():
    tasks = asyncio.all_tasks()
    return {task for task in tasks if _OURS.search(f"{task.get_name()} {task.get_coro()!r}")}


@pytest.fixture
async def settled():
    """Fail a test that leaves a relay behind; a server may still have a connection to close."""
    before = _running()
    yield
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 3
    while left := _running() - before:
        assert loop.time() < deadline, f"left behind: {left}"
        await asyncio.wait(left, timeout=0.05)


@pytest.fixture
def world(shared):
    """Return the gateway and its upstream, which has heard nothing yet."""
    shared.upstream.reset()
    return shared
