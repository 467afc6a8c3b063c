"""What the tests found out about the servers is what the documentation says."""

from __future__ import annotations

from tests.test_documentation import ROOT, rows
from tests.threats.websocket.known import KNOWN

NAMES = {"uvicorn-httptools": "sansio", "uvicorn-h11": "wsproto"}


def test_the_limits_of_the_servers_are_documented():
    """The table has every limit, the servers that have it, and what that means."""
    documented = rows(ROOT / "docs" / "websockets.md", "What servers do alone")

    assert all(len(row) == 3 and row[2] for row in documented)
    assert {limit: servers for limit, servers, _ in documented} == {
        limit: ", ".join(NAMES.get(server, server) for server in servers)
        for limit, servers in KNOWN.items()
    }
