"""Fixtures of the tests in a browser."""

from __future__ import annotations

from functools import cache

import pytest

from tests.browser.chromium import chromium
from tests.browser.visit import DIRECT, visit
from tests.servers import SERVERS


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Run one Chromium for all tests."""
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="session")
def visits(browser):
    """Let the browser visit the page once on each server."""
    return cache(lambda server: visit(browser, server))


@pytest.fixture(scope="session")
def direct(visits):
    """Visit the page without a gateway."""
    return visits(DIRECT)


@pytest.fixture(scope="session", params=SERVERS)
def proxied(visits, request):
    """Visit the page through a gateway on each server."""
    return visits(request.param)


@pytest.fixture(scope="session", params=[DIRECT, *SERVERS])
def visited(visits, request):
    """Visit the page without a gateway, and through one on each server."""
    return visits(request.param)
