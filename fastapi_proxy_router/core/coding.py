"""Decoding the body of a response, piece by piece, for a hook that reads it.

* ``gzip`` (``x-gzip``) may have several members, one after the other (RFC 1952, 2.2). ``deflate``
  is a zlib stream (RFC 9110, 8.4.1.2); as many servers send a bare deflate stream, both are read.
* The codings of all lines of ``Content-Encoding`` are undone from the last to the first.
* Nothing is decoded before it is asked for, and never more than 64 KiB at once: a thousand bytes
  can stand for a million, and for a thousand times that where codings are stacked.
* The checksums are checked; a stream that is cut off or followed by anything is an error. A body
  without a byte is empty, whatever its coding: servers label those as they label the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

__all__ = ["PIECE", "Decoder", "TooLarge", "Undecodable", "decoder_for"]

#: The most bytes in one decoded piece.
PIECE = 64 * 1024
#: The most codings of one body; curl and urllib3 stop here too.
MOST_CODINGS = 5
#: What zlib leaves of its input is copied with each piece and each member, so it gets little.
_SLICE = 16 * 1024
#: A coding adds a few bytes to a block. Where codings are stacked, one that takes in this much more
#: than twice what it gives out was made to keep us busy: no limit on the result would stop it.
_BARREN = 1024 * 1024

_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_KNOWN = frozenset({b"gzip", b"x-gzip", b"deflate"})


class Undecodable(ValueError):
    """The body is not what its ``Content-Encoding`` says, or that is nothing we decode."""


class TooLarge(Exception):
    """The decoded body is longer than the limit."""


class Decoder:
    """The decoder of one body.

    Attributes:
        codings: What it undoes, in the order of the header; empty if the body is as it is.
    """

    def __init__(self, codings: Sequence[bytes], *, limit: int | None = None) -> None:
        self.codings = tuple(codings)
        self._limit = limit
        self._given = 0
        self._stages = [_Stage(name) for name in reversed(self.codings)]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what *data* decodes to, in pieces of 1 to 65,536 bytes.

        Work is done as pieces are taken: take all, or give the decoder up.

        Raises:
            TooLarge: The limit is passed; all pieces before were within it.
            Undecodable: It cannot be decoded.
        """
        for piece in self._through(data, 0):
            self._given += len(piece)
            if self._limit is not None and self._given > self._limit:
                raise TooLarge(f"the decoded body has more than {self._limit} bytes")
            yield piece

    def _through(self, data: bytes, index: int) -> Iterator[bytes]:
        if index == len(self._stages):
            yield from (data[start : start + PIECE] for start in range(0, len(data), PIECE))
            return
        stage = self._stages[index]
        for piece in stage.feed(data):
            yield from self._through(piece, index + 1)
        # What the lowest takes in came over the network, so it costs whoever sends it.
        if index and stage.taken > 2 * stage.given + _BARREN:
            raise Undecodable(f"the {stage.name} coding stands for next to nothing")

    def finish(self) -> None:
        """Say that there is no more; everything has been yielded by then.

        Raises:
            Undecodable: The body is cut off.
        """
        for stage in self._stages:
            if stage.is_cut_off:
                raise Undecodable(f"the {stage.name} coding is cut off")


def decoder_for(lines: Sequence[bytes], *, limit: int | None = None) -> Decoder:
    """Return a decoder for a body with these lines of ``Content-Encoding``, in order.

    Args:
        lines: The values of the header; each may list several codings. ``identity`` is none.
        limit: The most bytes it may decode to. Default: any number.

    Raises:
        Undecodable: One is not known, or there are more than five.
    """
    listed = [coding.strip(b" \t").lower() for coding in b",".join(lines).split(b",")]
    codings = [coding for coding in listed if coding not in (b"", b"identity")]
    unknown = [coding for coding in codings if coding not in _KNOWN]
    if unknown:
        raise Undecodable(f"the coding {unknown[0].decode('latin-1')!r} is not known")
    if len(codings) > MOST_CODINGS:
        raise Undecodable(f"the body has more than {MOST_CODINGS} codings")
    return Decoder(codings, limit=limit)


class _Stage:
    """Undoes one coding."""

    def __init__(self, coding: bytes) -> None:
        self.name = coding.decode()
        self.taken = self.given = 0
        self._is_gzip = coding != b"deflate"
        self._stream = zlib.decompressobj(_GZIP)
        self._is_open = False
        self._has_ended = False
        self._head = b""

    @property
    def is_cut_off(self) -> bool:
        return self._is_open or bool(self._head)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.taken += len(data)
        data, self._head = self._head + data, b""
        for start in range(0, len(data), _SLICE):
            yield from self._decode(data[start : start + _SLICE])

    def _decode(self, data: bytes) -> Iterator[bytes]:
        is_full = False
        while data or is_full:
            if not self._is_open and not self._opens(data):
                return
            try:
                piece = self._stream.decompress(data, PIECE)
            except zlib.error as error:
                raise Undecodable(f"the {self.name} coding is broken: {error}") from None
            self._is_open = not self._stream.eof
            self._has_ended = self._stream.eof
            data = self._stream.unconsumed_tail if self._is_open else self._stream.unused_data
            # zlib may hold back what did not fit, also when it has taken all of its input.
            is_full = self._is_open and len(piece) == PIECE
            self.given += len(piece)
            yield piece

    def _opens(self, data: bytes) -> bool:
        """Begin a stream with *data*, or keep it if it is too short to tell which."""
        if self._is_gzip:
            self._stream = zlib.decompressobj(_GZIP)
        elif self._has_ended:
            raise Undecodable("the deflate coding is followed by something else")
        elif len(data) < 2:
            self._head = data
            return False
        else:
            self._stream = zlib.decompressobj(_ZLIB if _is_zlib(data) else _BARE)
        self._is_open = True
        return True


def _is_zlib(data: bytes) -> bool:
    """Tell whether *data* begins a zlib stream (RFC 1950, 2.2).

    A bare stream could begin so only with a stored block whose padding is not zero.
    """
    return data[0] & 0x8F == 0x08 and int.from_bytes(data[:2]) % 31 == 0
