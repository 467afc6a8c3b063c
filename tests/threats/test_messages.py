"""R9-R12, R16, G2, G6: what else may be wrong with a request, and requests behind one another.

The table of the rows of section 2.1 is in test_framing. Of the gate (section 2.0):

=====  ============================================================================================
G1     test_identity, H7
G2     here: versions that are none
G3-G5  test_framing, test_upgrades
G6     here: ``OPTIONS *``; CONNECT and TRACE in test_forwarding: connect_and_trace_are_refused
G7     test_forwarding: an_unsafe_target_is_refused, bytes_that_no_target_may_have_...; test_paths
G8     test_paths
G9     test_limits
G10    test_identity, H5
G11    test_answers
=====  ============================================================================================
"""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request

from fastapi_proxy_router import (
    HeaderEdits,
    ProxyRouter,
    Timeout,
    Upstream,
    UpstreamPool,
    proxy_pass,
)
from tests.servers import get_raw, raw_upstream, serve, status
from tests.threats.attack import CLOSE, OPEN, SMUGGLED, attack, known, message, statuses

pytestmark = pytest.mark.anyio

LONG = b"Content-Length: %d" % len(SMUGGLED)
GET = b"GET /x HTTP/1.1"


@pytest.fixture(scope="module")
def build():
    """Forward everything, and have one endpoint that makes a header of a path parameter."""

    def naming(upstream):
        app = FastAPI()
        pool = UpstreamPool(upstream.url, timeout=Timeout(connect=1, response=1, idle=0.2))

        @app.get("/named/{name}")
        async def named(request: Request, name: str, upstream: Annotated[Upstream, Depends(pool)]):
            try:
                edits = HeaderEdits(set={"x-name": name})
            except ValueError:
                return {"name": "refused"}
            return await proxy_pass(request, upstream, headers=edits)

        app.include_router(ProxyRouter(pool))
        return app

    return naming


REFUSED_EARLY = {
    "R9 Expect": (b"PUT /../x HTTP/1.1", b"Expect: 100-continue"),
    "R9 path": (b"PUT /../x HTTP/1.1", b"X: y"),
    "R9 long query": (b"PUT /?" + b"x" * 17_000 + b" HTTP/1.1", b"X: y"),
    "R9 header count": (b"PUT /x HTTP/1.1", b"\r\n".join([b"X: y"] * 150)),
    "R9 header": (b"PUT /x HTTP/1.1", b"Connection: host"),
}


@pytest.mark.parametrize("row", REFUSED_EARLY)
async def test_a_refusal_before_the_body_closes(world, row):
    """Whatever the client sends instead of the announced body, it is not read as a request."""
    start, line = REFUSED_EARLY[row]
    got = await attack(world.gw, message(line, LONG, start=start), then=SMUGGLED, limit=1)

    assert await world.arrived() == []
    assert len(statuses(got)) == 1
    assert statuses(got)[0] >= 400
    assert OPEN not in got


async def test_other_expectations_end_here(world):
    """R9: ``Expect: 200-ok`` is refused or not forwarded."""
    request = message(CLOSE, b"Expect: 200-ok", b"Content-Length: 3", body=b"abc")
    got = await attack(world.gw, request)
    arrived = await world.arrived()

    assert statuses(got) in ([200], [417])
    assert [sent.values(b"expect") for sent in arrived] == [[]] * (statuses(got) == [200])


@pytest.mark.parametrize("method", ["GET", "HEAD"], ids=["R10 GET", "R10 HEAD"])
async def test_a_body_that_looks_like_a_request_is_a_body(world, method):
    """It reaches the upstream as the body of the one request there is."""
    start = f"{method} /x HTTP/1.1".encode()
    got = await attack(world.gw, message(CLOSE, LONG, start=start, body=SMUGGLED))
    (sent,) = await world.arrived()

    assert (sent.line, sent.body) == (start, SMUGGLED)
    assert sent.values(b"content-length") == [b"%d" % len(SMUGGLED)]
    assert statuses(got) == [200]


async def test_a_length_divides_what_follows(world):
    """R10, R12: one request after the three bytes of a GET's body, one after an empty body."""
    first = message(b"Content-Length: 3", start=b"GET /1 HTTP/1.1", body=b"abc")
    second = message(b"Content-Length: 0", start=b"POST /2 HTTP/1.1")
    got = await attack(world.gw, first + second + message(CLOSE, start=b"GET /3 HTTP/1.1"))
    arrived = await world.arrived()

    assert [sent.target for sent in arrived] == [b"/1", b"/2", b"/3"]
    assert [sent.body for sent in arrived] == [b"abc", b"", b""]
    assert statuses(got) == [200, 200, 200]


