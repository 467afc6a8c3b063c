"""The largest body, the deadlines and the retries of a route, instead of the pool's."""

import asyncio
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import (
    HeaderEdits,
    QueryEdits,
    Retry,
    RouteOverride,
    Timeout,
    UpstreamPool,
)
from tests.declared.gateways import LIMIT, Gateway, Got, application, gateway, response
from tests.servers import OK, raw_upstream, serve
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

LIMITED = RouteOverride(path="/x", body_limit=5)


def chunks(*given: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (*given, b""))


# --- body_limit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"1", b"12345"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_within_the_limit(body, chunked, way):
    """It is forwarded as it came."""
    request = {"chunked": chunks(body) if body else b"0\r\n\r\n"} if chunked else {"body": body}
    async with gateway(LIMITED, way=way) as gw:
        assert (await gw.get("/x", method="POST", **request)).status == 200

        assert gw.sent.body == (request.get("chunked") or body)


async def test_a_declared_length_above_the_limit(way, server):
    """413, and no connection is made for it."""
    async with gateway(LIMITED, way=way, server=server) as gw:
        assert (await gw.get("/x", method="POST", body=b"123456")).status == 413
        assert gw.upstream.connections == 0

        assert (await gw.get("/y", method="POST", body=b"123456")).status == 200


async def test_a_limit_of_nothing(way):
    """Any body is too much, and a request without one is not."""
    async with gateway(RouteOverride(path="/x", body_limit=0), way=way) as gw:
        assert (await gw.get("/x", method="POST", body=b"1")).status == 413
        assert (await gw.get("/x", method="POST", chunked=chunks(b"1"))).status == 413
        assert (await gw.get("/x", "Content-Length: 0", method="POST")).status == 200
        assert (await gw.get("/x")).status == 200


async def test_chunks_above_the_limit(way, server):
    """413, and the upstream never hears of an end of the upload."""
    heard = bytearray()
    left = asyncio.Event()

    async def listening(reader, _writer):
        while data := await reader.read(1000):
            heard.extend(data)
        left.set()

    async with gateway(LIMITED, way=way, server=server, answer=listening) as gw:
        got = await gw.get("/x", method="POST", chunked=chunks(b"123", b"456"))

        assert got.status == 413
        if gw.upstream.connections:
            async with asyncio.timeout(LIMIT):
                await left.wait()
        assert b"\r\n0\r\n" not in heard
        assert b"456" not in heard


async def test_a_body_above_the_limit_blames_no_upstream(way):
    """It is the client's doing: no retry, no failure."""
    async with raw_upstream() as one, raw_upstream() as two:
        pool = UpstreamPool([one.url, two.url])
        app = application(pool, RouteOverride(path="/x", body_limit=5, retry=Retry()), way=way)
        async with serve(app) as served:
            gw = Gateway(served.port)
            for _ in range(8):
                got = await gw.get("/x", method="PUT", chunked=chunks(b"123", b"456"))
                assert got.status == 413
            assert (await gw.get("/x")).status == 200
        assert pool.in_flight == 0
        assert len(pool.available()) == 2


async def test_a_body_that_is_replaced_has_no_limit(way):
    """What is dropped is not forwarded."""
    override = RouteOverride(path="/x", body_limit=5, text="ours, and longer")
    async with gateway(override, way=way) as gw:
        assert (await gw.get("/x", method="POST", body=b"123456")).status == 200

        assert gw.sent.body == b"ours, and longer"


# --- timeout ------------------------------------------------------------------------------------


async def silent(reader: Any, _writer: Any) -> None:
    await reader.read()


@pytest.mark.parametrize(
    "timeout", [0.1, Timeout(response=0.1), Timeout(total=0.1), {"response": 0.1}]
)
async def test_a_shorter_deadline(timeout, way):
    """It holds instead of the pool's."""
    async with gateway({"path": "/x", "timeout": timeout}, answer=silent, way=way) as gw:
        assert (await gw.get("/x")).status == 504


