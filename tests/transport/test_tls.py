"""https: who is believed, which name is asked for, and what a broken end means."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import httpx
import pytest
import trustme

from fastapi_proxy_router.transport import HTTP1Transport
from tests.servers import raw_upstream
from tests.transport.wire import (
    BOTH_LOOPS,
    PATIENT,
    ask,
    body_of,
    fetch,
    origin,
    read_body,
    scripted,
    was_sent,
    within_a_second,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled"), BOTH_LOOPS]

AUTHORITY = trustme.CA()


def server_context(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*(names or ("127.0.0.1",))).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def asked_names(context: ssl.SSLContext) -> list[str | None]:
    """Return the list of the names that clients will have asked *context* for."""
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    return names


async def test_an_unknown_authority_is_refused_by_default():
    """Nothing is sent to who cannot prove who it is."""
    async with raw_upstream(ssl=server_context()) as upstream, HTTP1Transport() as transport:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED") as error:
            await fetch(transport, upstream, scheme="https")

        assert was_sent(error.value) is False
        assert upstream.requests == []


async def test_an_authority_of_ones_own_is_believed():
    """Its context is used, and the connection is kept."""
    async with raw_upstream(ssl=server_context()) as upstream:
        async with httpx.AsyncClient(transport=HTTP1Transport(verify=client_context())) as client:
            for _ in range(3):
                got = await client.get(f"https://{upstream.authority}")
                assert got.content == b"ok"

        assert upstream.connections == 1


async def test_an_authority_is_believed_for_its_names_only():
    """A certificate for another name proves nothing."""
    async with raw_upstream(ssl=server_context("other.test")) as upstream:
        async with HTTP1Transport(verify=client_context()) as transport:
            with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
                await fetch(transport, upstream, scheme="https")


async def test_verify_false_verifies_nothing():
    """Neither authority nor name."""
    async with raw_upstream(ssl=server_context("other.test")) as upstream:
        async with HTTP1Transport(verify=False) as transport:
            assert (await fetch(transport, upstream, scheme="https")).body == b"ok"


async def test_a_client_certificate_is_shown():
    """The upstream that wants one learns who asks."""
    server, client = server_context(), client_context()
    server.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(server)
    AUTHORITY.issue_cert("gateway.test").configure_cert(client)
    seen = []

    async def handler(_request, _reader, writer):
        seen.append(writer.get_extra_info("peercert")["subjectAltName"])
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with scripted(handler, ssl=server) as upstream:
        async with HTTP1Transport(verify=client) as transport:
            assert (await fetch(transport, upstream, scheme="https")).status == 204

    assert seen == [(("DNS", "gateway.test"),)]


async def test_without_the_client_certificate_there_is_no_answer():
    """The refusal is one of httpx's errors, whenever it comes (in TLS 1.3, after the handshake)."""
    server = server_context()
    server.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(server)
    async with raw_upstream(ssl=server) as upstream:
        async with HTTP1Transport(verify=client_context()) as transport:
            with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
                await fetch(transport, upstream, scheme="https")

        assert upstream.requests == []


async def test_the_name_for_tls_is_apart_from_url_and_host():
    """``server_hostname`` is asked for and verified; URL and Host have names of their own."""
    context = server_context("inner.test")
    names = asked_names(context)
    async with raw_upstream(ssl=context) as upstream:
        transport = HTTP1Transport(verify=client_context(), server_hostname="inner.test")
        async with httpx.AsyncClient(transport=transport) as client:
            url = f"https://{upstream.authority}/"
            got = await client.get(url, headers={"Host": "public.test"})

        assert got.content == b"ok"
        assert names == ["inner.test"]
        assert upstream.last.values(b"host") == [b"public.test"]


async def test_a_request_can_name_the_server():
    """The extension ``sni_hostname`` beats the transport's name."""
    context = server_context("inner.test")
    names = asked_names(context)
    async with raw_upstream(ssl=context) as upstream:
        transport = HTTP1Transport(verify=client_context(), server_hostname="outer.test")
        async with httpx.AsyncClient(transport=transport) as client:
            url, chosen = f"https://{upstream.authority}/", {"sni_hostname": "inner.test"}
            assert (await client.get(url, extensions=chosen)).content == b"ok"
            with pytest.raises(httpx.ConnectError):
                await client.get(url)

        assert names == ["inner.test", "outer.test"]


async def test_tls_identities_do_not_share_connections():
    """A connection that proved one name is not used for another."""
    async with raw_upstream(ssl=server_context("one.test", "two.test")) as upstream:
        async with httpx.AsyncClient(transport=HTTP1Transport(verify=client_context())) as client:
            for name in ("one.test", "two.test", "one.test", "two.test"):
                await client.get(
                    f"https://{upstream.authority}/", extensions={"sni_hostname": name}
                )
            assert upstream.connections == 2
            with pytest.raises(httpx.ConnectError):
                await client.get(
                    f"https://{upstream.authority}/", extensions={"sni_hostname": "three.test"}
                )

        assert len(upstream.requests) == 4


async def test_large_bodies_over_tls():
    """Two megabytes each way at the same time, in chunks."""
    sent = bytes(range(256)) * 256

    async def body():
        for _ in range(32):
            yield sent

    async def echo(request, reader, writer):
        whole = await read_body(request, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole)
        await writer.drain()

    async with scripted(echo, ssl=server_context()) as upstream:
        async with HTTP1Transport(verify=client_context()) as transport:
            got = await fetch(transport, upstream, ask("PUT", body=body()), scheme="https")

            assert got.body == sent * 32


async def test_plain_text_on_the_port_of_tls():
    """An upstream without TLS is a connection that cannot be made."""

    async def plain(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server, HTTP1Transport() as transport:
        client = httpx.AsyncClient(transport=transport)
        with pytest.raises(httpx.ConnectError) as error:
            await client.get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    assert was_sent(error.value) is False


async def _until_close(_reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
    await writer.drain()


async def test_a_body_that_ends_with_its_connection_ends_with_tls():
    """A close_notify is the end of a body that has no other."""
    async with raw_upstream(_until_close, ssl=server_context()) as upstream:
        async with HTTP1Transport(verify=client_context()) as transport:
            assert (await fetch(transport, upstream, scheme="https")).body == b"hello"


async def test_a_body_cut_off_below_tls_is_not_complete():
    """Anybody on the way can close a TCP connection; without close_notify that is no end."""
    cut = asyncio.Event()

    async def cutting(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await cut.wait()
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as raw:
            raw.shutdown(socket.SHUT_WR)
        await reader.read()

    async with raw_upstream(cutting, ssl=server_context()) as upstream:
        async with HTTP1Transport(verify=client_context()) as transport:
            response = await transport.exchange(origin(upstream, "https"), ask(), PATIENT)
            try:
                assert await response.next_chunk() == b"hello"
                cut.set()
                with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                    await body_of(response)
            finally:
                await response.aclose()
        await within_a_second(upstream.closed)