async def test_fifty_requests_at_once_keep_their_order(server):
    """R12: a slow first answer holds the others back and does not change places with them."""
    release = asyncio.Event()

    async def name(reader, writer):
        target = upstream.last.target
        if target == b"/0":
            await release.wait()
        while True:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(target) + target)
            target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]

    async with raw_upstream(name) as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url))
        async with serve(app, server) as gw:
            starts = [b"GET /%d HTTP/1.1" % number for number in range(49)]
            requests = [message(start=start) for start in starts]
            last = message(CLOSE, start=b"GET /49 HTTP/1.1")
            task = asyncio.create_task(attack(gw, b"".join(requests) + last))
            async with asyncio.timeout(3):
                await upstream.received.wait()
                release.set()
                got = await task

    assert [part.split(b"\r\n\r\n/")[1] for part in got.split(b"HTTP/1.1 200")[1:]] == [
        b"%d" % number for number in range(50)
    ]


HEADERS = {
    "R11 bare LF": b"X: a\nY: b",
    "R11 bare CR": b"X: a\rY: b",
    "R11 folded": b"X: a\r\n b",
    "R11 NUL": b"X: a\0b",
    "R11 \\x01": b"X: a\x01b",
    "R11 DEL": b"X: a\x7fb",
    "R11 NUL in a name": b"X\0: a",
    "R11 tab in a name": b"X\t: a",
    "R11 space in a name": b"X Y: a",
    "R11 non-ASCII name": b"X\xe9: a",
    "R11 bracket in a name": b"X(: a",
    "R11 no name": b": a",
    "R11 no colon": b"nothing",
    "H3 Connection names Host": b"Connection: host",
}
HEADS = {
    **{row: message(CLOSE, line, start=GET) for row, line in HEADERS.items()},
    "R11 only bare LFs": b"GET /x HTTP/1.1\nHost: a\nConnection: close\n\n",
    "R11 space before the first name": GET + b"\r\n Host: a\r\nConnection: close\r\n\r\n",
    "R16 non-ASCII method": message(CLOSE, start=b"G\xc9T /x HTTP/1.1"),
    "R16 tab in the method": message(CLOSE, start=b"GE\tT /x HTTP/1.1"),
    "R16 NUL in the method": message(CLOSE, start=b"GE\0T /x HTTP/1.1"),
    "R16 no such method": message(CLOSE, start=b"GET,POST /x HTTP/1.1"),
    "G2 0.9": b"GET /x\r\n\r\n",
    "G2 0.9, named": message(CLOSE, start=b"GET /x HTTP/0.9"),
    "G2 1.2": message(CLOSE, start=b"GET /x HTTP/1.2"),
    "G2 2.0": message(CLOSE, start=b"GET /x HTTP/2.0"),
    "G2 9.9": message(CLOSE, start=b"GET /x HTTP/9.9"),
    "G2 1.10": message(CLOSE, start=b"GET /x HTTP/1.10"),
    "G2 1": message(CLOSE, start=b"GET /x HTTP/1"),
    "G2 lower case": message(CLOSE, start=b"GET /x http/1.1"),
    "G6 OPTIONS *": message(CLOSE, start=b"OPTIONS * HTTP/1.1"),
}
READABLE = {
    "R11 bare LF": "A bare LF ends a line",
    "R11 only bare LFs": "A bare LF ends a line",
    "R11 folded": "Folded header lines are joined",
}


@pytest.mark.parametrize("row", HEADS)
async def test_a_malformed_head_goes_nowhere(world, row):
    """It is refused, or mended by the server so that each header is on a line of its own."""
    got = await attack(world.gw, HEADS[row], limit=1)
    arrived = await world.arrived()

    assert OPEN not in got
    if known(world.server, READABLE.get(row)):
        (sent,) = arrived
        assert statuses(got) == [200]
        mended = (sent.values(b"x"), sent.values(b"y"))
        assert mended in (([b"a"], [b"b"]), ([b"a b"], []), ([], []))
    else:
        assert arrived == []
        assert len(statuses(got)) <= 1
        assert all(code >= 400 for code in statuses(got))


NAMES = {
    "R16 CRLF": ("a%0d%0aX-Admin:%201", None),
    "R16 LF": ("a%0aX-Admin:%201", None),
    "R16 NUL": ("a%00", None),
    "R16 UTF-8": ("caf%C3%A9", "caf\xe9".encode()),
    "R16 latin-1": ("caf%E9", "caf\ufffd".encode()),
}


@pytest.mark.parametrize("row", NAMES)
async def test_a_parameter_cannot_begin_another_header(world, row):
    """What an endpoint makes a header of is one header or none, in UTF-8."""
    name, expected = NAMES[row]
    code = status(await get_raw(world.gw, f"/named/{name}"))
    arrived = await world.arrived()

    assert code == 200 if expected else code in (200, 400, 404)
    assert [sent.values(b"x-name") for sent in arrived] == ([[expected]] if expected else [])
    assert all(b"x-admin" not in dict(sent.headers) for sent in arrived)
