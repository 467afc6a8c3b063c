"""Responses out of bytes: llhttp, and what it cannot know.

llhttp (httptools) refuses what can be read two ways: a second Content-Length, one beside
Transfer-Encoding, a bare LF. Added here: that a response to HEAD has no body, that a head ends
somewhere, and whether a byte came after the end of the response.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import httptools

from ..core.guard import response_mistake
from ..core.headers import is_chunked, tokens
from ..core.names import Header
from .limits import ConnectionLimits

__all__ = ["Head", "IllegalResponse", "ResponseParser"]

#: Interim responses (1xx) before a response: more are a flood.
_MAX_INTERIM = 32


class Head(NamedTuple):
    """The head of a response, its headers as they came."""

    status: int
    headers: list[Header]
    http_version: str


class IllegalResponse(Exception):
    """The upstream sent what is no response to this request."""


class ResponseParser:
    """Parses the responses on one connection, one after the other.

    Attributes:
        heads: The heads that have come: early hints (103), then the response's.
        chunks: What has come of the body and was not taken.
        buffered: How many bytes that is.
        trailers: The trailers, which come with the end of the body.
        in_body: The response's head has come.
        complete: The response has come.
        rest: What came behind a response that switches protocols.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._parser: httptools.HttpResponseParser | None = None
        self.begin(to_head=False)

    def begin(self, *, to_head: bool, may_switch: bool = False) -> None:
        """Expect the response to the next request.

        Args:
            to_head: The request's method is HEAD.
            may_switch: It asks to switch protocols, so 101 is an answer.
        """
        self._to_head = to_head
        self._may_switch = may_switch
        self.rest = b""
        self._headers: list[Header] = []
        # Bytes of this response that were no body, since the last that were.
        self._lines = 0
        self._interim = 0
        self._keep_alive = False
        self._surplus = False
        self.heads: deque[Head] = deque()
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.trailers: list[Header] = []
        self.in_body = False
        self.complete = False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)

    @property
    def reusable(self) -> bool:
        """Whether another response may follow on the connection."""
        return self.complete and self._keep_alive and not self._surplus

    def feed(self, data: memoryview | bytes) -> None:
        """Parse what has arrived.

        Raises:
            IllegalResponse: It is no response to this request.
        """
        parser = self._parser
        if parser is None:
            self._surplus = True
            return
        taken = len(self.chunks)
        self._lines += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.complete and isinstance(error, httptools.HttpParserUpgrade):
                self.rest = bytes(data[error.args[0] :])
            elif not self.complete:
                reason = error.__context__ or error
                raise IllegalResponse(str(reason)) from error
            self._surplus = True
        if len(self.chunks) > taken:
            self._lines = 0
        elif not self.complete and self._lines > self._limits.max_header_bytes:
            raise IllegalResponse("its head or its trailers are too long")

    def feed_eof(self) -> None:
        """Take note of the end of the connection, which is the end of some responses."""
        self._keep_alive = False
        if self.in_body and not self.complete:
            headers = self._headers
            lengths = any(name.lower() == b"content-length" for name, _ in headers)
            self.complete = not lengths and not is_chunked(headers)

    def take(self) -> bytes:
        """Return what is here of the body."""
        chunks = self.chunks
        chunk = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        return chunk

    def close(self) -> None:
        """Let go of llhttp, which holds methods of this object: a cycle."""
        self._parser = None

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self.complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves the blanks that may follow a value (RFC 9110, 5.5).
        if not self.in_body:
            self._headers.append((name, value.rstrip(b" \t")))
        elif not self.complete:
            self.trailers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self.complete or parser is None:
            return
        status = parser.get_status_code()
        head = Head(status, self._headers, parser.get_http_version())
        self._check_size()
        if 100 <= status < 200:
            self._on_interim(head)
            return
        if (mistake := response_mistake(*head)) is not None:
            raise IllegalResponse(mistake)
        self.heads.append(head)
        self.in_body = True
        self._keep_alive = parser.should_keep_alive()
        if self._to_head:
            self._end_without_body(head)

    def _end_without_body(self, head: Head) -> None:
        """End the response to HEAD. Its parser waits for a body, so the next needs another."""
        kept = b"close" not in tokens(head.headers, b"connection")
        self._keep_alive = kept and head.http_version == "1.1"
        self.complete = True
        self._parser = None

    def _check_size(self) -> None:
        limits, headers = self._limits, self._headers
        if len(headers) > limits.max_headers:
            raise IllegalResponse("it has too many headers")
        if self._lines > limits.max_header_bytes:
            size = sum(len(name) + len(value) for name, value in headers)
            if size > limits.max_header_bytes:
                raise IllegalResponse("its head is too long")

    def _on_interim(self, head: Head) -> None:
        self._interim += 1
        if head.status == 101 and self._may_switch and head.http_version == "1.1":
            self.heads.append(head)
            self.complete = True
            return
        if head.status == 101:
            raise IllegalResponse("it switches to a protocol that nobody asked for")
        if self._interim > _MAX_INTERIM:
            raise IllegalResponse("it sends too many interim responses")
        self._headers = []
        if head.status == 103:
            self.heads.append(head)

    def on_body(self, body: bytes) -> None:
        if self.in_body and not self.complete:
            self.chunks.append(body)
            self.buffered += len(body)
        else:
            self._surplus = True

    def on_chunk_header(self) -> None:
        if self.complete:
            self._surplus = True

    def on_message_complete(self) -> None:
        if self.in_body:
            if len(self.trailers) > self._limits.max_headers:
                raise IllegalResponse("it has too many trailers")
            self.complete = True
