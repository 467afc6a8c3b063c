"""Upstreams that do not answer, or answer what is no HTTP.

All upstream faults, and where they are tested (`streaming` is `tests/test_streaming.py`,
`forwarding` is `tests/test_forwarding.py`):

====  ===========================================  =============================================
F1    refused                                      here
F2    blackhole                                    here
F3    reset on accept                              here; on a reused connection: test_reuse_faults
F4    closed on accept                             here; on a reused connection: test_reuse_faults
F5    accepts and hangs                            here
F6    part of a head, then closed                  here; on a reused connection: test_reuse_faults
F7    no HTTP                                      here; `streaming`
F8    a head without end                           here
F9    a drip of header bytes                       here
F10   shorter than its Content-Length              test_truncation_faults; `streaming`
F11   closed between or in chunks                  test_truncation_faults; `streaming`
F12   malformed chunks                             test_truncation_faults
F13   reset or TLS truncation in the body          test_truncation_faults, test_tls_faults
F14   a slow body whose gaps are short             test_truncation_faults
F15   a body that stalls                           test_truncation_faults
F16   an endless body, and the client leaves       test_client_faults (C4)
F17   1xx without end, 103 and then nothing        here
F18   an answer during the upload                  test_duplex_faults
F19   an echo while the upload goes on             test_duplex_faults
F20   closed after the response                    test_reuse_faults
F21   closed just as we send                       test_reuse_faults
F22   closed while idle                            test_reuse_faults
F23   bytes after a response                       test_reuse_faults; `forwarding`
F24   TLS                                          test_tls_faults; tests/test_tls.py
F25   DNS                                          test_name_faults
F26   the port is another service's, health lies   tests/core/test_health, tests/health/test_probe
F27   flapping, slow start, one of three slow      tests/core/test_pool_machine, test_health
F28   all are down, and come back                  tests/core/test_members; one: F1, F30
F29   bursts of 5xx, 429                           here; tests/retries/test_statuses
F30   stopped, killed, restarted                   test_process_faults; tests/retries
F31   bodiless answers with a length, 101          test_reuse_faults, here; `forwarding`
====  ===========================================  =============================================

What a pool does about a failure, with another upstream or a breaker, belongs to the pool's tests.
"""

import asyncio
import contextlib
import socket
import time

import pytest

from fastapi_proxy_router import Timeout
from tests.faults.upstreams import faulty, gate, reset

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

METHODS = ("GET", "POST")
#: Seconds until a deadline that a test waits for.
SHORT = 0.3


async def never(reader, _writer):
    await reader.read()


@pytest.mark.parametrize("method", METHODS)
async def test_a_refused_connection_is_a_502(settled, method):
    """F1: at once, and the next request is served when the upstream has come up."""
    async with gate(backlog=None) as entrance:
        async with settled.gateway(entrance.upstream, heal=entrance.open) as gw:
            answer = await gw.ask(method, body=b"hello" if method == "POST" else b"")

            assert answer.status == 502


@contextlib.asynccontextmanager
async def full(port: int):
    """Fill the backlog of a port: what connects afterwards is not even refused."""
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    try:
        yield
    finally:
        for filler in fillers:
            filler.close()


async def test_a_blackhole_is_a_504_at_the_connect_deadline(settled):
    """F2: a connection that never stands does not wait for the other deadlines."""
    async with gate(backlog=0) as entrance:
        filled = contextlib.AsyncExitStack()
        await filled.enter_async_context(full(entrance.upstream.port))

        async def heal():
            await filled.aclose()
            await entrance.open()

        timeout = Timeout(connect=SHORT, response=30, idle=30)
        async with settled.gateway(entrance.upstream, heal=heal, timeout=timeout) as gw:
            began = time.monotonic()
            answer = await gw.ask()

            assert answer.status == 504
            assert time.monotonic() - began < 2


async def _reset(_reader, writer):
    reset(writer)


async def _close(_reader, _writer):
    pass


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", [_reset, _close])
async def test_a_connection_that_ends_at_once_is_a_502(settled, method, fault):
    """F3, F4: a fresh connection that breaks is not tried again."""
    async with gate(backlog=16) as entrance:
        await entrance.open(fault)
        async with settled.gateway(entrance.upstream, heal=entrance.open) as gw:
            answer = await gw.ask(method, body=b"hello" if method == "POST" else b"")

            assert answer.status == 502
            assert entrance.upstream.connections == 1


async def test_a_connection_that_nobody_accepts_is_a_504(settled):
    """F5: a backlog takes the request, and nobody reads it."""
    async with gate(backlog=16) as entrance:
        timeout = Timeout(response=SHORT)
        async with settled.gateway(entrance.upstream, heal=entrance.open, timeout=timeout) as gw:
            assert (await gw.ask()).status == 504


