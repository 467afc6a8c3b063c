"""Where connections go: unix sockets, IPv6, and who shares a connection."""

from __future__ import annotations

import socket

import httpx
import pytest

from fastapi_proxy_router.core.upstream import Origin
from fastapi_proxy_router.transport import HTTP1Transport
from tests.servers import raw_upstream
from tests.transport.wire import BOTH_LOOPS, PATIENT, ask, fetch, unix_listener, was_sent

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]


async def test_a_unix_socket(tmp_path):
    """The URL's host is only the name in Host; the connection goes to the path and is kept."""
    path = tmp_path / "upstream.sock"
    async with raw_upstream(listener=unix_listener(path)) as upstream:
        async with httpx.AsyncClient(transport=HTTP1Transport(uds=str(path))) as client:
            for _ in range(2):
                assert (await client.get("http://name.test:81/x")).content == b"ok"

        assert upstream.last.values(b"host") == [b"name.test:81"]
        assert upstream.connections == 1


async def test_a_unix_socket_that_is_not_there(tmp_path):
    """A path without a listener is a connection that cannot be made."""
    transport = HTTP1Transport(uds=str(tmp_path / "nobody.sock"))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError) as error:
            await client.get("http://name.test/")

    assert was_sent(error.value) is False


async def test_ipv6():
    """An address in brackets is connected to as it is."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    listener.setblocking(False)
    async with raw_upstream(listener=listener) as upstream:
        async with httpx.AsyncClient(transport=HTTP1Transport()) as client:
            url = f"http://[::1]:{upstream.port}/"
            assert [(await client.get(url)).content for _ in range(2)] == [b"ok", b"ok"]

        assert upstream.connections == 1
        assert upstream.last.values(b"host") == [f"[::1]:{upstream.port}".encode()]


async def test_a_name_is_looked_up():
    """A host name works as an address does."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        upstream.host = "localhost"

        assert (await fetch(transport, upstream)).body == b"ok"


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a..b", "x" * 64 + ".test"])
async def test_a_name_that_is_none(host):
    """Whatever is wrong with it, it is a connection that cannot be made."""
    async with HTTP1Transport() as transport:
        with pytest.raises(httpx.ConnectError) as error:
            await transport.exchange(Origin("http", host, 80), ask(), PATIENT)

    assert was_sent(error.value) is False


async def test_origins_do_not_share_connections():
    """Two upstreams behind one transport each have their own."""
    async with raw_upstream() as one, raw_upstream() as two, HTTP1Transport() as transport:
        for upstream in (one, two, one, two):
            await fetch(transport, upstream)

        assert (one.connections, two.connections) == (1, 1)
        assert (len(one.requests), len(two.requests)) == (2, 2)


async def test_https_does_not_share_with_http():
    """A connection without TLS is never used where TLS is asked for."""
    async with raw_upstream() as upstream, HTTP1Transport() as transport:
        await fetch(transport, upstream)
        with pytest.raises(httpx.ConnectTimeout):
            await fetch(transport, upstream, None, PATIENT._replace(connect=0.1), scheme="https")

        assert len(upstream.requests) == 1