async def test_a_longer_deadline(way, server):
    """Likewise: the pool's own is over before the upstream answers."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits(_reader, writer):
        begun.set()
        await go_on.wait()
        writer.write(OK)

    async with (
        gateway(
            RouteOverride(path="/x", timeout=5),
            answer=waits,
            way=way,
            server=server,
            upstreams=lambda url: UpstreamPool(url, timeout=Timeout(response=0.1)),
        ) as gw,
        asyncio.timeout(LIMIT),
    ):
        longer = asyncio.create_task(gw.get("/x"))
        await begun.wait()
        assert (await gw.get("/y")).status == 504
        go_on.set()
        assert (await longer).status == 200


async def test_a_deadline_of_a_handshake(server):
    """It holds for WebSockets."""
    override = RouteOverride(path="/x", timeout=Timeout(response=0.1))
    async with raw_upstream(silent) as upstream:
        async with serve(application(upstream.url, override), server) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/x"):
                    pass
    assert refused.value.response.status_code == 504


# --- retry --------------------------------------------------------------------------------------


async def asked(
    override: dict[str, Any], *answers: Any, pool: Retry, way: str, method: str = "GET"
) -> tuple[Got, list[int]]:
    """Return what a client gets of upstreams that answer so, and how often each was asked."""
    async with raw_upstream(answers[0]) as one, raw_upstream(answers[1]) as two:
        upstreams = UpstreamPool(
            [one.url, two.url], balancer=lambda given, _connection: given[0], retry=pool
        )
        rule = RouteOverride(path="/x", **override)
        async with serve(application(upstreams, rule, way=way)) as served:
            got = await Gateway(served.port).get("/x", method=method)
        return got, [len(one.requests), len(two.requests)]


async def breaks(_reader: Any, _writer: Any) -> None:
    """Be an upstream that closes without an answer."""


RETRIES: list[tuple[Retry, Retry | None, Any, str, int, list[int]]] = [
    (Retry(), None, breaks, "GET", 200, [1, 1]),
    (Retry(), Retry(attempts=1), breaks, "GET", 502, [1, 0]),
    (Retry(attempts=1), Retry(attempts=2), breaks, "GET", 200, [1, 1]),
    (Retry(), Retry(methods={"POST"}), breaks, "POST", 200, [1, 1]),
    (Retry(methods={"POST"}), Retry(), breaks, "POST", 502, [1, 0]),
    (Retry(), Retry(statuses={503}), response(503), "GET", 200, [1, 1]),
    (Retry(statuses={503}), Retry(), response(503), "GET", 503, [1, 0]),
    (Retry(), Retry(statuses={503}), response(502), "GET", 502, [1, 0]),
    (Retry(), Retry(per_try=0.1), silent, "GET", 200, [1, 1]),
    (Retry(), Retry(per_try=0.1, attempts=1), silent, "GET", 504, [1, 0]),
]


@pytest.mark.parametrize(("pool", "own", "answer", "method", "status", "tries"), RETRIES)
async def test_what_is_tried_again(pool, own, answer, method, status, tries, way):
    """As the override says, or else the pool."""
    override = {} if own is None else {"retry": own}
    got, times = await asked(override, answer, OK, pool=pool, way=way, method=method)

    assert got.status == status
    assert times == tries


async def test_the_method_that_is_sent_decides(way):
    """A POST that an override makes a PUT may be executed twice."""
    got, times = await asked({"method": "PUT"}, breaks, OK, pool=Retry(), way=way, method="POST")
    assert (got.status, times) == (200, [1, 1])
    got, times = await asked({"method": "POST"}, breaks, OK, pool=Retry(), way=way)
    assert (got.status, times) == (502, [1, 0])


@pytest.mark.parametrize(
    ("given", "answer", "status", "tries"),
    [
        ({503: 200}, response(503), 200, [1, 1]),
        (204, response(503), 204, [1, 1]),
        ({404: 503}, response(404), 503, [1, 0]),
    ],
)
async def test_the_upstreams_status_decides(given, answer, status, tries, way):
    """Not that which the client is to get instead."""
    override = {"status": given, "retry": Retry(statuses={503}, backoff=0)}
    got, times = await asked(override, answer, OK, pool=Retry(), way=way)

    assert (got.status, times) == (status, tries)


async def test_every_try_gets_the_same(way):
    """The rewrite, the query and the headers of the override."""
    override = RouteOverride(
        path="/x",
        rewrite="/y",
        query=QueryEdits(set={"a": "1"}),
        request_headers=HeaderEdits(add={"x-a": "1"}),
        response_headers=HeaderEdits(add={"x-b": "1"}),
    )
    async with raw_upstream(breaks) as one, raw_upstream() as two:
        pool = UpstreamPool([one.url, two.url], balancer=lambda given, _connection: given[0])
        async with serve(application(pool, override, way=way)) as served:
            got = await Gateway(served.port).get("/x?b")

    assert got.values("x-b") == [b"1"]
    for upstream in (one, two):
        assert upstream.last.target == b"/y?b&a=1"
        assert upstream.last.values(b"x-a") == [b"1"]


async def test_a_handshake_is_tried_again_as_the_override_says():
    """Or not: then the first failure is the answer."""
    async with raw_upstream(breaks) as one, ws_upstream() as two:
        pool = UpstreamPool([one.url, two.url], balancer=lambda given, _connection: given[0])
        rule = RouteOverride(path="/once", retry=Retry(attempts=1))
        async with serve(application(pool, rule)) as gw:
            async with dialled(gw, "/again"):
                pass
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/once"):
                    pass
    assert refused.value.response.status_code == 502
    assert len(two.connections) == 1
