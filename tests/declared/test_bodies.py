"""A body that an override gives: what the upstream gets, and what becomes of the client's."""

import asyncio
from typing import Any

import pytest

from fastapi_proxy_router import HeaderEdits, RouteOverride, UpstreamPool
from tests.declared.gateways import (
    LIMIT,
    Busy,
    Gateway,
    Got,
    application,
    gateway,
    on_one_connection,
    response,
)
from tests.servers import raw_upstream, serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

TEXT = b"text/plain; charset=utf-8"
FORM = b"application/x-www-form-urlencoded"
JSON = b"application/json"

BODIES: list[tuple[dict[str, Any], bytes, bytes | None]] = [
    ({"body": b"\x00\xff"}, b"\x00\xff", None),
    ({"body": b""}, b"", None),
    ({"text": "caf\xe9"}, b"caf\xc3\xa9", TEXT),
    ({"text": ""}, b"", TEXT),
    ({"json": {"a": [1, None, "\xe9"]}}, b'{"a":[1,null,"\xc3\xa9"]}', JSON),
    ({"json": None}, b"null", JSON),
    ({"json": "x"}, b'"x"', JSON),
    ({"form": {"a": "x y", "b": ["1", "&"]}}, b"a=x+y&b=1&b=%26", FORM),
    ({"form": {"\xe9": ""}}, b"%C3%A9=", FORM),
]


@pytest.mark.parametrize(("given", "sent", "kind"), BODIES)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_without_a_body_gets_one(given, sent, kind, method):
    """With its length and its type, whatever the method is."""
    async with gateway(RouteOverride(path="/x", **given)) as gw:
        assert (await gw.get("/x", method=method)).status == 200

        assert gw.sent.line == f"{method} /x HTTP/1.1".encode()
        assert gw.sent.body == sent
        assert gw.sent.values(b"content-length") == [str(len(sent)).encode()]
        assert gw.sent.values(b"content-type") == ([] if kind is None else [kind])
        assert gw.sent.values(b"transfer-encoding") == []


@pytest.mark.parametrize(("given", "sent", "kind"), BODIES)
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_clients_body_is_replaced(given, sent, kind, chunked):
    """Nothing of it is left, neither what it was encoded with; bytes keep the type it had."""
    request: dict[str, Any] = {"body": b"mine"}
    if chunked:
        request = {"chunked": b"4\r\nmine\r\n0\r\n\r\n"}
    async with gateway(RouteOverride(path="/x", **given)) as gw:
        headers = ("Content-Type: text/mine", "Content-Encoding: gzip", "Content-MD5: x")
        assert (await gw.get("/x", *headers, method="POST", **request)).status == 200

        assert gw.sent.body == sent
        assert gw.sent.values(b"content-length") == [str(len(sent)).encode()]
        assert gw.sent.values(b"content-type") == [kind or b"text/mine"]
        for gone in (b"transfer-encoding", b"content-encoding", b"content-md5"):
            assert gw.sent.values(gone) == []


async def test_what_is_said_of_the_headers_wins(way):
    """A type and an encoding that the override sets are those of its body."""
    edits = HeaderEdits(set={"content-type": "text/csv", "content-encoding": "br"})
    for given in ({"text": "a"}, {"body": b"a"}, {"json": 1}, {"form": {"a": "b"}}):
        override = RouteOverride(path="/x", request_headers=edits, **given)
        async with gateway(override, way=way) as gw:
            await gw.get("/x", "Content-Type: text/mine", method="POST", body=b"mine")

            assert gw.sent.values(b"content-type") == [b"text/csv"]
            assert gw.sent.values(b"content-encoding") == [b"br"]


async def test_an_allow_list_keeps_the_new_bodys_type(way):
    """What is said of the client's headers is not said of ours."""
    override = RouteOverride(path="/x", json={"a": 1}, request_headers=HeaderEdits(keep=[]))
    async with gateway(override, way=way) as gw:
        await gw.get("/x", "X-A: 1", method="POST", body=b"mine")

        assert gw.sent.values(b"content-type") == [JSON]
        assert gw.sent.values(b"x-a") == []
        assert gw.sent.body == b'{"a":1}'


