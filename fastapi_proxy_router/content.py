"""The body of an upstream's response, for those who read or change it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from .core.changes import Transform
from .core.coding import Decoder, TooLarge, Undecodable, decoder_for
from .core.headers import content_length, end_to_end, field_values
from .core.names import Header
from .core.upstream import Upstream
from .exceptions import BadGateway, Fault
from .timing import PATIENCE
from .transforming import Transformed
from .transport import UpstreamResponse, crossing

__all__ = ["Content"]


class Content:
    """A body that is still to come, or that was read, or put in the place of another.

    Args:
        upstream: Whose it is.
        response: The response that it comes with; ``None`` if none is to come.
        headers: The response's headers, as they came.
        body: What there is without a response.

    Attributes:
        raw: All of it as it came, or what has taken its place; ``None`` while it is to come.
        trailers: What came behind it.
        has_ended: It has come to its end.
        was_held_up: Whoever took the chunks was slow, for which an upstream may give up.
    """

    def __init__(
        self,
        upstream: Upstream,
        response: UpstreamResponse | None,
        headers: Sequence[Header],
        body: bytes = b"",
    ) -> None:
        self.raw = body if response is None else None
        self.trailers: list[Header] = []
        self.has_ended = response is None
        self.was_held_up = False
        self._plain = self.raw
        self._upstream = upstream
        self._response = response
        self._codings = field_values(headers, b"content-encoding")
        self._length = content_length(headers) or 0

    def check(self) -> None:
        """Check that its coding can be undone, before a byte of it has come.

        Raises:
            BadGateway: It cannot.
        """
        if self._plain is None:
            self._decoder(None)

    async def read(self, limit: int) -> bytes:
        """Return what it stands for, its coding undone, and keep it, also as it came.

        Args:
            limit: The most bytes it may have, before and after that.

        Raises:
            GatewayError: It has more, or breaks off, or its coding cannot be undone.
        """
        if self._plain is None:
            self.raw, self._plain = await self._read(limit)
        if len(self._plain) > limit:
            raise self._too_large(limit)
        return self._plain

    async def pass_through(self, transforms: Sequence[Transform], limit: int) -> None:
        """Put what *transforms* make of it in its place.

        Args:
            transforms: The functions, in order.
            limit: The most bytes that they may make of it.

        Raises:
            GatewayError: They make more, or it breaks off, or its coding cannot be undone.
            TransformFailed: One of them has failed.
        """
        made = bytearray()
        async with aclosing(self.through(transforms)) as chunks:
            async for chunk in chunks:
                made += chunk
                if len(made) > limit:
                    raise self._too_large(limit)
        self.raw = self._plain = bytes(made)
        self.trailers = []

    def through(self, transforms: Sequence[Transform]) -> Transformed:
        """Return what *transforms* make of it; it is not kept."""
        return Transformed(self.decoded(), transforms)

    async def _read(self, limit: int) -> tuple[bytes, bytes]:
        if self._length > limit:
            raise self._too_large(limit)
        decoder, raw, plain = self._decoder(limit), bytearray(), bytearray()
        async with aclosing(self._arriving()) as chunks:
            async for chunk in chunks:
                raw += chunk
                if len(raw) > limit:
                    raise self._too_large(limit)
                with self._translated():
                    for piece in decoder.feed(chunk) if decoder.codings else ():
                        plain += piece
        with self._translated():
            decoder.finish()
        whole = bytes(raw)
        return whole, bytes(plain) if decoder.codings else whole

    async def decoded(self) -> AsyncGenerator[bytes, None]:
        """Yield it as it comes, its coding undone.

        Raises:
            GatewayError: It breaks off, or its coding cannot be undone.
        """
        if self._plain is not None:
            if self._plain:
                yield self._plain
            return
        decoder = self._decoder(None)
        async with aclosing(self._arriving()) as chunks:
            async for chunk in chunks:
                with self._translated():
                    for piece in decoder.feed(chunk):
                        yield piece
        with self._translated():
            decoder.finish()

    async def _arriving(self) -> AsyncGenerator[bytes, None]:
        response, clock = self._response, asyncio.get_running_loop().time
        assert response is not None
        while True:
            with crossing(self._upstream, "body"):
                chunk = await response.next_chunk()
            if not chunk:
                break
            began = clock()
            yield chunk
            self.was_held_up |= clock() - began > PATIENCE
        self.trailers = end_to_end(response.trailers)
        self.has_ended = True

    def _decoder(self, limit: int | None) -> Decoder:
        try:
            return decoder_for(self._codings, limit=limit)
        except Undecodable as error:
            # It may be what the client has asked for.
            raise self._failure(str(error), "us") from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Undecodable as error:
            raise self._failure(str(error), "upstream") from None
        except TooLarge as error:
            raise self._failure(str(error), "us") from None

    def _too_large(self, limit: int) -> BadGateway:
        return self._failure(f"its body has more than {limit} bytes", "us")

    def _failure(self, reason: str, fault: Fault) -> BadGateway:
        return BadGateway(reason, upstream=self._upstream, stage="body", fault=fault)
