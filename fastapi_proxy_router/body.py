"""The request's body as it is sent, with the headers that frame it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from .client import ClientStream
from .core.bodies import DIGESTS
from .core.changes import Changes
from .core.headers import Edits, content_length, edit, is_chunked
from .core.names import Header
from .exceptions import RequestRefused
from .transforming import Transformed

__all__ = ["Framed", "framed"]

_FRAMES = frozenset({b"content-length", b"transfer-encoding"})
_CHUNKED = (b"transfer-encoding", b"chunked")


class Framed(NamedTuple):
    """A body, the headers that frame it, and whether these say ``chunked``."""

    headers: list[Header]
    body: bytes | AsyncGenerator[bytes, None] | Transformed
    chunked: bool = False


async def framed(
    headers: list[Header], changes: Changes, client: ClientStream, idle: float | None
) -> Framed:
    """Return the body that an override gives, or the client's in the framing that it has.

    Args:
        headers: The request's headers, with the framing that the client gave its body.
        changes: The override, which may give another body. GET and HEAD drop the client's. Its
            transforms see whatever is sent, unless there is no body.
        client: The client.
        idle: Seconds until the client has to send the next chunk, or a transform to yield one.

    Raises:
        RequestRefused: The client does not send its body, or another than it declared, or too much.
    """
    if changes.own_body is not None:
        given = _given(headers, changes)
        if changes.transforms and changes.body is not None:
            return _transformed(given.headers, changes, _one(changes.body), idle)
        return given
    body = await client.body(idle, changes.body_limit)
    chunked = is_chunked(headers)
    if isinstance(body, bytes) and client.announced and not chunked:
        _check_length(body, headers)
    if changes.transforms and (body or client.announced):
        chunks = _one(body) if isinstance(body, bytes) else body
        return _transformed(headers, changes, chunks, idle)
    if client.announced or not body:
        return Framed(headers, body, chunked)
    if isinstance(body, bytes):
        return Framed([*headers, (b"content-length", b"%d" % len(body))], body)
    return Framed([*headers, _CHUNKED], body, chunked=True)


def _check_length(body: bytes, headers: list[Header]) -> None:
    if len(body) != content_length(headers):
        raise RequestRefused("The body does not have its declared length")


def _given(headers: list[Header], changes: Changes) -> Framed:
    length: tuple[Header, ...] = ()
    if changes.body is not None:
        length = ((b"content-length", b"%d" % len(changes.body)),)
    gone = (DIGESTS | {b"content-encoding"}) - _set_by(changes)
    return Framed(edit(headers, Edits(set=length, remove=gone | _FRAMES)), changes.body or b"")


def _transformed(
    headers: list[Header],
    changes: Changes,
    chunks: AsyncGenerator[bytes, None],
    idle: float | None,
) -> Framed:
    """Return the body behind the override's transforms, of a length that nobody knows yet."""
    edits = Edits(set=(_CHUNKED,), remove=(DIGESTS - _set_by(changes)) | _FRAMES)
    body = Transformed(chunks, changes.transforms, idle)
    return Framed(edit(headers, edits), body, chunked=True)


def _set_by(changes: Changes) -> frozenset[bytes]:
    """Return the names of the headers that the override says itself."""
    return frozenset(name for edits in changes.request for name, _ in (*edits.set, *edits.add))


async def _one(body: bytes) -> AsyncGenerator[bytes, None]:
    if body:
        yield body
