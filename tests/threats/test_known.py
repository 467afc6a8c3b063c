"""What the catalogue found out about the servers is what the documentation says."""

from __future__ import annotations

from tests.test_documentation import ROOT, rows
from tests.threats.attack import KNOWN

SECURITY = ROOT / "docs" / "security.md"


def test_the_limits_of_the_servers_are_documented():
    """The table has every limit, and the servers that have it, in the order of the tests."""
    documented = {limit: servers for limit, servers, *_ in rows(SECURITY, "What servers do alone")}

    assert documented == {
        limit: ", ".join(server.removeprefix("uvicorn-") for server in servers)
        for limit, servers in KNOWN.items()
    }


def test_every_limit_can_be_avoided():
    """The table says how, or that nothing need be done."""
    for limit, _servers, meaning, remedy in rows(SECURITY, "What servers do alone"):
        assert meaning, limit
        assert remedy, limit
