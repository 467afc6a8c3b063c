"""The upstream's answer to a handshake, read as any other response is."""

from __future__ import annotations

from websockets.datastructures import Headers
from websockets.http11 import Response

from ..core.guard import is_bodyless, is_refusal
from ..core.headers import content_length
from ..core.names import Header
from ..transport import DEFAULT_LIMITS, IllegalResponse, ResponseParser

__all__ = ["SWITCHING", "Answer"]

SWITCHING = 101
#: The largest body of a refusal; it is passed on whole.
_MAX_BODY = 1024 * 1024


class Answer:
    """The upstream's answer to a handshake, as it arrives.

    Attributes:
        status: Its status, 0 until it is known.
        headers: Its headers as they came.
        body: The body of a refusal.
        rest: What came behind a 101.
    """

    def __init__(self) -> None:
        self._parser = ResponseParser(DEFAULT_LIMITS)
        self._parser.begin(to_head=False, may_switch=True)
        self.status = 0
        self.headers: list[Header] = []
        self.body = bytearray()
        self.rest = b""

    @property
    def complete(self) -> bool:
        """Whether all of it is here."""
        return self._parser.complete

    def feed(self, data: bytes) -> None:
        """Read what has arrived.

        Raises:
            IllegalResponse: It is no answer, or too long a refusal.
        """
        self._parser.feed(data)
        self._take()

    def feed_eof(self) -> None:
        """Take note of the end of the connection, which is the end of some refusals.

        Raises:
            IllegalResponse: It is not the end of this one.
        """
        self._parser.feed_eof()
        self._take()
        if not self.complete:
            raise IllegalResponse("it closed the connection in the handshake")

    def _take(self) -> None:
        parser = self._parser
        while parser.heads:
            # Early hints come before; nobody could be given them.
            self.status, self.headers, _ = parser.heads.popleft()
        self.body += parser.take()
        self.rest = parser.rest
        if max(len(self.body), self._announced()) > _MAX_BODY:
            raise IllegalResponse("its refusal is too long")
        if self.complete:
            parser.close()

    def _announced(self) -> int:
        if not is_refusal(self.status) or is_bodyless("GET", self.status):
            return 0
        return content_length(self.headers) or 0

    def parsed(self) -> Response:
        """Return the same for websockets to judge."""
        headers = [(name.decode(), value.decode("latin-1")) for name, value in self.headers]
        return Response(self.status, "", Headers(headers))