@pytest.mark.parametrize("method", METHODS)
async def test_an_upstream_that_hangs_is_a_504_and_is_not_asked_again(settled, method):
    """F5: it may be working on the request, so it gets it once, and its connection is closed."""
    async with faulty(never) as upstream:
        async with settled.gateway(upstream, timeout=Timeout(response=SHORT)) as gw:
            answer = await gw.ask(method, body=b"hello" if method == "POST" else b"")

            assert answer.status == 504
            assert len(upstream.requests) == 1
            async with asyncio.timeout(1):
                await upstream.closed.wait()


HEADS = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "a status line": b"HTTP/1.1 200 OK\r\n",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "all but the end": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
}


@pytest.mark.parametrize("part", HEADS)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_head_that_breaks_off_is_a_502(settled, part, how):
    """F6: on a fresh connection it is not tried again."""

    async def fault(_reader, writer):
        writer.write(HEADS[part])
        await writer.drain()
        if how == "reset":
            reset(writer)

    async with faulty(fault) as upstream, settled.gateway(upstream) as gw:
        assert (await gw.ask()).status == 502
        assert len(upstream.requests) == 1


NO_HTTP = {
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SMTP": b"220 mail.test ESMTP\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bad status": b"HTTP/1.1 OK\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n",
}


@pytest.mark.parametrize("what", NO_HTTP)
async def test_what_is_no_http_is_a_502(settled, what):
    """F7, F31: at once, although the upstream keeps the connection open."""

    async def fault(reader, writer):
        writer.write(NO_HTTP[what])
        await reader.read()

    async with faulty(fault) as upstream, settled.gateway(upstream) as gw:
        assert (await gw.ask()).status == 502
        async with asyncio.timeout(1):
            await upstream.closed.wait()


@pytest.mark.parametrize("line", [b"X-A: " + b"a" * 8000 + b"\r\n", b"X-A: a\r\n", b"a" * 8000])
async def test_a_head_without_end_is_a_502(settled, line):
    """F8: it is not collected in memory until a deadline passes."""

    async def fault(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nX-First: ")
        while True:
            writer.write(line)
            await writer.drain()

    async with faulty(fault) as upstream, settled.gateway(upstream) as gw:
        assert (await gw.ask()).status == 502


async def test_a_drip_of_header_bytes_is_a_504_at_the_response_deadline(settled):
    """F9: the deadline is for the whole head, whatever arrives meanwhile."""

    async def fault(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-A: a\r\n")
            await writer.drain()
            await asyncio.sleep(SHORT / 5)

    async with faulty(fault) as upstream:
        async with settled.gateway(upstream, timeout=Timeout(response=SHORT)) as gw:
            began = time.monotonic()

            assert (await gw.ask()).status == 504
            assert time.monotonic() - began < SHORT * 4


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


@pytest.mark.parametrize(("count", "code"), [(1, 200), (32, 200), (33, 502)])
@pytest.mark.parametrize("interim", [CONTINUE, EARLY_HINTS], ids=["100", "103"])
async def test_interim_responses_are_counted(settled, count, code, interim):
    """F17: up to 32 are skipped, more are no answer."""

    async def fault(_reader, writer):
        for _ in range(count):
            writer.write(interim)
            await writer.drain()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async with faulty(fault) as upstream, settled.gateway(upstream) as gw:
        assert (await gw.ask()).status == code


async def test_a_drip_of_interim_responses_is_a_504_at_the_response_deadline(settled):
    """F17: no interim response moves the deadline."""

    async def fault(_reader, writer):
        while True:
            writer.write(CONTINUE)
            await writer.drain()
            await asyncio.sleep(SHORT / 5)

    async with faulty(fault) as upstream:
        async with settled.gateway(upstream, timeout=Timeout(response=SHORT)) as gw:
            began = time.monotonic()

            assert (await gw.ask()).status == 504
            assert time.monotonic() - began < SHORT * 4


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_dies_after_early_hints_is_a_502(settled, how):
    """F17: an interim response is not an answer."""

    async def fault(_reader, writer):
        writer.write(EARLY_HINTS)
        await writer.drain()
        if how == "reset":
            reset(writer)

    async with faulty(fault) as upstream, settled.gateway(upstream) as gw:
        assert (await gw.ask()).status == 502


@pytest.mark.parametrize(
    "line", ["500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable"]
)
async def test_an_upstreams_own_errors_are_answers(settled, line):
    """F29: one after another they are relayed as they are, and are no failures of ours."""

    async def fault(_reader, writer):
        writer.write(f"HTTP/1.1 {line}\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\noops".encode())
        await writer.drain()
        return True

    async with faulty(fault) as upstream, settled.gateway(upstream) as gw:
        for _ in range(10):
            answer = await gw.ask("POST", body=b"")

            assert answer.status == int(line[:3])
            assert answer.body == b"oops"
            assert answer.values(b"retry-after") == [b"7"]


async def test_429_is_an_answer(settled):
    """F29: with its Retry-After, for the client to wait."""

    async def fault(_reader, writer):
        writer.write(
            b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
        )
        await writer.drain()
        return True

    async with faulty(fault) as upstream, settled.gateway(upstream) as gw:
        answer = await gw.ask()

        assert answer.status == 429
        assert answer.values(b"retry-after") == [b"7"]
