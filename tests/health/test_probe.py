"""One health check: what is asked, and what counts as healthy."""

from __future__ import annotations

import asyncio
import socket
import ssl

import httpx
import httpx2
import pytest
import trustme

from fastapi_proxy_router import (
    ConfigurationError,
    ConnectionLimits,
    HealthCheck,
    HTTP1Transport,
    Upstream,
)
from fastapi_proxy_router.core.checks import ProbeResult
from fastapi_proxy_router.core.policy import Timeout
from fastapi_proxy_router.prober import probe
from fastapi_proxy_router.transport import RawRequest, close_transports, exchange
from tests.health.patient import patient, until
from tests.servers import OK, raw_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

CHECK = HealthCheck(timeout=5)


async def checked(upstream: Upstream, check: HealthCheck = CHECK) -> ProbeResult:
    """Probe once and leave nothing open."""
    try:
        async with asyncio.timeout(10):
            return await probe(upstream, check)
    finally:
        await close_transports([upstream])


# --- What is asked --------------------------------------------------------------------------------


async def test_what_is_asked():
    """HEAD of the path, with our own headers only; base path and query of the URL are not in it."""
    async with patient() as one:
        result = await checked(
            Upstream(f"{one.url}/base?key=1"), HealthCheck(path="/healthz?full=1")
        )

        assert result.ok
        assert result.status == 200
        assert result.reason == ""
        assert 0 < result.seconds < 5
        assert one.requests[0].head.decode() == (
            "HEAD /healthz?full=1 HTTP/1.1\r\n"
            f"host: {one.server.authority}\r\n"
            "user-agent: fastapi-proxy-router (health check)\r\n"
            "accept: */*\r\n"
            "accept-encoding: identity"
        )


async def test_headers_of_ones_own():
    """They are sent, and those that have the name of a usual one replace it."""
    check = HealthCheck(headers={"Host": "users.test", "User-Agent": "me", "X-Token": "abc"})
    async with patient() as one:
        assert (await checked(Upstream(one.url), check)).ok

        request = one.requests[0]
        assert request.values(b"host") == [b"users.test"]
        assert request.values(b"user-agent") == [b"me"]
        assert request.values(b"x-token") == [b"abc"]


async def test_get_instead_of_head():
    """The method is a choice."""
    async with patient() as one:
        assert (await checked(Upstream(one.url), HealthCheck(method="GET"))).ok

        assert one.lines == ["GET /"]


async def test_an_upstream_without_head_is_asked_with_get():
    """In the same check, and at once in the later ones."""
    async with patient() as one:
        one.rejects = ("HEAD",)
        upstream = Upstream(one.url)

        assert (await checked(upstream)).ok
        assert (await checked(upstream)).ok

        assert one.lines == ["HEAD /", "GET /", "GET /"]


async def test_a_405_that_is_expected_is_an_answer():
    """Then nothing else is tried."""
    async with patient() as one:
        one.rejects = ("HEAD",)

        result = await checked(Upstream(one.url), HealthCheck(statuses={405}))

        assert (result.ok, one.lines) == (True, ["HEAD /"])


async def test_a_port_of_its_own():
    """The check goes to the port, the requests do not."""
    async with patient() as one, patient() as beside:
        beside.status = 500
        result = await checked(Upstream(one.url), HealthCheck(port=beside.server.port))

        assert result.status == 500
        assert one.requests == []
        assert beside.requests[0].values(b"host") == [beside.server.authority.encode()]


async def test_a_redirect_is_not_followed():
    """It is an answer like any other, healthy by default."""
    redirect = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with raw_upstream(redirect) as upstream:
        result = await checked(Upstream(upstream.url))

        assert (result.ok, result.status, len(upstream.requests)) == (True, 302, 1)


# --- What counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "statuses", "ok"),
    [
        (204, None, True),
        (399, None, True),
        (400, None, False),
        (503, None, False),
        (200, {204}, False),
        (426, {426}, True),
    ],
)
async def test_the_status_decides(status, statuses, ok):
    """From 200 to 399, or what is chosen."""
    check = CHECK if statuses is None else HealthCheck(statuses=statuses)
    async with patient() as one:
        one.status = status
        result = await checked(Upstream(one.url), check)

        assert (result.ok, result.status) == (ok, status)
        assert result.reason == ("" if ok else f"status {status}")


@pytest.mark.parametrize(
    ("body", "ok"),
    [
        (b"all is up", True),
        (b"down", False),
        (b"", False),
        (b"x" * 65_534 + b"up", True),
        (b"x" * 65_535 + b"up", False),
    ],
    ids=["there", "not there", "empty", "at the end", "too late"],
)
async def test_the_text_in_the_body_decides(body, ok):
    """It is looked for in the first 64 KiB, and GET is used for it."""
    async with patient() as one:
        one.body = body
        result = await checked(Upstream(one.url), HealthCheck(body="up"))

        assert (result.ok, one.lines) == (ok, ["GET /"])
        assert result.reason == ("" if ok else "the text is not in the body")


