"""on_send: the request as it is about to go out, in every try."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import hashlib
import hmac
from typing import Any

import pytest
from fastapi import HTTPException, Request

from fastapi_proxy_router import (
    HeaderEdits,
    OutboundRequest,
    ProxyRouter,
    RequestOverride,
    Retry,
    RouteOverride,
    Upstream,
    UpstreamPool,
)
from tests.hooks.helping import answering, app_of, proxied, tell, text, until
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


async def test_a_hook_sees_what_is_sent_when_all_else_is_done(server):
    """The target with the upstream's base, ours in place, hop-by-hop gone, overrides applied."""
    seen: dict[str, Any] = {}
    async with raw_upstream() as upstream:
        proxy = ProxyRouter(f"{upstream.url}/base?key=1", prefix="/api")

        @proxy.on_send
        def send(outbound: OutboundRequest, upstream: Upstream) -> None:
            seen.update(
                method=outbound.method,
                path=outbound.path,
                query=outbound.query,
                host=outbound.headers["host"],
                prefix=outbound.headers["x-forwarded-prefix"],
                connection=outbound.headers.get("x-hop"),
                own=outbound.headers["X-Own"],
                port=upstream.port,
            )

        @proxy.override("/x/{rest:path}", methods=["POST"])
        def hook() -> RequestOverride:
            return RequestOverride(method="PUT", headers=HeaderEdits(set={"x-own": "1"}))

        async with serve(app_of(proxy), server) as gw:
            await get_raw(
                gw, "/api/x/a%2Fb?q=1", "Connection: close, x-hop", "X-Hop: 1", method="POST"
            )
        assert seen == {
            "method": "PUT",
            "path": b"/base/x/a%2Fb",
            "query": b"key=1&q=1",
            "host": upstream.authority,
            "prefix": "/api",
            "connection": None,
            "own": "1",
            "port": upstream.port,
        }


async def test_what_a_hook_changes_is_sent(server):
    """Path, query, headers and Host; in order, each seeing what the one before has done."""
    async with proxied(server=server) as one:

        @one.router.on_send
        async def first(outbound: OutboundRequest) -> None:
            outbound.path = b"/new%20path"
            outbound.query = b"b=2&a=1"
            outbound.headers["Host"] = "other.test:81"
            outbound.headers.append("x-many", "1")
            outbound.headers.append("x-many", "2")
            del outbound.headers["cookie"]

        @one.router.on_send
        def second(outbound: OutboundRequest) -> None:
            outbound.query = b"&".join(sorted(outbound.query.split(b"&")))

        async with one.serve() as gw:
            headers = ("Cookie: a=1", "Content-Type: text/plain")
            await get_raw(gw, "/x?y", *headers, method="POST", body=b"body")
        sent = one.upstream.last
        assert sent.line == b"POST /new%20path?a=1&b=2 HTTP/1.1"
        assert sent.headers[0] == (b"host", b"other.test:81")
        assert sent.values(b"x-many") == [b"1", b"2"]
        assert sent.values(b"cookie") == []
        assert sent.body == b"body"


async def test_each_try_has_a_request_of_its_own():
    """A signature over path and host is that of the upstream which gets it."""
    key = b"secret"
    seen: list[OutboundRequest] = []

    def signature(host: bytes, target: bytes) -> bytes:
        return hmac.new(key, host + b" " + target, hashlib.sha256).hexdigest().encode()

    async def hang_up(_reader, writer):
        writer.close()

    async with raw_upstream(hang_up) as bad, raw_upstream() as good:
        pool = UpstreamPool(
            [f"{bad.url}/one", f"{good.url}/two"],
            retry=Retry(attempts=2),
            balancer=lambda upstreams, _connection: upstreams[0],
        )
        proxy = ProxyRouter(pool)

        @proxy.on_send
        def sign(outbound: OutboundRequest) -> None:
            assert "x-signature" not in outbound.headers
            seen.append(outbound)
            signed = signature(outbound.headers["host"].encode(), outbound.path)
            outbound.headers["x-signature"] = signed.decode()

        async with serve(app_of(proxy)) as gw:
            assert status(await get_raw(gw, "/x")) == 200
        assert len({id(one) for one in seen}) == 2
        for upstream in (bad, good):
            (host,) = upstream.last.values(b"host")
            expected = signature(host, upstream.last.target)
            assert upstream.last.values(b"x-signature") == [expected]
        await until(lambda: not any(one.in_flight for one in pool.upstreams))


async def test_a_hook_may_read_the_body_to_sign_it():
    """It is sent all the same, and again in the next try."""

    async def hang_up(_reader, writer):
        writer.close()

    async with raw_upstream(hang_up) as bad, raw_upstream() as good:
        pool = UpstreamPool(
            [bad.url, good.url],
            retry=Retry(attempts=2, methods={"POST"}),
            balancer=lambda upstreams, _connection: upstreams[0],
        )
        proxy = ProxyRouter(pool)

        @proxy.on_send
        async def sign(request: Request, outbound: OutboundRequest) -> None:
            outbound.headers["x-digest"] = hashlib.sha256(await request.body()).hexdigest()

        async with serve(app_of(proxy)) as gw:
            assert status(await get_raw(gw, "/x", method="POST", body=b"body")) == 200
        digest = hashlib.sha256(b"body").hexdigest().encode()
        assert good.last.values(b"x-digest") == [digest]
        assert good.last.body == b"body"


