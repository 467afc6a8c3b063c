"""The request's body as it is sent: the client's as it arrives, or the one an override gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .core.changes import Changes
from .core.headers import Edits, Header, content_length, edit, is_chunked
from .exceptions import RequestRefused

__all__ = ["RequestBody", "given_body"]

_DESCRIBES_BODY = frozenset({b"content-length", b"transfer-encoding", b"content-encoding"})


def given_body(changes: Changes) -> bytes | None:
    """Return the body that an override gives; ``None`` leaves the client's."""
    if changes.body is None and changes.method in ("GET", "HEAD"):
        return b""
    return changes.body


class RequestBody:
    """The body that is sent, with the headers that frame it.

    Args:
        headers: The request's headers, with the framing that the client gave its body.
        changes: The override, which may give another body.
        arriving: The client's body, if it is sent.
        idle: Seconds until the client has to send the next chunk.
    """

    def __init__(
        self,
        headers: list[Header],
        changes: Changes,
        arriving: AsyncIterator[bytes] | None,
        idle: float | None,
    ) -> None:
        self.arrives = arriving is not None
        self.headers = headers
        self._given = given_body(changes)
        self._arriving = arriving
        self._idle = idle
        if self._given is not None:
            size = () if changes.body is None else ((b"content-length", b"%d" % len(self._given)),)
            kept = {name for name, _ in (*changes.request.set, *changes.request.add)}
            self.headers = edit(headers, Edits(set=size, remove=_DESCRIBES_BODY - kept))
        elif self.arrives and content_length(headers) is None and not is_chunked(headers):
            self.headers = [*headers, (b"transfer-encoding", b"chunked")]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body, of exactly the length that the headers declare.

        Raises:
            RequestRefused: The client sends another length, or nothing for too long.
        """
        if self._given:
            yield self._given
        if self._arriving is None:
            return
        length, sent = content_length(self.headers), 0
        while (chunk := await self._next(self._arriving)) is not None:
            sent += len(chunk)
            if length is not None and sent > length:
                break
            yield chunk
        if length is not None and sent != length:
            raise RequestRefused("The body does not have its declared length", close=True)

    async def _next(self, arriving: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(self._idle):
                return await anext(arriving, None)
        except TimeoutError:
            raise RequestRefused("The body took too long", status=408, close=True) from None
