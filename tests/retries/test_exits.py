"""However an exchange ends, its counters are back and its connection is closed or free."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from fastapi_proxy_router import (
    ConnectionLimits,
    HTTP1Transport,
    Queue,
    Timeout,
    Upstream,
    UpstreamPool,
    forward,
)
from fastapi_proxy_router.transport import close_transports
from tests.retries.pools import (
    WAYS,
    answering,
    closing,
    fast,
    first,
    refusing,
    silent,
    true,
)
from tests.servers import OK, raw_upstream
from tests.transport.stepping import HOWS, cancelled_at

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"
BUSY = answering("503 Busy", b"busy")


class Exit(NamedTuple):
    """Upstreams, by what they answer, and what the client sends and gets."""

    upstreams: tuple[object, ...]
    status: int
    method: str = "GET"
    body: bytes = b""
    options: Mapping[str, Any] = MappingProxyType({})


EXITS = {
    "good": Exit((OK,), 200),
    "good, the second": Exit((refusing, OK), 200),
    "good, after a close": Exit((closing, OK), 200),
    "good, after a status": Exit((BUSY, OK), 200),
    "good, after a hang": Exit((silent, OK), 200, options={"retry": fast(per_try=0.1)}),
    "none": Exit((refusing, closing), 502),
    "none that may be asked": Exit((closing, OK), 502, "POST", b"hello"),
    "late": Exit((silent,), 504, options={"timeout": Timeout(response=0.1)}),
    "late in all": Exit((silent, silent), 504, options={"timeout": Timeout(total=0.1)}),
    "rejected": Exit((BUSY, BUSY), 503),
    "rejected, then none": Exit((BUSY, refusing), 503),
    "rejected, with a body": Exit((BUSY, BUSY), 503, "PUT", b"hello"),
    "no HTTP": Exit((b"hello\r\n\r\n",), 502),
    "half a body": Exit((HALF,), 200),
    "half a body, the second": Exit((closing, HALF), 200),
    "refused by us": Exit((OK,), 400, options={"target": "/a\\b"}),
    "too much": Exit((OK,), 503, options={"rate": True}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EXITS)
async def test_nothing_is_left_of_an_exchange(pools, name, way):
    """Three of them in a pool whose transports have three connections, and then a good one."""
    one = EXITS[name]
    options = {"retry": fast(statuses={503}), "ejection": None, **one.options}
    target = options.pop("target", "/x")
    async with AsyncExitStack() as stack:
        upstreams = [await _upstream(stack, kind) for kind in one.upstreams]
        if options.pop("rate", False):
            upstreams[0].max_concurrent = 1
            upstreams[0].in_flight = 1
        gw = await stack.enter_async_context(pools.gateway_to(*upstreams, way=way, **options))
        for _ in range(3):
            answer = await gw.ask(one.method, target, body=one.body)
            assert answer.status == one.status
            upstreams[0].in_flight -= upstreams[0].max_concurrent or 0
            await true(gw.idle, f"{gw.pool!r}")
            upstreams[0].in_flight += upstreams[0].max_concurrent or 0
        upstreams[0].in_flight -= upstreams[0].max_concurrent or 0


async def _upstream(stack: AsyncExitStack, kind: Any) -> Upstream:
    if isinstance(kind, bytes):
        raw = await stack.enter_async_context(_once(kind))
    else:
        raw = await stack.enter_async_context(kind())
    if isinstance(raw, Upstream):
        return raw
    transport = HTTP1Transport(limits=ConnectionLimits(max_connections=3))
    return Upstream(raw.url, transport=transport)


def _once(answer: bytes):
    async def script(_reader, writer):
        writer.write(answer)
        await writer.drain()

    return raw_upstream(script)


SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "PUT",
    "scheme": "http",
    "path": "/x",
    "raw_path": b"/x",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"host", b"public.test"), (b"content-length", b"5")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
}

TRIES: dict[str, tuple[Any, Any]] = {
    "refused, then good": (refusing, OK),
    "closed, then good": (closing, OK),
    "rejected, then good": (BUSY, OK),
    "rejected, then closed": (BUSY, closing),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", TRIES)
async def test_a_request_that_is_cancelled_at_any_step_leaves_nothing(name, how):
    """From the first step of the first try to the last of the second."""
    async with AsyncExitStack() as stack:
        upstreams = [await _upstream(stack, kind) for kind in TRIES[name]]
        pool = UpstreamPool(
            upstreams, balancer=first, ejection=None, queue=Queue(), max_concurrent=1,
            retry=fast(statuses={503}, budget_floor=10_000),
        )  # fmt: skip

        async def receive():
            await asyncio.sleep(0)
            return {"type": "http.request", "body": b"hello"}

        async def send(_message):
            await asyncio.sleep(0)

        async def once():
            await forward(SCOPE, receive, send, upstreams[0])

        step = 1
        while await cancelled_at(once(), step, how):
            assert (pool.in_flight, len(pool.waiting)) == (0, 0)
            assert [each.in_flight for each in upstreams] == [0, 0]
            assert not any(each.health.on_trial for each in upstreams)
            step += 1
        assert step > 3
        await close_transports(upstreams)
