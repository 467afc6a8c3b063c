"""How the upstream of a WebSocket is reached: TLS, unix sockets, transports, deadlines."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trustme
from websockets.asyncio.server import unix_serve
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import HTTP1Transport, Timeout, Upstream
from tests.servers import Served, raw_upstream, serve
from tests.test_relay import dialled, echo, ws_upstream
from tests.websocket.wire import gateway_to

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


@pytest.fixture(scope="module")
def ca():
    """Make a certificate authority that nobody knows."""
    return trustme.CA()


def serving(ca: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    """Return the upstream's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    """Return our side of TLS."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@asynccontextmanager
async def gateway(upstream: Served, transport: httpx.AsyncBaseTransport) -> AsyncIterator[Served]:
    url = f"https://{upstream.authority}"
    async with serve(gateway_to(Upstream(url, transport=transport))) as gw:
        yield gw


async def refusal(gw: Served) -> int:
    """Return the status with which the gateway refuses a WebSocket."""
    with pytest.raises(InvalidStatus) as refused:
        async with dialled(gw):
            pass
    return refused.value.response.status_code


async def test_tls_is_verified_with_the_transports_own_authority(ca):
    """Messages cross over TLS, large ones too."""
    async with ws_upstream(ssl=serving(ca)) as upstream:
        async with gateway(upstream, HTTP1Transport(verify=trusting(ca))) as gw:
            async with dialled(gw) as client:
                for message in ("hello", b"x" * 300_000):
                    await client.send(message)
                    assert await client.recv() == message


async def test_a_certificate_of_another_authority_is_a_502(ca):
    """The upstream hears no handshake of ours."""
    async with ws_upstream(ssl=serving(ca)) as upstream:
        async with gateway(upstream, HTTP1Transport(verify=trusting(trustme.CA()))) as gw:
            assert await refusal(gw) == 502
        assert upstream.connections == []


async def test_verification_may_be_turned_off(ca):
    """Whoever says ``verify=False`` gets any certificate."""
    async with ws_upstream(ssl=serving(ca, "other.test")) as upstream:
        async with gateway(upstream, HTTP1Transport(verify=False)) as gw:
            async with dialled(gw):
                pass


@pytest.mark.parametrize("has_certificate", [True, False])
async def test_a_client_certificate_is_presented(ca, has_certificate):
    """An upstream that asks for one gets the transport's; without it the answer is 502."""
    asking = serving(ca)
    asking.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(asking)
    ours = trusting(ca)
    if has_certificate:
        ca.issue_cert("gateway.test").configure_cert(ours)

    async with ws_upstream(ssl=asking) as upstream:
        async with gateway(upstream, HTTP1Transport(verify=ours)) as gw:
            if has_certificate:
                async with dialled(gw):
                    pass
            else:
                assert await refusal(gw) == 502


@pytest.mark.parametrize(("name", "code"), [("inner.test", 101), ("else.test", 502)])
async def test_the_name_for_tls_may_be_another_than_the_urls(ca, name, code):
    """It is what TLS asks for and verifies, and Host stays that of the URL."""
    asked = []
    context = serving(ca, "inner.test")
    context.sni_callback = lambda _tls, name, _context: asked.append(name)
    transport = HTTP1Transport(verify=trusting(ca), server_hostname=name)

    async with ws_upstream(ssl=context) as upstream, gateway(upstream, transport) as gw:
        if code == 502:
            assert await refusal(gw) == 502
        else:
            async with dialled(gw):
                pass
            request = upstream.connections[0].request
            assert request is not None
            assert request.headers["Host"] == upstream.authority
    assert asked == [name]


async def test_an_upstream_on_a_unix_socket(tmp_path):
    """It is connected to by path, and is told the URL's name."""
    path = str(tmp_path / "upstream.sock")
    hosts = []

    async def handler(connection):
        hosts.append(connection.request.headers["Host"])
        await echo(connection)

    target = Upstream("http://app.test", transport=HTTP1Transport(uds=path))
    async with unix_serve(handler, path), serve(gateway_to(target)) as gw, dialled(gw) as client:
        await client.send("x")
        assert await client.recv() == "x"
    assert hosts == ["app.test"]


async def test_a_foreign_transport_is_not_asked():
    """What it would do with a WebSocket is unknown: the URL is dialled by TCP."""
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(500)

    async with ws_upstream() as upstream:
        target = Upstream(upstream.url, transport=httpx.MockTransport(handler))
        async with serve(gateway_to(target)) as gw, dialled(gw) as client:
            await client.send("x")
            assert await client.recv() == "x"
    assert asked == []


async def silent(reader, _writer):
    await reader.read()


async def test_a_connection_that_does_not_come_about_in_time_is_a_504(ca):
    """TLS belongs to it; what was opened for it is closed."""
    left = asyncio.Event()

    async def no_tls(reader, writer):
        await reader.read()
        left.set()
        writer.close()

    server = await asyncio.start_server(no_tls, "127.0.0.1", 0)
    async with server:
        target = Upstream(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        app = gateway_to(target, timeout=Timeout(connect=0.1))
        async with serve(app) as gw:
            assert await refusal(gw) == 504
            async with asyncio.timeout(1):
                await left.wait()
    assert target.in_flight == 0


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 101 Switching Protocols\r\nX-Slow: "])
async def test_an_answer_that_does_not_come_in_time_is_a_504(server, beginning):
    """Its beginning does not count, and the upstream's connection is dropped."""

    async def dawdle(reader, writer):
        writer.write(beginning)
        await silent(reader, writer)

    async with raw_upstream(dawdle) as upstream:
        target = Upstream(upstream.url)
        async with serve(gateway_to(target, timeout=Timeout(response=0.1)), server) as gw:
            assert await refusal(gw) == 504
            async with asyncio.timeout(1):
                await upstream.closed.wait()
    assert target.in_flight == 0


async def test_an_answer_that_has_come_stops_the_deadlines():
    """A WebSocket may live longer than its handshake could."""

    async def slow(connection):
        await asyncio.sleep(0.3)
        await echo(connection)

    async with ws_upstream(slow) as upstream:
        app = gateway_to(Upstream(upstream.url), timeout=0.1)
        async with serve(app) as gw, dialled(gw) as client:
            await client.send("x")
            assert await client.recv() == "x"