@pytest.mark.parametrize("kind", ["length", "chunked"])
async def test_a_dropped_body_does_not_become_the_next_request(way, server, kind):
    """What looks like a request in it is part of it, and the answers are one for each request."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    framing, body = b"Content-Length: %d" % len(hidden), hidden
    if kind == "chunked":
        framing = b"Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    head = b"POST /x HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n"
    override = RouteOverride(path="/x", text="ours")
    async with gateway(override, server=server, way=way, answer=response()) as gw:
        got = await on_one_connection(
            gw, [head + body, b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
        )

        # A server that has not read it all may close the connection, and says so.
        assert [one.status for one in got if one.raw] == [200] * len(
            [one for one in got if one.raw]
        )
        assert got[0].raw.endswith(b"ok")
        lines = [one.line for one in gw.upstream.requests]
        assert lines[0] == b"POST /x HTTP/1.1"
        assert gw.upstream.requests[0].body == b"ours"
        assert lines[1:] in ([], [b"GET /next HTTP/1.1"])
        assert bool(lines[1:]) or got[0].values("connection") == [b"close"]
        assert gw.upstream.connections == 1


async def test_a_large_body_that_is_dropped_does_not_hold_the_client_up(server):
    """A client that sends before it reads gets its answer all the same."""
    override = RouteOverride(path="/x", text="ours")
    async with gateway(override, server=server) as gw:
        reader, writer = await asyncio.open_connection(gw.host, gw.port)
        try:
            async with asyncio.timeout(LIMIT):
                size = 4 * 1024 * 1024
                writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
                writer.write(b"x" * size)
                await writer.drain()
                got = Got(await reader.readuntil(b"ok"))
        finally:
            writer.close()

        assert got.status == 200
        assert gw.sent.body == b"ours"


async def test_a_client_that_waits_for_a_100_is_not_asked_for_a_body_that_nobody_wants(server):
    """The final answer comes at once, instead of ``100 Continue``."""
    async with gateway(RouteOverride(path="/x", text="ours"), server=server) as gw:
        got = await gw.get("/x", "Expect: 100-continue", "Content-Length: 4", method="POST")

        if server != "hypercorn":  # It asks for every body by itself.
            assert got.status == 200
        assert gw.sent.body == b"ours"
        assert gw.sent.values(b"expect") == []


async def test_every_try_gets_the_body(server):
    """Also one that is longer than what a client's may be to be kept, when one has failed."""

    async def fails(reader, _writer):
        await reader.readexactly(100_004)

    text = "x" * 100_000 + "ours"
    async with raw_upstream(fails) as one, raw_upstream() as two:
        pool = UpstreamPool(
            [one.url, two.url], balancer=lambda upstreams, _connection: upstreams[0]
        )
        busy = Busy(application(pool, RouteOverride(path="/x", text=text, method="PUT")))
        async with serve(busy, server) as gw:
            got = await Gateway(gw.port).get("/x", method="POST", chunked=b"4\r\nmine\r\n0\r\n\r\n")
            await busy.idle()

        assert got.status == 200
        assert two.last.body == text.encode()
        assert two.last.values(b"content-length") == [b"100004"]
        assert two.last.values(b"content-type") == [TEXT]
        assert len(one.requests) == 1


async def test_a_body_has_no_meaning_for_a_handshake():
    """Neither it nor what is said of it is sent in one."""
    override = RouteOverride(path="/", json={"a": 1}, method="POST")
    async with ws_upstream() as upstream:
        async with serve(application(upstream.url, override)) as gw:
            async with dialled(gw, "/") as client:
                await client.send("hello")
                assert await client.recv() == "hello"
        request = upstream.connections[0].request
        assert request is not None
        assert "Content-Type" not in request.headers
        assert "Content-Length" not in request.headers
