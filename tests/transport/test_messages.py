"""Responses as they are read: headers, trailers, interim responses, and every way to cut them."""

from __future__ import annotations

import httpx
import pytest

from fastapi_proxy_router.transport import ConnectionLimits, HTTP1Transport
from fastapi_proxy_router.transport.limits import DEFAULT_LIMITS
from fastapi_proxy_router.transport.parser import IllegalResponse, ResponseParser
from tests.servers import OK, raw_upstream
from tests.transport.wire import EMPTY, fetch, was_sent, within_a_second

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"


async def got(answer: bytes, **options):
    """Return what one exchange makes of *answer*."""
    limits = options.pop("limits", DEFAULT_LIMITS)
    async with raw_upstream(answer) as upstream, HTTP1Transport(limits=limits) as transport:
        return await fetch(transport, upstream, **options)


async def refused(answer: bytes, **options) -> str:
    """Return why *answer* is none, having checked that its connection is dropped."""
    limits = options.pop("limits", DEFAULT_LIMITS)
    async with raw_upstream(answer) as upstream, HTTP1Transport(limits=limits) as transport:
        with pytest.raises(httpx.RemoteProtocolError) as error:
            await fetch(transport, upstream, **options)
        await within_a_second(upstream.closed)

    assert was_sent(error.value) is True
    return str(error.value)


def with_headers(*lines: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"\r\n".join([*lines, b"Content-Length: 2", b"", b"ok"])


async def test_headers_are_kept_as_they_came():
    """Order, case, repetition, bytes that are not ASCII, and values that are empty."""
    lines = [b"X-Empty:", b"SET-cookie: a=1", b"x-empty: ", b"Set-Cookie: b=\xe9", b"X-Tab: a\tb"]
    answer = await got(with_headers(*lines))

    assert answer.headers == [
        (b"X-Empty", b""),
        (b"SET-cookie", b"a=1"),
        (b"x-empty", b""),
        (b"Set-Cookie", b"b=\xe9"),
        (b"X-Tab", b"a\tb"),
        (b"Content-Length", b"2"),
    ]


@pytest.mark.parametrize(
    "line", [b"X-A: a\r\n b", b"X-A:\r\n\tb", b"Transfer-Encoding:\r\n chunked", b"X-A: 1\r\n "]
)
async def test_a_folded_header_is_refused(line):
    """A header on two lines is read in two ways (RFC 9112, 5.2)."""
    await refused(with_headers(line))


async def test_as_many_headers_as_are_allowed():
    """The limit itself is no mistake."""
    lines = [b"X-%d: %d" % (number, number) for number in range(DEFAULT_LIMITS.max_headers - 1)]
    answer = await got(with_headers(*lines))

    assert len(answer.headers) == DEFAULT_LIMITS.max_headers


async def test_too_many_headers():
    """One more is."""
    lines = [b"X: 1"] * DEFAULT_LIMITS.max_headers

    assert await refused(with_headers(*lines)) == "it has too many headers"


async def test_as_long_a_head_as_is_allowed():
    """A body behind it does not count."""
    limits = ConnectionLimits(max_header_bytes=2048)
    size = 100 * 1024
    head = b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: %d\r\n\r\n" % (b"a" * 1900, size)

    assert len((await got(head + bytes(size), limits=limits)).body) == size


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 3000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 3000,
        b"HTTP/1.1 200 OK\r\n" + b"X: aaaaaaaaaa\r\n" * 300,
        b"HTTP/1.1 200 " + b"a" * 3000,
        b"HTTP/1.1 200 OK\r\n" + b"X" * 3000,
    ],
)
async def test_too_long_a_head(head):
    """Wherever it is long, and whether or not it ends."""
    reason = await refused(head, limits=ConnectionLimits(max_header_bytes=2048))

    assert "too long" in reason


async def test_trailers():
    """They are there when the body has ended, as they came."""
    answer = await got(CHUNKED + b"0\r\nX-Sum: 1\r\nx-sum: 2\r\nX-None:\r\n\r\n")

    assert answer.body == b"ok"
    assert answer.trailers == [(b"X-Sum", b"1"), (b"x-sum", b"2"), (b"X-None", b"")]
    assert answer.headers == [(b"Transfer-Encoding", b"chunked")]


@pytest.mark.parametrize(
    "trailers",
    [b"X: 1\r\n" * 257, b"X: aaaaaaaaaaaaa\r\n" * 10_000, b"X: " + b"a" * 200_000],
)
async def test_trailers_have_the_limits_of_headers(trailers):
    """Else they would be a way around these."""
    assert "trailers" in await refused(CHUNKED + b"0\r\n" + trailers + b"\r\n")


async def test_early_hints_are_handed_over():
    """Every 103 is, in its turn and before the response; other interim responses are not."""
    hints = []

    async def early_hint(head):
        hints.append((head.status, head.headers))

    interim = CONTINUE + HINT % b"/a" + b"HTTP/1.1 102 Processing\r\n\r\n" + HINT % b"/b"
    answer = await got(interim + OK, early_hint=early_hint)

    assert hints == [(103, [(b"Link", b"</a>")]), (103, [(b"Link", b"</b>")])]
    assert (answer.status, answer.headers) == (200, [(b"Content-Length", b"2")])


