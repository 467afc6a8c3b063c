"""R1-R6: where a request ends is read in one way, or the request goes nowhere.

Most attacks are followed by a whole request, ``GET /smug``, which the upstream must never see.
Where the rows of section 2.1 are tested:

=====  ============================================================================================
R1     here; CL+TE in test_forwarding: a_request_that_can_be_read_two_ways_is_refused
R2     here; two different lengths in the same place
R3     here
R4     here; ``gzip, chunked`` in the same place
R5     here: from the start, and in an upload that is under way
R6     here
R7     test_upgrades; without a body in test_forwarding: a_request_to_upgrade_to_something_else_...
R8     test_upgrades
R9     test_messages; 100 Continue itself in test_streaming: 100_continue_*
R10    test_messages; other methods in test_forwarding: a_body_with_a_length_keeps_it
R11    test_messages
R12    test_messages
R13    test_answers
R14    test_answers; some in test_streaming: an_upstream_that_breaks_the_protocol_is_a_502
R15    test_answers; for WebSockets in test_relay: an_invalid_handshake_is_a_502
R16    test_messages; Forwarded in core/test_forwarded: a_host_cannot_end_its_quotes
=====  ============================================================================================
"""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter
from tests.servers import raw_upstream, serve
from tests.threats.attack import (
    CHUNKED,
    CLOSE,
    LAST,
    OPEN,
    SMUGGLED,
    attack,
    known,
    message,
    statuses,
)

pytestmark = pytest.mark.anyio

ODD_LENGTHS = b"+3 -1 0x3 1_0 3.0 \xb2 9223372036854775808 18446744073709551619".split()
ODD_CODINGS = (
    b"xchunked|identity|\x0bchunked|,chunked|chunked,|chunked;q=1|chunked, chunked|".split(b"|")
)
LENGTHS = {
    "R2 same twice": (b"Content-Length: 3", b"Content-Length: 3"),
    "R2 3, 3": (b"Content-Length: 3, 3",),
    "R2 3, 4": (b"Content-Length: 3, 4",),
    **{f"R3 {value!r}": (b"Content-Length: " + value,) for value in (*ODD_LENGTHS, b"3 3", b"")},
}
CODINGS = {
    "R1 TE+CL": (CHUNKED, b"Content-Length: 3"),
    "R4 twice": (CHUNKED, CHUNKED),
    "R4 gzip, then chunked": (b"Transfer-Encoding: gzip", CHUNKED),
    "R4 chunked, then identity": (b"Transfer-Encoding: chunked, identity",),
    "R4 space before the colon": (b"Transfer-Encoding : chunked",),
    "R4 folded": (b"Transfer-Encoding:\r\n chunked",),
    **{f"R4 {value!r}": (b"Transfer-Encoding: " + value,) for value in ODD_CODINGS},
}
CHUNKS = {
    "R5 hex prefix": b"0x3\r\nabc\r\n",
    "R5 plus": b"+3\r\nabc\r\n",
    "R5 minus": b"-1\r\nabc\r\n",
    "R5 no size": b"\r\nabc\r\n",
    "R5 space after the size": b"3 \r\nabc\r\n",
    "R5 17 digits": b"fffffffffffffffff\r\nabc\r\n",
    "R5 bare LF": b"3\nabc\n",
    "R5 bare LF after the data": b"3\r\nabc\n",
    "R5 bare CR": b"3\rabc\r\n",
    "R5 LF in an extension": b"3;a\nb\r\nabc\r\n",
    "R5 no CRLF after the data": b"3\r\nabcXX",
    "R5 too much data": b"3\r\nabcd\r\n",
}
AMBIGUOUS = {
    **{row: message(*lines, body=b"abc") for row, lines in LENGTHS.items()},
    **{row: message(*lines, body=LAST) for row, lines in CODINGS.items()},
    **{row: message(CHUNKED, body=chunk + LAST) for row, chunk in CHUNKS.items()},
    "R4 on HTTP/1.0": message(CHUNKED, start=b"POST /x HTTP/1.0", body=LAST),
    "R5 no CRLF at the end": message(CHUNKED, body=b"3\r\nabc\r\n0\r\nX"),
}
#: What some servers read in one way after all, so that it may be forwarded.
READABLE = {
    "R1 TE+CL": "`Content-Length` beside chunks is dropped",
    "R2 same twice": "Two equal `Content-Length` lines are read as one",
    "R2 3, 3": "`Content-Length: 3, 3` is read as 3",
    "R4 folded": "Folded header lines are joined",
    "R5 space after the size": "Spaces after a chunk's size are skipped",
}


