"""core.coding: bodies are decoded piece by piece, and bombs do no harm."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastapi_proxy_router.core.coding import PIECE, TooLarge, Undecodable, decoder_for


def bare(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def with_every_field(data: bytes) -> bytes:
    """Return gzip with a name, a comment, more and a checksum of the header (RFC 1952, 2.3)."""
    head = b"\x1f\x8b\x08\x1f\0\0\0\0\0\xff\x02\0xyname\0comment\0"
    return head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + gzipped(data)[10:]


#: Ways to write each coding.
ENCODERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzipped),
    "gzip, every field": (b"gzip", with_every_field),
    "gzip, stored": (b"GZip", lambda data: gzip.compress(data, 0)),
    "x-gzip": (b"x-gzip", gzipped),
    "deflate": (b"deflate", zlib.compress),
    "deflate, stored": (b"deflate", lambda data: zlib.compress(data, 0)),
    "deflate, bare": (b"Deflate", bare),
}
CODINGS = st.sampled_from(sorted(ENCODERS))
CUTS = st.lists(st.integers(0, 300), max_size=6)
BODIES = st.one_of(
    st.binary(),
    st.builds(lambda chunk, times: chunk * times, st.binary(max_size=20), st.integers(0, 20_000)),
)


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    chunks = []
    for cut in cuts:
        chunks.append(data[:cut])
        data = data[cut:]
    return [*chunks, data]


def encoded(body: bytes, codings: list[str]) -> tuple[list[bytes], bytes]:
    for coding in codings:
        body = ENCODERS[coding][1](body)
    return [ENCODERS[coding][0] for coding in codings], body


def decoded(lines: list[bytes], *chunks: bytes, limit: int | None = None) -> bytes:
    decoder = decoder_for(lines, limit=limit)
    pieces = [piece for chunk in chunks for piece in decoder.feed(chunk)]
    decoder.finish()
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


@settings(deadline=None)
@given(BODIES, st.lists(CODINGS, max_size=3), CUTS)
@example(b"a", ["deflate"], [1])
@example(b"a", ["deflate, bare", "gzip"], [1] * 40)
@example(b"\0" * 5_000_000, ["gzip", "gzip"], [20, 20])
def test_a_body_comes_back_in_whatever_chunks_it_came(body, codings, cuts):
    """In any coding and any stack of them, in pieces of at most 64 KiB."""
    lines, data = encoded(body, codings)

    assert decoded(lines, *chunked(data, cuts)) == body


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 4 * PIECE, 16 * PIECE + 7])
def test_a_body_of_any_length_is_whole(coding, length):
    """Also where a piece ends where the body ends, and where it cannot be compressed."""
    for body in (b"a" * length, os.urandom(length)):
        lines, data = encoded(body, [coding])

        assert decoded(lines, data) == body


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_body_comes_back_byte_by_byte(coding):
    """However short the chunks are."""
    body = b"Hello, hello, hello! " * 20
    lines, data = encoded(body, [coding])

    assert decoded(lines, *(data[index : index + 1] for index in range(len(data)))) == body


def test_what_is_there_is_yielded_at_once():
    """A stream of events that the upstream flushed does not wait for its end."""
    stream = zlib.compressobj(wbits=31)
    decoder = decoder_for([b"gzip"])

    for event in (b"one", b"two"):
        data = stream.compress(event) + stream.flush(zlib.Z_SYNC_FLUSH)
        assert list(decoder.feed(data)) == [event]


@pytest.mark.parametrize(
    ("lines", "codings"),
    [
        ([], ()),
        ([b""], ()),
        ([b"identity"], ()),
        ([b"Identity, ,"], ()),
        ([b"GZIP"], (b"gzip",)),
        ([b"gzip, identity,\tdeflate "], (b"gzip", b"deflate")),
        ([b"x-gzip", b"deflate, gzip"], (b"x-gzip", b"deflate", b"gzip")),
    ],
)
def test_the_codings_of_all_lines_count_in_order(lines, codings):
    """In any case, with blanks and empty elements; ``identity`` is none."""
    assert decoder_for(lines).codings == codings


def test_codings_are_undone_from_the_last():
    """The header lists them as they were applied (RFC 9110, 8.4)."""
    data = zlib.compress(gzipped(b"body"))

    assert decoded([b"gzip, deflate"], data) == b"body"
    with pytest.raises(Undecodable):
        decoded([b"deflate, gzip"], data)


@pytest.mark.parametrize(
    "lines",
    [[b"br"], [b"zstd"], [b"gzip, br"], [b"compress"], [b"gzip;q=1"], [b"\xff"], [b"gz ip"]],
)
def test_other_codings_are_refused(lines):
    """Before a byte is read."""
    with pytest.raises(Undecodable, match="not known"):
        decoder_for(lines)


def test_more_than_five_codings_are_refused():
    """Each multiplies what a byte costs."""
    assert len(decoder_for([b"gzip, identity"] * 5).codings) == 5
    with pytest.raises(Undecodable, match="more than 5"):
        decoder_for([b"gzip"] * 6)


@pytest.mark.parametrize("lines", [[], [b"gzip"], [b"deflate"], [b"gzip, deflate"]])
@pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]])
def test_a_body_without_a_byte_is_empty(lines, chunks):
    """Whatever its coding."""
    assert decoded(lines, *chunks) == b""


@settings(deadline=None)
@given(st.binary(max_size=300), CODINGS, st.data())
def test_a_body_that_is_cut_off_is_an_error(body, coding, data):
    """Wherever it is cut, in the header, the data or the checksum."""
    lines, whole = encoded(body, [coding])
    cut = data.draw(st.integers(1, len(whole) - 1))

    with pytest.raises(Undecodable, match="cut off"):
        decoded(lines, whole[:cut])


@settings(deadline=None)
@given(st.binary(max_size=300), CODINGS, CODINGS, st.data())
def test_a_body_that_is_cut_off_beneath_a_coding_is_an_error(body, inner, outer, data):
    """Also if the outer one is whole."""
    lines, whole = encoded(body, [inner])
    cut = data.draw(st.integers(1, len(whole) - 1))
    more, data = encoded(whole[:cut], [outer])

    with pytest.raises(Undecodable, match="cut off"):
        decoded([*lines, *more], data)


@settings(deadline=None)
@given(st.binary(max_size=300), CODINGS, st.binary(min_size=1, max_size=40), CUTS)
@example(b"", "gzip", b"\0", [])
@example(b"", "gzip", b"\x1f", [])
@example(b"", "deflate", b"\0", [8])
def test_garbage_after_the_body_is_an_error(body, coding, garbage, cuts):
    """Also zeros, in the same chunk or a later one."""
    lines, data = encoded(body, [coding])

    with pytest.raises(Undecodable):
        decoded(lines, *chunked(data + garbage, cuts))


@pytest.mark.parametrize("bodies", [[b"a", b"b"], [b"", b"a", b""], [b"ab" * PIECE] * 3])
@pytest.mark.parametrize("size", [1, 7, PIECE])
def test_gzip_may_have_several_members(bodies, size):
    """RFC 1952, 2.2; also where a chunk ends between them."""
    data = b"".join(map(gzipped, bodies))
    chunks = [data[start : start + size] for start in range(0, len(data), size)]

    assert decoded([b"gzip"], *chunks) == b"".join(bodies)


@pytest.mark.parametrize(("first", "length"), [(0x88, 28), (0x78, 2)])
def test_a_bare_stream_may_begin_almost_like_a_zlib_stream(first, length):
    """With a stored block whose padding is not zero (RFC 1951, 3.2.4)."""
    body = b"a" * length
    stored = struct.pack("<BHH", first, length, 0xFFFF - length) + body

    assert decoded([b"deflate"], stored + bare(b"")) == body


def test_deflate_has_one_stream():
    """Two of them are a stream and something else."""
    with pytest.raises(Undecodable, match="something else"):
        decoded([b"deflate"], zlib.compress(b"a") * 2)


@settings(deadline=None)
@given(st.lists(st.binary()), st.lists(CODINGS, min_size=1, max_size=3))
def test_garbage_is_never_another_error(chunks, codings):
    """Whatever the bytes: a bare deflate stream has no checksum, so some can be read."""
    with contextlib.suppress(Undecodable):
        decoded([ENCODERS[coding][0] for coding in codings], *chunks)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]), st.data())
def test_a_body_that_was_tampered_with_is_an_error_or_the_same(body, coding, data):
    """The checksums are checked."""
    lines, whole = encoded(body, [coding])
    # The first two bytes of deflate say whether there is a checksum.
    index = data.draw(st.integers(2, len(whole) - 1))
    changed = bytearray(whole)
    changed[index] ^= data.draw(st.integers(1, 255))

    with contextlib.suppress(Undecodable):
        assert decoded(lines, bytes(changed)) == body


@pytest.mark.parametrize("data", [b"plain text", b"\x1f\x8b\x07", b"\x78\xbb\0\0\0\0\0", b"\0\0"])
@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_what_is_not_in_the_coding_is_an_error(coding, data):
    """Plain text, another method of compression, a preset dictionary and zeros are none."""
    with pytest.raises(Undecodable):
        decoded([coding], data)


@pytest.mark.parametrize("codings", [[], ["gzip"], ["deflate", "gzip"]])
def test_a_body_may_have_the_limit_and_no_byte_more(codings):
    """In decoded bytes, over all chunks."""
    body = b"a" * 100_000
    lines, data = encoded(body, codings)
    chunks = chunked(data, [10, 40])

    assert decoded(lines, *chunks, limit=100_000) == body
    with pytest.raises(TooLarge, match="99999"):
        decoded(lines, *chunks, limit=99_999)


def test_a_limit_of_nothing_lets_nothing_pass():
    """But an empty body."""
    assert decoded([b"gzip"], gzipped(b""), limit=0) == b""
    with pytest.raises(TooLarge):
        decoded([b"gzip"], gzipped(b"a"), limit=0)


@pytest.mark.parametrize("codings", [["gzip"], ["deflate, bare"], ["gzip", "gzip"]])
def test_a_bomb_never_fills_the_memory(codings):
    """A caller that stops has had no more than it took."""
    lines, bomb = encoded(b"\0" * 30_000_000, codings)
    tracemalloc.start()
    try:
        decoder = decoder_for(lines, limit=10_000_000)
        with pytest.raises(TooLarge):
            for _ in decoder.feed(bomb):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000


def test_a_coding_that_stands_for_nothing_is_an_error():
    """Empty members by the million, in a few bytes, would keep us busy and pass any limit."""
    lines, data = [b"gzip, gzip"], gzipped(gzipped(b"") * 100_000)
    assert len(data) < 10_000

    with pytest.raises(Undecodable, match="next to nothing"):
        decoded(lines, data, limit=1)


def test_what_the_upstream_sent_itself_is_no_attack():
    """A stream that is kept awake for days by empty blocks costs the upstream most."""
    data = gzipped(b"") * 60_000
    assert len(data) > 1024 * 1024

    assert decoded([b"gzip"], data) == b""


def test_blocks_that_were_flushed_one_by_one_are_no_attack():
    """Many short blocks are longer than what they stand for."""
    stream = zlib.compressobj(wbits=31)
    flushed = b"".join(
        stream.compress(b"event") + stream.flush(zlib.Z_SYNC_FLUSH) for _ in range(5_000)
    )
    data = gzipped(flushed + stream.flush())

    assert decoded([b"gzip, gzip"], data) == b"event" * 5_000
