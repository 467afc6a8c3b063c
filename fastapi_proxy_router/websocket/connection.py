"""One WebSocket to an upstream: asyncio around the Sans-I/O protocol of websockets."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

from ..core.messages import Message
from ..transport import IllegalResponse, current_cork, read_buffer
from .answer import SWITCHING, Answer
from .ending import GARBLED, UpstreamEnded, why_ended
from .frames import build, whole, wire_size
from .inbox import OVERHEAD, BytesLike, Inbox
from .keepalive import Keepalive
from .outbox import Outbox

__all__ = ["CLOSE_TIMEOUT", "HandshakeFailed", "UpstreamWebSocket"]

#: Seconds an upstream has to answer our close frame before its connection is dropped.
CLOSE_TIMEOUT: Final = 5.0
#: Bytes of messages that are kept before the upstream is no longer read.
_HIGH_WATER: Final = 64 * 1024
#: What is parsed at once, while nobody else works: much of it only if the last frames were large,
#: and little of what is compressed, which may grow a thousandfold.
_READ_SIZE: Final = 32 * 1024
_SMALL_READ_SIZE: Final = 4 * 1024
_LARGE_FRAME: Final = 256


class HandshakeFailed(Exception):
    """The upstream gave no answer, or one that is none."""


class UpstreamWebSocket(asyncio.BufferedProtocol):
    """One WebSocket to an upstream, from the handshake to the end.

    Messages are whole: fragments are put together, up to the protocol's limit, and pings are
    answered. What is not taken is not read beyond 64 KiB.

    Args:
        protocol: What speaks WebSocket, in its state OPEN; it judges the upstream's 101, and
            enforces the limit for messages.
        max_size: That limit.
        ping_interval: Seconds between two pings; ``None`` sends none.
        ping_timeout: Seconds after a ping until a silent upstream is given up.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        *,
        max_size: int | None,
        ping_interval: float | None,
        ping_timeout: float | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._max_size = math.inf if max_size is None else max_size
        self._outbox = Outbox()
        self._keepalive = Keepalive(ping_interval, ping_timeout, self._outbox)
        self._answer = Answer()
        self._failure: Exception | None = None
        self._is_open = False
        self._is_over = False
        self._is_garbled = False
        self._memory = read_buffer()
        self._read_size = _SMALL_READ_SIZE
        self._is_paused = False
        self._inbox = Inbox()
        self._arrival: asyncio.Future[None] | None = None
        self._cork = current_cork()
        self._corked = 0
        self._frames: list[bytes] = []
        self._owed = 0
        self._is_plain = False
        self._deadline: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()

    # The handshake.

    async def handshake(self, request: bytes) -> Answer:
        """Send *request* and return the upstream's answer; the WebSocket is open if it is a 101.

        Raises:
            HandshakeFailed: There is none.
        """
        self._outbox.write(request)
        while not (self._answer.complete or self._failure or self._is_over):
            await self._something()
        if self._failure is not None:
            raise HandshakeFailed(str(self._failure))
        if not self._answer.complete:
            raise HandshakeFailed("it closed the connection in the handshake")
        return self._answer

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the upstream has chosen."""
        return self._protocol.subprotocol

    def _hear(self, data: bytes) -> bytes:
        """Take what is of the handshake and return what is not."""
        answer = self._answer
        try:
            answer.feed(data)
            if answer.complete and answer.status == SWITCHING:
                self._protocol.process_response(answer.parsed())
                self._is_open = True
                self._is_plain = not self._protocol.extensions
                self._keepalive.start(self)
        except (IllegalResponse, InvalidHandshake, ValueError) as error:
            # The last is zlib's, for a window that websockets before 16 lets pass.
            self._failure = error.with_traceback(None)
        self._wake()
        return answer.rest if self._is_open else b""

    # Messages.

    async def receive(self) -> Message:
        """Return the next message: text as ``str``, binary as ``bytes``.

        Raises:
            UpstreamEnded: There are no more.
        """
        messages = self._inbox.messages
        while not messages:
            if self._is_over:
                raise self._why()
            await self._something()
        message = self._inbox.take()
        if not messages:
            self._resume_reading()
        return message

    async def send(self, payload: bytes, *, text: bool) -> None:
        """Send one message, at the pace of the upstream.

        Args:
            payload: Its bytes; text is UTF-8.
            text: It is text.

        Raises:
            UpstreamEnded: The upstream's side is over.
        """
        protocol = self._protocol
        if protocol.state is not State.OPEN:
            raise self._why()
        if not protocol.extensions:
            self._frames.append(build(payload, text=text))
        elif text:
            protocol.send_text(payload)
        else:
            protocol.send_binary(payload)
        if not self._corked:
            self._cork.hold(self._flush)
        self._corked += len(payload) + OVERHEAD
        if self._corked > _HIGH_WATER:
            self._flush()
        if self._outbox.is_full:
            await self._outbox.drain()

    # The end.

    def close(self, code: int | None, reason: str = "") -> None:
        """Send a close frame, without a code for ``None``; the upstream has 5 s to answer it."""
        with suppress(InvalidState):
            self._protocol.send_close(code, reason)
            self._flush()
        self._finish()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone, after ``close`` at most 5 s."""
        await self._lost.wait()

    def abort(self) -> None:
        """Drop the connection."""
        if (transport := self._outbox.transport) is not None:
            transport.abort()

    def _why(self) -> UpstreamEnded:
        return why_ended(self._protocol, is_garbled=self._is_garbled)

    def _finish(self) -> None:
        """Take no more messages; what the upstream sends until it closes is thrown away."""
        if not self._is_over:
            self._is_over = True
            self._is_plain = False
            self._keepalive.stop()
            self._resume_reading()
            self._wake()
            if self._outbox.transport is not None:
                self._deadline = self._loop.call_later(CLOSE_TIMEOUT, self.abort)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._outbox.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory[: self._read_size]

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._memory[:nbytes])
        self._keepalive.heard = True
        if self._is_plain and (message := whole(data)) is not None and nbytes <= self._max_size:
            # A message and nothing else, as it mostly is.
            self._read_size = _READ_SIZE if nbytes >= _LARGE_FRAME else _SMALL_READ_SIZE
            self._put(*message)
            self._wake()
        elif rest := data if self._is_open else self._hear(data):
            self._parse(rest)
        if self._inbox.size > _HIGH_WATER:
            self._stem()

    def _parse(self, data: bytes) -> None:
        """Let the protocol read what has arrived."""
        protocol, is_over = self._protocol, self._is_over
        if self._corked:
            self._flush()
        protocol.receive_data(data)
        frames = [event for event in protocol.events_received() if isinstance(event, Frame)]
        # What it has not made into frames yet; a length that is not put shortly counts as well.
        self._owed += len(data) - sum([wire_size(len(frame.data)) for frame in frames])
        is_large = len(frames) * _LARGE_FRAME <= len(data) and not protocol.extensions
        self._read_size = _READ_SIZE if is_large else _SMALL_READ_SIZE
        for frame in frames:
            if not (is_over or self._is_garbled):
                self._put(frame.opcode, frame.data, fin=frame.fin)
        self._react()
        is_partial = self._owed > 0 or self._inbox.is_partial
        # Judged last: one of these frames may have been the end.
        self._is_plain = not (self._is_over or is_partial or protocol.extensions)

    def _put(self, opcode: Opcode, data: BytesLike, *, fin: bool = True) -> None:
        """Take what may be of a message."""
        try:
            self._inbox.put(opcode, data, fin=fin)
        except UnicodeDecodeError:
            self._is_garbled = True
            self._protocol.fail(CloseCode.INVALID_DATA, GARBLED)
            self._react()

    def _stem(self) -> None:
        """Read no more while enough messages wait."""
        if not (self._is_paused or self._is_over):
            assert self._outbox.transport is not None
            self._is_paused = True
            self._outbox.transport.pause_reading()

    def _react(self) -> None:
        """Send what the protocol has to say to what has arrived, and see whether it is over."""
        if self._protocol.state is State.OPEN or self._is_over:
            if pongs := self._protocol.data_to_send():
                self._outbox.write_pongs(pongs)
        else:
            self._flush()
            self._finish()
        self._wake()

    def eof_received(self) -> None:
        if not (self._is_open or self._failure or self._answer.complete):
            try:
                self._answer.feed_eof()
            except IllegalResponse as error:
                self._failure = error.with_traceback(None)
        self._protocol.receive_eof()
        self._flush()
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not (self._is_open or self._answer.complete):
            # Not the end of a refusal that ends with its connection (RFC 9112, 8).
            self._failure = self._failure or exc.with_traceback(None)
        try:
            self.eof_received()
        finally:
            self._finish()
            self._outbox.transport = None
            if self._deadline is not None:
                self._deadline.cancel()
            self.resume_writing()
            self._lost.set()
            self._let_go()

    def _let_go(self) -> None:
        """Break the protocol's cycles, which would keep it until the garbage collector comes."""
        self._protocol.parser.close()
        if self._protocol.parser_exc is not None:
            self._protocol.parser_exc.__traceback__ = None

    def pause_writing(self) -> None:
        self._outbox.pause()

    def resume_writing(self) -> None:
        self._outbox.resume()

    def _resume_reading(self) -> None:
        if self._is_paused and (transport := self._outbox.transport) is not None:
            transport.resume_reading()
        self._is_paused = False

    def _flush(self) -> None:
        """Send messages and what the protocol has to say; nothing at the end of it is the end."""
        self._corked = 0
        data, self._frames = self._frames, []
        data += self._protocol.data_to_send()
        if data:
            self._outbox.write(data[0] if len(data) == 1 else b"".join(data))
            if not data[-1] and (transport := self._outbox.transport) is not None:
                transport.close()

    async def _something(self) -> None:
        """Wait until something has changed."""
        self._arrival = self._loop.create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    # What the keepalive asks for.

    @property
    def is_listening(self) -> bool:
        return not self._is_paused

    def ping(self) -> None:
        self._protocol.send_ping(b"")
        self._flush()

    def give_up(self) -> None:
        self._protocol.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        self._react()