def closing(request: bytes) -> bytes:
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


@pytest.mark.parametrize("row", AMBIGUOUS)
async def test_ambiguous_framing_goes_nowhere(world, row):
    """One refusal and a closed connection, unless the server has made it one legal message."""
    readable = known(world.server, READABLE.get(row))
    request = AMBIGUOUS[row]
    got = await attack(world.gw, closing(request) if readable else request + SMUGGLED)
    arrived = await world.arrived()

    assert OPEN not in got
    if readable:
        (sent,) = arrived
        framing = (sent.values(b"content-length"), sent.values(b"transfer-encoding"))
        assert statuses(got) == [200]
        assert framing in (([b"3"], []), ([], [b"chunked"]))
        assert sent.body in (b"abc", LAST, b"3\r\nabc\r\n" + LAST)
    else:
        assert arrived == []
        assert len(statuses(got)) <= 1
        assert all(code >= 400 for code in statuses(got))


async def test_an_upload_that_turns_bad_is_never_completed(server):
    """R5: malformed chunks after good ones break the upstream's request off, too."""
    bad = [
        CHUNKS[row] for row in ("R5 hex prefix", "R5 too much data", "R5 no CRLF after the data")
    ]
    good, heard = asyncio.Event(), bytearray()

    async def listen(reader, _writer):
        while chunk := await reader.read(65536):
            heard.extend(chunk)
            if heard.endswith(b"good\r\n"):
                good.set()

    async with raw_upstream(listen) as upstream:
        app = FastAPI()
        app.include_router(ProxyRouter(upstream.url))
        async with serve(app, server) as gw:
            for chunk in bad:
                heard.clear()
                good.clear()
                upstream.closed.clear()
                reader, writer = await asyncio.open_connection(gw.host, gw.port)
                writer.write(message(CHUNKED, body=b"4\r\ngood\r\n"))
                async with asyncio.timeout(3):
                    await good.wait()
                    writer.write(chunk + LAST + SMUGGLED)
                    got = await reader.read()
                    await upstream.closed.wait()
                writer.close()

                # What a broken chunk holds may pass; its end may not.
                assert not heard.endswith(LAST), chunk
                assert b"smug" not in heard, chunk
                assert [code for code in statuses(got) if code < 400] == [], chunk


EXTENSIONS = {
    "R5 a short extension": b"3;x=y\r\nabc\r\n",
    "R5 64 KiB of extensions": b"3;" + b"x" * 70_000 + b"\r\nabc\r\n",
}


@pytest.mark.parametrize("row", EXTENSIONS)
async def test_extensions_of_chunks_end_here(world, row):
    """They are refused or dropped; the data is what counts."""
    got = await attack(world.gw, message(CLOSE, CHUNKED, body=EXTENSIONS[row] + LAST))
    arrived = await world.arrived()

    assert len(statuses(got)) <= 1
    assert [sent.body for sent in arrived] == [b"3\r\nabc\r\n" + LAST] * (statuses(got) == [200])


TRAILERS = {
    f"R6 {line.decode()}": line
    for line in (
        b"X-Admin: 1",
        b"Authorization: Basic evil",
        b"X-Forwarded-For: 6.6.6.6",
        b"Host: evil.test",
        b"Content-Length: 9",
        b"Transfer-Encoding: chunked",
    )
}
#: Our own guard takes care of these, wherever the server puts them.
GUARDED = ("R6 Host", "R6 X-Forwarded", "R6 Content-Length", "R6 Transfer-Encoding")


@pytest.mark.parametrize("row", TRAILERS)
async def test_trailers_are_no_headers(world, row):
    """What follows the last chunk does not become a header of the upstream's request."""
    line = TRAILERS[row]
    got = await attack(world.gw, message(CLOSE, CHUNKED, body=b"0\r\n" + line + b"\r\n\r\n"))
    arrived = await world.arrived()
    merged = known(world.server, "Trailers of a request stand among its headers")

    assert len(statuses(got)) == 1
    for sent in arrived:
        name, _, value = line.partition(b": ")
        seen = value in sent.values(name.lower()) and name != b"Transfer-Encoding"
        assert seen is (merged and not row.startswith(GUARDED))
        assert sent.values(b"transfer-encoding") == [b"chunked"]
    assert len(arrived) == (statuses(got) == [200])
