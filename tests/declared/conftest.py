"""The ways that a request with a declared override takes through a gateway."""

import pytest

from tests.declared.gateways import WAYS
from tests.servers import SERVERS

#: Each way on one server, and the shortest one on all.
PAIRS = [(way, SERVERS[0]) for way in WAYS] + [(WAYS[0], server) for server in SERVERS[1:]]


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """Do not play every way on every server: what differs on a server is past the way there."""
    if {"way", "server"} <= set(metafunc.fixturenames):
        mark = pytest.mark.parametrize(("way", "server"), PAIRS, indirect=True)
        metafunc.definition.add_marker(mark)


@pytest.fixture(params=WAYS)
def way(request):
    """Run the test past FastAPI, through it, and beneath a hook."""
    return request.param
