"""Fixtures that all tests share."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers import SERVERS


@pytest.fixture
def anyio_backend():
    """Run every async test on asyncio, which all the servers use."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _anyio(anyio_backend):
    """Let anyio's plugin run async tests without a mark on each."""


@pytest.fixture(params=SERVERS)
def server(request):
    """Run the test on each ASGI server."""
    return request.param
