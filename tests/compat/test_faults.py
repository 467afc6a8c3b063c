"""Faults of fastapi-reverse-proxy 0.4.0 that a program is rid of with the import.

Those of the path, the parameters and the client are in test_requests and test_clients, those of
LoadBalancer and HealthChecker in test_balancing and test_health.
"""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.compat.programs import application, passing, received
from tests.servers import RawUpstream, get_raw, raw_upstream, send_raw, serve, status
from tests.test_forwarding import header_lines, respond
from tests.test_relay import HANDSHAKE, dialled, ended, ws_upstream
from tests.test_streaming import connect, leave

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def answered(answer: bytes, method: str = "GET") -> bytes:
    """Return what a client gets when the upstream answers so."""
    async with raw_upstream(answer) as upstream, serve(passing(upstream.url)) as gw:
        return await get_raw(gw, method=method)


# --- HTTP ----------------------------------------------------------------------------------------


async def test_a_cookie_of_one_user_is_not_sent_for_another():
    """There is no jar that the requests share."""
    async with raw_upstream(respond("Set-Cookie: session=alice")) as upstream:
        async with serve(passing(upstream.url)) as gw:
            await get_raw(gw)
            await get_raw(gw)
    assert upstream.last.values(b"cookie") == []


@pytest.mark.parametrize("name", [b"set-cookie", b"www-authenticate"])
async def test_headers_on_several_lines_stay_on_several_lines(name):
    """A comma between two cookies would be a part of the first."""
    line = name.decode()
    answer = await answered(respond(f"{line}: a=1; Expires=Thu, 1 Jan 2026", f"{line}: b=2"))
    assert header_lines(answer, name) == [b"a=1; Expires=Thu, 1 Jan 2026", b"b=2"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_response_keeps_its_length(method):
    """So that a client can show progress, and HEAD says something."""
    answer = await answered(respond("X: 1", body=b"" if method == "HEAD" else b"ok"), method)
    assert header_lines(answer, b"transfer-encoding") == []
    assert len(header_lines(answer, b"content-length")) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PROPFIND", "DELETE"])
async def test_a_body_arrives_with_its_length_whatever_the_method(method):
    """Many upstreams read nothing of a chunked one."""
    request = await received("/", as_method=method, body=b"body")
    assert (request.body, request.values(b"content-length")) == (b"body", [b"4"])


async def test_every_line_of_a_header_arrives():
    """Not the first alone."""
    assert (await received("/", "X: 1", "X: 2")).values(b"x") == [b"1", b"2"]


async def test_nothing_is_added_but_who_the_client_is():
    """No User-Agent, no Accept, no Accept-Encoding."""
    names = {name for name, _ in (await received("/")).headers} - {b"host"}
    assert all(name.startswith(b"x-forwarded-") for name in names)


async def test_what_connection_names_does_not_cross():
    """Neither to the upstream nor back."""
    request = await received("/", "Connection: x-hop", "X-Hop: 1")
    assert (request.values(b"x-hop"), request.values(b"connection")) == ([], [])
    answer = await answered(respond("Connection: x-hop", "X-Hop: 1", "Trailer: x"))
    assert (header_lines(answer, b"x-hop"), header_lines(answer, b"trailer")) == ([], [])


async def test_bytes_that_are_not_ascii_cross():
    """There, they are a 500."""
    assert (await received("/", "X: caf\xe9")).values(b"x") == [b"caf\xe9"]


@pytest.mark.parametrize("target", ["/..%2ftenant2/s", "/%2e%2e/tenant2", "/a/../../tenant2"])
@pytest.mark.parametrize("path", [None, lambda rest: rest], ids=["none", "bare"])
async def test_a_client_cannot_leave_the_base_path(target, path):
    """It is refused, and the upstream hears nothing."""
    async with raw_upstream() as upstream:
        async with serve(passing(f"{upstream.url}/tenant1", path=path)) as gw:
            assert status(await get_raw(gw, target)) == 400
    assert upstream.connections == 0


async def test_a_client_cannot_choose_the_host():
    """What looks like one is a part of the path."""
    async with raw_upstream() as upstream, raw_upstream() as evil:
        async with serve(passing(upstream.url, path=lambda rest: rest)) as gw:
            assert status(await get_raw(gw, f"/@{evil.authority}/x")) == 200
    assert upstream.last.target == f"/@{evil.authority}/x".encode()
    assert evil.connections == 0


async def test_the_root_path_of_the_server_is_not_sent():
    """uvicorn's --root-path stands before every path that the application sees."""
    async with raw_upstream() as upstream:
        async with serve(passing(upstream.url), root_path="/api") as gw:
            assert status(await get_raw(gw, "/a")) == 200
    assert upstream.last.target == b"/a"
    assert upstream.last.values(b"x-forwarded-prefix") == [b"/api"]


async def test_an_upstream_that_resets_the_connection_is_a_502():
    """There, it is a 500."""

    async def reset(_reader, writer):
        await leave(writer, "reset")

    async with raw_upstream(reset) as upstream, serve(passing(upstream.url)) as gw:
        assert status(await get_raw(gw)) == 502


async def test_a_client_that_leaves_before_the_answer_frees_the_upstream():
    """Its connection is closed within a second, not after a minute."""

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream, serve(passing(upstream.url)) as gw:
        _reader, writer = await connect(gw)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await upstream.received.wait()
        await leave(writer, "close")
        async with asyncio.timeout(2):
            await upstream.closed.wait()


async def test_the_environment_chooses_no_proxy(monkeypatch):
    """HTTP_PROXY is for programs that browse."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await received("/x")).target == b"/x"


# --- WebSocket -----------------------------------------------------------------------------------


async def test_no_empty_subprotocol_is_offered():
    """Which an upstream has to refuse."""
    async with ws_upstream() as upstream, serve(passing(upstream.url)) as gw:
        async with dialled(gw, "/x"):
            pass
        request = upstream.connections[0].request
    assert request is not None
    assert "Sec-WebSocket-Protocol" not in request.headers


async def test_a_message_of_two_mebibytes_passes():
    """In both directions."""
    message = b"x" * 2**21
    async with ws_upstream(max_size=None) as upstream, serve(passing(upstream.url)) as gw:
        async with dialled(gw, "/x") as client:
            await client.send(message)
            assert await client.recv() == message


async def test_the_close_code_of_the_upstream_reaches_the_client():
    """With its reason."""

    async def close(connection):
        await connection.close(4001, "because")

    async with ws_upstream(close) as upstream, serve(passing(upstream.url)) as gw:
        async with dialled(gw, "/x") as client:
            assert await ended(client) == (4001, "because")


async def test_the_close_code_of_the_client_reaches_the_upstream():
    """With its reason."""
    async with ws_upstream() as upstream, serve(passing(upstream.url)) as gw:
        async with dialled(gw, "/x") as client:
            await client.close(4002, "bye")
        async with asyncio.timeout(2):
            await upstream.closed.wait()
        connection = upstream.connections[0]
    assert (connection.close_code, connection.close_reason) == (4002, "bye")


async def test_an_upstream_that_vanishes_is_not_a_clean_end():
    """The client can tell that something is missing."""

    async def vanish(connection):
        connection.transport.abort()

    async with ws_upstream(vanish) as upstream, serve(passing(upstream.url)) as gw:
        async with dialled(gw, "/x") as client:
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert (await ended(client))[0] == 1014


async def refused(upstream: RawUpstream) -> InvalidStatus:
    """Return the refusal that a client gets."""
    async with serve(passing(upstream.url)) as gw:
        with pytest.raises(InvalidStatus) as refusal:
            async with dialled(gw, "/x"):
                pass
    return refusal.value


async def test_the_refusal_of_the_upstream_reaches_the_client():
    """With its status, its headers and its body."""
    async with raw_upstream(respond("X: 1", code="401 Unauthorized", body=b"who?")) as upstream:
        response = (await refused(upstream)).response
    assert (response.status_code, response.headers["X"], response.body) == (401, "1", b"who?")


async def test_a_redirect_of_a_handshake_is_not_followed():
    """The client sees it, and nobody else is asked."""
    async with raw_upstream() as other:
        location = f"Location: {other.url}/"
        async with raw_upstream(respond(location, code="302 Found")) as upstream:
            async with serve(passing(upstream.url)) as gw:
                # A client of the library would follow it itself.
                assert status(await send_raw(gw, HANDSHAKE)) == 302
    assert other.connections == 0


async def test_the_headers_of_the_101_reach_the_client():
    """A cookie among them."""

    def with_cookie(_connection, _request, response):
        response.headers["Set-Cookie"] = "a=1"

    async with ws_upstream(process_response=with_cookie) as upstream:
        async with serve(passing(upstream.url, application())) as gw:
            async with dialled(gw, "/x") as client:
                assert client.response is not None
                assert client.response.headers["Set-Cookie"] == "a=1"
