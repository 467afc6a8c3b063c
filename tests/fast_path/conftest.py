"""Fixtures for the tests of the straight way past FastAPI."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends

from fastapi_proxy_router import ProxyRouter, UpstreamPool
from tests.fast_path.ways import FASTAPI, STRAIGHT, Ways
from tests.servers import raw_upstream


@pytest.fixture
def ways():
    return Ways()


@pytest.fixture
async def upstream():
    async with raw_upstream() as served:
        yield served


@pytest.fixture
def pool(upstream, ways):
    return UpstreamPool(upstream.url, balancer=ways)


@pytest.fixture(params=[STRAIGHT, FASTAPI])
def way(request):
    """Run the test on both ways: for the second there is a dependency that does nothing."""
    return request.param


@pytest.fixture
def proxied(way, ways, upstream):
    """Return a maker of routers whose requests go the way under test."""

    def proxied(url: str = "", **options: Any) -> ProxyRouter:
        dependencies = [Depends(_nothing)] if way == FASTAPI else None
        pool = UpstreamPool(url or upstream.url, balancer=ways)
        return ProxyRouter(pool, dependencies=dependencies, **options)

    return proxied


def _nothing() -> None:
    """Be a dependency, so that FastAPI has something to inject."""