async def test_a_body_without_end_is_dropped():
    """What is beyond the limit is not read: the connection is closed."""

    async def endless(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nup")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with raw_upstream(endless) as upstream:
        assert (await checked(Upstream(upstream.url), HealthCheck(body="up"))).ok
        async with asyncio.timeout(5):
            await upstream.closed.wait()


async def test_a_body_that_breaks_off_is_a_failure():
    """A status alone is not a whole answer."""

    async def half(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with raw_upstream(half) as upstream:
        result = await checked(Upstream(upstream.url), HealthCheck(method="GET"))

        assert not result.ok
        assert "RemoteProtocolError" in result.reason


@pytest.mark.parametrize("slow", ["head", "body"])
async def test_the_timeout_is_for_all_of_it(slow):
    """Also for one that has sent its head and goes on dripping."""

    async def drip(_reader, writer):
        if slow == "body":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"H" if slow == "head" else b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_upstream(drip) as upstream:
        result = await checked(Upstream(upstream.url), HealthCheck(method="GET", timeout=0.1))

        assert not result.ok
        assert "0.1 s" in result.reason or "RemoteProtocolError" in result.reason
        async with asyncio.timeout(5):
            await upstream.closed.wait()


async def test_nobody_listens():
    """An upstream that cannot be reached fails, and the reason says why."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]

    result = await checked(Upstream(f"http://127.0.0.1:{port}"))

    assert (result.ok, result.status, result.ours) == (False, None, False)
    assert "ConnectError" in result.reason


async def test_what_is_not_http_is_a_failure():
    """And nothing of it is in the reason as it came."""
    async with raw_upstream(b"\x1b[31mSSH-2.0\r\n") as upstream:
        result = await checked(Upstream(upstream.url))

    assert not result.ok
    assert "\x1b" not in result.reason


async def test_a_check_that_finds_no_place_says_nothing():
    """All connections that we allow are in use: that is not the upstream's fault."""
    transport = HTTP1Transport(limits=ConnectionLimits(max_connections=1))
    async with raw_upstream() as server:
        upstream = Upstream(server.url, transport=transport)
        request = RawRequest("GET", b"/", [(b"host", b"x")], b"")
        held = await exchange(upstream, request, Timeout())

        result = await probe(upstream, HealthCheck(timeout=0.1))

        assert (result.ok, result.ours) == (False, True)
        await held.aclose()
        await transport.aclose()


# --- The way there --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_the_connection_is_used_again(method):
    """A check goes over the upstream's own connections, and leaves them clean."""
    check = HealthCheck(method=method)
    async with patient() as one:
        upstream = Upstream(one.url)
        assert (await probe(upstream, check)).ok
        assert (await probe(upstream, check)).ok

        assert one.server.connections == 1
        await close_transports([upstream])


async def test_tls_is_verified_as_for_requests():
    """By the upstream's own authorities, under the name in its URL, at any address and port."""
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("users.test").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    async with raw_upstream(OK, ssl=server_side) as server:

        def upstream(name: str, **options) -> Upstream:
            return Upstream(f"https://{name}", address="127.0.0.1", **options)

        check = HealthCheck(method="GET", port=server.port)
        known = await checked(
            upstream("users.test", transport=HTTP1Transport(verify=client_side)), check
        )
        other = await checked(
            upstream("other.test", transport=HTTP1Transport(verify=client_side)), check
        )
        unknown = await checked(upstream("users.test"), check)

        assert (known.ok, other.ok, unknown.ok) == (True, False, False)
        assert server.last.values(b"host") == [f"users.test:{server.port}".encode()]


async def test_a_unix_socket(tmp_path):
    """The check takes the upstream's socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "app.sock"))
    listener.listen()
    listener.setblocking(False)
    async with patient(listener=listener):
        transport = HTTP1Transport(uds=str(tmp_path / "app.sock"))
        assert (await checked(Upstream("http://app", transport=transport))).ok


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_transport_of_another_kind(library):
    """Any transport of httpx or httpx2 carries a check."""
    async with patient() as one:
        transport = library.AsyncHTTPTransport()
        assert (await checked(Upstream(one.url, transport=transport))).ok
        one.status = 500
        assert not (await checked(Upstream(one.url, transport=transport))).ok

        assert one.lines == ["HEAD /", "HEAD /"]
        await until(lambda: one.connections == 0)


async def test_a_mock_transport():
    """An upstream of a test is healthy if its handler says so, and not if it raises."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/broken":
            raise ValueError("a\nb")
        return httpx.Response(200, text="up")

    upstream = Upstream("http://test", transport=httpx.MockTransport(handler))

    assert (await checked(upstream, HealthCheck(body="up"))).ok
    failed = await checked(upstream, HealthCheck(path="/broken"))
    assert (failed.ok, failed.reason) == (False, "ValueError: 'a\\nb'")


# --- Mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"a b": "c"},
        {"x-a": "b\r\nx-c: d"},
        {"Content-Length": "5"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "x-a"},
        {"X-A": "b", "x-a": "c"},
    ],
    ids=str,
)
def test_headers_that_cannot_be_sent(headers):
    """Those that would end a line, say how long the request is, or contradict each other."""
    with pytest.raises(ConfigurationError, match="header"):
        HealthCheck(headers=headers)
