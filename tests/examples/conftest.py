"""Fixtures that run an example."""

from __future__ import annotations

import importlib
import sys
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.servers import Served, serve


@pytest.fixture
def load(monkeypatch):
    """Import an example as if for the first time, with these environment variables."""

    def _load(name: str, **environment: str):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.delitem(sys.modules, f"examples.{name}", raising=False)
        return importlib.import_module(f"examples.{name}")

    return _load


@pytest.fixture
async def running():
    """Serve apps until the test ends."""
    async with AsyncExitStack() as stack:

        async def _serve(app) -> Served:
            return await stack.enter_async_context(serve(app))

        yield _serve


@pytest.fixture
async def client():
    """Return an HTTP client."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        yield http
