"""Upstreams whose TLS is not what it should be.

====  ==============================================  ============================================
F13   a body without close_notify                     test_a_body_that_tls_did_not_end_...
F24   wrong host, expired, self-signed, unknown       test_a_certificate_that_proves_nothing_...
      plain text on the TLS port                      test_plain_text_on_the_port_of_tls_is_a_502
      stall in the handshake                          test_a_handshake_that_stalls_...
      alert, client certificate demanded              test_a_handshake_that_is_refused_is_a_502
====  ==============================================  ============================================

That certificates are verified without being told to is in `tests/test_tls.py`.
"""

import asyncio
import datetime
import re
import socket
import ssl
import time

import pytest
import trustme

from fastapi_proxy_router import Timeout, Upstream
from tests.faults.settling import limited
from tests.faults.upstreams import Gate, gate, reset
from tests.servers import read_request

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def authority():
    """Make the certificate authority that the gateway believes."""
    return trustme.CA()


def presenting(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def good(authority: trustme.CA) -> ssl.SSLContext:
    return presenting(authority.issue_cert("127.0.0.1"))


def believing(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def address(entrance: Gate, context: ssl.SSLContext) -> Upstream:
    return limited(f"https://{entrance.upstream.authority}", verify=context)


def self_signed(directory) -> ssl.SSLContext:
    lonely = trustme.CA()
    path = directory / "lonely.pem"
    lonely.private_key_pem.write_to_path(path)
    lonely.cert_pem.write_to_path(path, append=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


CERTIFICATES = {
    "wrong host": "mismatch",
    "expired": "expired",
    "self-signed": "self.signed certificate",
    "unknown": "unable to get local issuer|self.signed certificate in certificate chain",
}


def bad(kind: str, authority: trustme.CA, directory) -> ssl.SSLContext:
    if kind == "wrong host":
        return presenting(authority.issue_cert("other.test"))
    if kind == "expired":
        return presenting(authority.issue_cert("127.0.0.1", not_after=LONG_AGO))
    if kind == "self-signed":
        return self_signed(directory)
    return good(trustme.CA())


@pytest.mark.parametrize("kind", CERTIFICATES)
async def test_a_certificate_that_proves_nothing_is_a_502(
    settled, authority, tmp_path, caplog, kind
):
    """F24: nothing is sent, and the log says what was wrong with it."""
    async with gate(backlog=16) as entrance:
        await entrance.open(tls=bad(kind, authority, tmp_path))

        async def heal():
            await entrance.open(tls=good(authority))

        to = address(entrance, believing(authority))
        async with settled.gateway(entrance.upstream, to=to, heal=heal) as gw:
            answer = await gw.ask()

            assert answer.status == 502
            assert entrance.upstream.requests == []
            assert re.search(CERTIFICATES[kind], caplog.records[-1].getMessage())


async def test_plain_text_on_the_port_of_tls_is_a_502(settled, authority):
    """F24: an upstream that answers our hello with a complaint in HTTP."""

    async def complain(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with gate(backlog=16) as entrance:
        await entrance.open(complain)

        async def heal():
            await entrance.open(tls=good(authority))

        to = address(entrance, believing(authority))
        async with settled.gateway(entrance.upstream, to=to, heal=heal) as gw:
            assert (await gw.ask()).status == 502


async def test_a_handshake_that_stalls_is_a_504_at_the_connect_deadline(settled, authority):
    """F24: the handshake is a part of connecting."""
    async with gate(backlog=16) as entrance:

        async def heal():
            await entrance.open(tls=good(authority))

        to = address(entrance, believing(authority))
        timeout = Timeout(connect=0.3, response=30)
        async with settled.gateway(entrance.upstream, to=to, heal=heal, timeout=timeout) as gw:
            began = time.monotonic()

            assert (await gw.ask()).status == 504
            assert time.monotonic() - began < 2


def refusing(kind: str, authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server and of a client that do not come together."""
    server, client = good(authority), believing(authority)
    if kind == "no version in common":
        server.minimum_version = ssl.TLSVersion.TLSv1_3
        client.maximum_version = ssl.TLSVersion.TLSv1_2
    else:
        server.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(server)
        version = getattr(ssl.TLSVersion, kind.rpartition(" ")[2])
        server.minimum_version = server.maximum_version = version
    return server, client


@pytest.mark.parametrize(
    "kind", ["no version in common", "certificate demanded TLSv1_2", "certificate demanded TLSv1_3"]
)
async def test_a_handshake_that_is_refused_is_a_502(settled, authority, kind):
    """F24: in TLS 1.3 the refusal comes when the client takes the handshake for done."""
    server, client = refusing(kind, authority)
    async with gate(backlog=16) as entrance:
        await entrance.open(tls=server)

        async def heal():
            client.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
            await entrance.open(tls=good(authority))

        to = address(entrance, client)
        async with settled.gateway(entrance.upstream, to=to, heal=heal) as gw:
            assert (await gw.ask("POST", body=b"hello")).status == 502
            assert entrance.upstream.requests == []


async def test_a_certificate_of_ones_own_is_presented(settled, authority):
    """F24: to an upstream that demands one."""
    server, client = refusing("certificate demanded TLSv1_3", authority)
    authority.issue_cert("gateway@public.test").configure_cert(client)
    async with gate(backlog=16) as entrance:
        await entrance.open(tls=server)
        to = address(entrance, client)
        async with settled.gateway(entrance.upstream, to=to) as gw:
            assert (await gw.ask()).body == b"ok"


UNENDED = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "until closed": b"HTTP/1.1 200 OK\r\n\r\nhello",
}


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("kind", UNENDED)
async def test_a_body_that_tls_did_not_end_is_never_ended_cleanly(settled, authority, kind, how):
    """F13: whoever can cut the connection can do so in TCP, but cannot say close_notify."""
    go = asyncio.Event()

    async def cut(reader, writer):
        await read_request(reader)
        writer.write(UNENDED[kind])
        await go.wait()
        if how == "RST":
            reset(writer)
            return
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await reader.read()

    async with gate(backlog=16) as entrance:
        await entrance.open(cut, tls=good(authority))

        async def heal():
            await entrance.open(tls=good(authority))

        to = address(entrance, believing(authority))
        async with settled.gateway(entrance.upstream, to=to, heal=heal) as gw:
            async with gw.client() as client:
                await client.send(gw.head("GET", "/x", "Connection: close"))
                await client.until(b"hello")
                go.set()
                await client.end()
                assert not gw.note(await client.answer()).complete


async def test_a_body_that_tls_ended_is_whole(settled, authority):
    """Without a length, close_notify is its end."""

    async def close(reader, writer):
        await read_request(reader)
        writer.write(UNENDED["until closed"])

    async with gate(backlog=16) as entrance:
        await entrance.open(close, tls=good(authority))

        async def heal():
            await entrance.open(tls=good(authority))

        to = address(entrance, believing(authority))
        async with settled.gateway(entrance.upstream, to=to, heal=heal) as gw:
            gw.whole = {b"hello"}
            assert (await gw.ask()).body == b"hello"