def _set(name: str, value: Any) -> Any:
    def change(outbound: OutboundRequest) -> None:
        setattr(outbound, name, value)

    return change


def _header(name: str, value: str | None) -> Any:
    def change(outbound: OutboundRequest) -> None:
        if value is None:
            del outbound.headers[name]
        else:
            outbound.headers[name] = value

    return change


def _append(name: str, value: str) -> Any:
    return lambda outbound: outbound.headers.append(name, value)


ILLEGAL = {
    "the method": _set("method", "PUT"),
    "a path without a slash": _set("path", b"x"),
    "no path": _set("path", b""),
    "a path in text": _set("path", "/x"),
    "a path with a query": _set("path", b"/x?a=1"),
    "a path with a line": _set("path", b"/x HTTP/1.1\r\nX: y"),
    "a path that leaves": _set("path", b"/a/../b"),
    "a path of another host": _set("path", b"//evil/x"),
    "a query with a fragment": _set("query", b"a=1#b"),
    "a query with a line": _set("query", b"a\r\nX: y"),
    "a query in text": _set("query", "a=1"),
    "a header with a line": _header("x-a", "b\r\nx-c: d"),
    "a header with NUL": _header("x-a", "b\0"),
    "a header of another name": _header("x a", "b"),
    "a header beyond latin-1": _header("x-a", "\u20ac"),
    "another length": _header("content-length", "1"),
    "no length": _header("Content_Length", None),
    "a coding of the transfer": _header("transfer-encoding", "chunked"),
    "an expectation": _header("expect", "100-continue"),
    "a key of a handshake": _header("sec-websocket-key", "AAAA"),
    "a coding of the transfer, spelled otherwise": _append("transfer_encoding", "chunked"),
    "a connection": _header("connection", "close"),
    "an upgrade": _header("upgrade", "h2c"),
    "no host": _header("host", None),
    "two hosts": _append("host", "b"),
    "a host that is none": _header("host", "a b"),
    "an empty host and a path": _header("host", "a/b"),
}


@pytest.mark.parametrize("case", ILLEGAL)
async def test_what_is_no_request_is_not_sent(case):
    """It is a mistake of ours: a 500, for which nobody is blamed, and nothing is tried again."""
    calls: list[str] = []
    change = ILLEGAL[case]
    async with proxied() as one:

        @one.router.on_send
        def send(outbound: OutboundRequest) -> None:
            calls.append(case)
            change(outbound)

        async with one.serve() as gw:
            answer = await get_raw(gw, "/x?q=1", method="POST", body=b"body")
        assert status(answer) == 500
        assert one.upstream.connections == 0
        assert len(calls) == 1


async def test_on_send_may_refuse():
    """With an exception of FastAPI's, before the upstream hears anything."""
    async with proxied() as one:

        @one.router.on_send
        def send() -> None:
            raise HTTPException(429, "slower")

        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 429
        assert one.upstream.connections == 0


async def test_on_send_returns_nothing():
    """What it returns might be meant to be sent."""
    async with proxied() as one:
        one.router.on_send(lambda: RequestOverride(path="/y"))
        async with one.serve() as gw:
            assert status(await get_raw(gw, "/x")) == 500
        assert one.upstream.connections == 0


async def test_a_default_of_a_header_is_none_if_the_client_has_another_spelling():
    """One that is set by default replaces it, too."""
    async with proxied() as one:

        @one.router.on_send
        def send(outbound: OutboundRequest) -> None:
            outbound.headers.setdefault("x-user", "bob")
            outbound.headers.update({"x-role": "user"})

        async with one.serve() as gw:
            await get_raw(gw, "/x", "X_User: eve", "X_Role: root")
        found = [pair for pair in one.upstream.last.headers if pair[0][:2] in (b"x-", b"x_")]
        own = [pair for pair in found if b"forwarded" not in pair[0]]
        assert own == [(b"x-user", b"bob"), (b"x-role", b"user")]


async def test_on_send_is_called_for_what_is_declared_as_well():
    """On the upstream that was chosen."""
    ports: list[int] = []
    async with raw_upstream() as own, raw_upstream(answering(b"other")) as other:
        pool = UpstreamPool(other.url, name="other")
        declared = RouteOverride(path="/x", pool="other", rewrite="/y")
        proxy = ProxyRouter(own.url, overrides=[declared], named_pools=[pool])

        @proxy.on_send
        def send(outbound: OutboundRequest, upstream: Upstream) -> None:
            ports.append(upstream.port)
            assert outbound.path == b"/y"

        proxy.on_request(lambda: tell(a=1))
        async with serve(app_of(proxy)) as gw:
            assert text(await get_raw(gw, "/x")) == b"other"
        assert ports == [other.port]
