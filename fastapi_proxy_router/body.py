"""The request's body as it is sent, with the headers that frame it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from .client import ClientStream
from .core.changes import Changes
from .core.headers import Edits, content_length, edit, is_chunked
from .core.names import Header
from .exceptions import RequestRefused

__all__ = ["Framed", "framed"]

_DESCRIBES_BODY = frozenset({b"content-length", b"transfer-encoding", b"content-encoding"})


class Framed(NamedTuple):
    """A body, the headers that frame it, and whether these say ``chunked``."""

    headers: list[Header]
    body: bytes | AsyncGenerator[bytes, None]
    chunked: bool = False


async def framed(
    headers: list[Header], changes: Changes, client: ClientStream, idle: float | None
) -> Framed:
    """Return the body that an override gives, or the client's in the framing that it has.

    Args:
        headers: The request's headers, with the framing that the client gave its body.
        changes: The override, which may give another body. GET and HEAD drop the client's.
        client: The client.
        idle: Seconds until the client has to send the next chunk.

    Raises:
        RequestRefused: The client does not send its body, or another than it declared.
    """
    if changes.own_body is not None:
        return _given(headers, changes)
    body = await client.body(idle)
    if not client.announced:
        if not body:
            return Framed(headers, b"")
        if isinstance(body, bytes):
            return Framed([*headers, (b"content-length", b"%d" % len(body))], body)
        return Framed([*headers, (b"transfer-encoding", b"chunked")], body, chunked=True)
    chunked = is_chunked(headers)
    if isinstance(body, bytes) and not chunked and len(body) != content_length(headers):
        raise RequestRefused("The body does not have its declared length")
    return Framed(headers, body, chunked)


def _given(headers: list[Header], changes: Changes) -> Framed:
    length: tuple[Header, ...] = ()
    if changes.body is not None:
        length = ((b"content-length", b"%d" % len(changes.body)),)
    kept = {name for name, _ in (*changes.request.set, *changes.request.add)}
    edits = Edits(set=length, remove=_DESCRIBES_BODY - kept)
    return Framed(edit(headers, edits), changes.body or b"")