@pytest.mark.parametrize("status", [100, 102, 103, 104, 199])
async def test_interim_responses_are_consumed(status):
    """Nobody who did not ask for them sees them."""
    answer = await got(b"HTTP/1.1 %d Wait\r\nX-Interim: 1\r\n\r\n" % status + OK)

    assert (answer.status, answer.headers) == (200, [(b"Content-Length", b"2")])


async def test_an_error_in_the_hook_ends_the_exchange():
    """It is the caller's, and the connection is not used again."""

    async def early_hint(head):
        raise LookupError(head.status)

    async with raw_upstream(HINT % b"/a" + OK) as upstream, HTTP1Transport() as transport:
        with pytest.raises(LookupError):
            await fetch(transport, upstream, early_hint=early_hint)
        await within_a_second(upstream.closed)


@pytest.mark.parametrize("interim", [CONTINUE, HINT % b"/a"])
async def test_interim_responses_have_a_limit(interim):
    """32 are consumed, one more is a flood."""
    assert (await got(interim * 32 + OK)).status == 200
    assert "interim" in await refused(interim * 33 + OK)


async def test_an_unwanted_switch_of_protocols():
    """Nobody asked for a 101."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n"

    assert "protocol" in await refused(head + b"\x00\x01")


@pytest.mark.parametrize("status", [200, 299, 418, 599])
async def test_any_final_status(status):
    """Known or not."""
    assert (await got(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)).status == status


@pytest.mark.parametrize("status", [b"0", b"99", b"099", b"600", b"999", b"1000", b"2x0", b"-200"])
async def test_a_status_that_is_none(status):
    """Outside of 100 to 599 there is nothing that a server could send on."""
    await refused(b"HTTP/1.1 " + status + b" X\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        with_headers(b"X-A: a\x00b"),
        with_headers(b"X-A: a\rb"),
        with_headers(b"X A: 1"),
        with_headers(b"X-A : 1"),
        with_headers(b": 1"),
        with_headers(b"no colon"),
        with_headers(b"Content-Length: 2"),
        with_headers(b"Content-Length: 3"),
        with_headers(b"Transfer-Encoding: chunked"),
        EMPTY.replace(b"0", b"+2"),
        EMPTY.replace(b"0", b"-1"),
        EMPTY.replace(b"0", b"0x2"),
        EMPTY.replace(b"0", b"2, 2"),
        EMPTY.replace(b"0", b"99999999999999999999"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_response(answer):
    """What can be read two ways, or not at all, is refused, and its connection is dropped."""
    await refused(answer)


@pytest.mark.parametrize(
    "chunks",
    [b"x\r\n", b"-1\r\n", b"2\r\nokay\r\n", b"2\nok\r\n", b"2\r\nok\n", b"f" * 17 + b"\r\n"],
)
async def test_a_broken_chunk_breaks_the_body(chunks):
    """What came before it is delivered, and then an error, never an end."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    await refused(head + b"2\r\nok\r\n" + chunks + b"0\r\n\r\n")


WHOLE = CONTINUE + HINT % b"/a" + CHUNKED + b"3;x=y\r\nyes\r\n0\r\nX-Sum:\r\nX-T: 1\r\n\r\n"


def parsed(*packets: bytes):
    parser = ResponseParser(DEFAULT_LIMITS)
    for packet in packets:
        parser.feed(packet)
    body = b"".join(parser.chunks)
    return list(parser.heads), body, parser.trailers, parser.complete, parser.reusable


def test_every_cut_gives_the_same_response():
    """In two packets, cut anywhere, and byte by byte."""
    whole = parsed(WHOLE)

    assert whole[1:] == (b"okyes", [(b"X-Sum", b""), (b"X-T", b"1")], True, True)
    assert parsed(*(bytes([byte]) for byte in WHOLE)) == whole
    for place in range(1, len(WHOLE)):
        assert parsed(WHOLE[:place], WHOLE[place:]) == whole


@pytest.mark.parametrize(
    "whole", [OK, CHUNKED + b"0\r\nX: 1\r\n\r\n", b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n"]
)
def test_no_response_is_complete_before_its_last_byte(whole):
    """And all are with it."""
    for place in range(len(whole)):
        parser = ResponseParser(DEFAULT_LIMITS)
        parser.feed(whole[:place])
        parser.feed_eof()
        assert not parser.complete
    assert parsed(whole)[3:] == (True, True)


@pytest.mark.parametrize(
    "surplus", [b"x", b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n", b"0\r\nX: 1\r\n\r\n"]
)
@pytest.mark.parametrize("whole", [OK, EMPTY, CHUNKED + b"0\r\nX-T: 1\r\n\r\n"])
def test_no_cut_hides_a_surplus(whole, surplus):
    """Whether it comes with the response or after it."""
    clean = parsed(whole)
    for place in range(1, len(whole + surplus)):
        packets = ((whole + surplus)[:place], (whole + surplus)[place:])
        assert parsed(*packets) == (*clean[:4], False)


def test_a_head_without_end_is_refused_as_it_grows():
    """It is not collected first."""
    parser = ResponseParser(ConnectionLimits(max_header_bytes=1000))
    parser.feed(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(9):
        parser.feed(b"a" * 100)
    with pytest.raises(IllegalResponse, match="too long"):
        parser.feed(b"a" * 100)
