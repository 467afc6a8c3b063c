"""D rows of section 2.5 that concern HTTP, H10, and the limits of the gate (G9): 414 and 431.

=====  ============================================================================================
D1-D2  the server's business: docs/security.md, "Limits of the servers"
D3     test_streaming: an_upload_that_stalls_is_a_408
D4     test_streaming: a_slow_reader_slows_the_upstream
D5     here; test_forwarding: content_length_and_encoding_are_kept
D6     test_answers ("D6 ..."); endless bodies in test_streaming:
       a_client_that_leaves_a_download_ends_the_exchange
D7     test_streaming: a_slow_upstream_slows_the_client, a_truncated_upload_is_never_completed
D8     here
D9     the transport's tests
D10    the transport's tests
D12    test_overrides: a_hook_that_returns_something_else_is_our_mistake
D14    test_streaming: an_upstream_that_is_down_is_a_502_with_one_line_in_the_log
H10    here
G9     here; core/test_target: a_path_that_is_too_long_is_414
=====  ============================================================================================
"""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter
from tests.servers import get_raw, raw_upstream, serve, status
from tests.threats.attack import CHUNKED, CLOSE, LAST, attack, message, statuses

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
GET = b"GET /x HTTP/1.1"


def headers(*lines: bytes) -> bytes:
    return message(CLOSE, *lines, start=GET)


TOO_MUCH = {
    "H10 140 headers": headers(*[b"X: y"] * 140),
    "H10 5000 headers": headers(*[b"X: y"] * 5000),
    "H10 a header of 66 KiB": headers(b"X: " + b"y" * 66 * 1024),
    "H10 a name of 66 KiB": headers(b"X" * 66 * 1024 + b": y"),
    "H10 a header of 1 MiB": headers(b"X: " + b"y" * MIB),
    "H10 headers of 70 KiB": headers(*[b"X: " + b"y" * 1024] * 70),
    "H10 100 cookies of 700 bytes": headers(*[b"Cookie: a=" + b"y" * 700] * 100),
    "G9 a path of 17,000 bytes": message(CLOSE, start=b"GET /" + b"x" * 17_000 + b" HTTP/1.1"),
    "G9 a path of 100,000 bytes": message(CLOSE, start=b"GET /" + b"x" * 100_000 + b" HTTP/1.1"),
    "G9 a query of 17,000 bytes": message(CLOSE, start=b"GET /?" + b"x" * 17_000 + b" HTTP/1.1"),
}


@pytest.mark.parametrize("row", TOO_MUCH)
async def test_too_long_a_head_is_refused(world, row):
    """414 for the target and 431 for headers, where the server lets them through; none arrives."""
    codes = statuses(await attack(world.gw, TOO_MUCH[row]))

    assert await world.arrived() == []
    expected = 414 if row.startswith("G9") else 431
    if world.server == "uvicorn-httptools" and "100,000" not in row:
        assert codes == [expected]
    else:
        assert codes in ([expected], [431], [400], [])


ENOUGH = {
    "90 headers": headers(*[b"X: y"] * 90),
    "headers of 12 KiB": headers(*[b"Cookie: " + b"y" * 1024] * 12),
    "a path of 8 KiB": message(CLOSE, start=b"GET /" + b"x" * 8192 + b" HTTP/1.1"),
}


@pytest.mark.parametrize("row", ENOUGH)
async def test_the_limits_leave_room_for_what_is_usual(world, row):
    """Large cookies and long addresses pass."""
    assert statuses(await attack(world.gw, ENOUGH[row])) == [200]
    assert len(await world.arrived()) == 1


async def test_a_bomb_is_not_set_off(server):
    """D5: 64 MiB in 64 KiB of gzip cross as they are, whatever the client can read."""
    bomb = gzip.compress(bytes(64 * MIB), 1)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with raw_upstream(head + bomb) as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url))
        async with serve(app, server) as gw:
            tracemalloc.start()
            try:
                got = await get_raw(gw)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    assert got.endswith(b"\r\n\r\n" + bomb)
    assert peak < 8 * MIB


async def test_a_body_may_come_byte_by_byte(server):
    """D8: 5,000 chunks of one byte cross both ways without ado."""
    count, heard = 5_000, bytearray()

    async def echo(reader, writer):
        while not heard.endswith(LAST):
            heard.extend(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"1\r\ny\r\n" * count + LAST)
        await writer.drain()

    async with raw_upstream(echo) as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url))
        async with serve(app, server) as gw:
            body = b"1\r\nx\r\n" * count + LAST
            async with asyncio.timeout(10):
                got = await attack(gw, message(CLOSE, CHUNKED, body=body), limit=10)

    assert status(got) == 200
    assert heard.count(b"x") == count
    assert got.count(b"y") >= count
    assert got.endswith(LAST)
