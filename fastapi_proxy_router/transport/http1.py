"""One HTTP/1.1 connection to an upstream, which carries one exchange at a time.

A connection is used again only when it is provably clean: the response is complete and nothing
follows it, the request is sent to its last byte, and both sides want to keep the connection. A byte
that arrives between two exchanges ends it, so nobody is given what was meant for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx

from ..core.names import Header
from .cork import Cork
from .limits import ConnectionLimits, failure
from .parser import Head, IllegalResponse, ResponseParser
from .reading import arrivals, is_tls_ended, read_buffer, read_rest

__all__ = ["HTTP1Connection"]

#: Bytes of a body that are kept before the upstream is no longer read.
_HIGH_WATER = 64 * 1024


class HTTP1Connection(asyncio.BufferedProtocol):
    """One connection.

    Args:
        loop: The event loop it lives in.
        limits: The limits for the heads of responses.
        closed: Is called when the connection is lost.
        cork: Holds requests back that begin in the same round of the event loop.

    Attributes:
        born: When it was opened, on the loop's clock.
        idle_since: When its last exchange ended.
        exchanges: How many it has carried.
        started: Something of the current request was sent.
        received: Something of the current response has arrived.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        closed: Callable[[HTTP1Connection], None],
        cork: Cork,
    ) -> None:
        self._loop = loop
        self._closed = closed
        self._cork = cork
        self._corked = b""
        self._view = read_buffer()
        self._response = ResponseParser(limits)
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        self._has_arrivals: Callable[[], bool] = bool
        self._busy = False
        self._sent = False
        self._last = False
        self._paused = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._unwritable: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.born = self.idle_since = loop.time()
        self.exchanges = 0
        self.started = self.received = False

    # The exchange, in this order.

    def begin(self, method: str, data: bytes, *, more: bool, last: bool = False) -> None:
        """Send the head of a request; all that begin in one round of the event loop, together.

        Args:
            method: Its method: a response to HEAD has no body.
            data: The head, perhaps with the body.
            more: A body is still to come, from ``send_body``.
            last: The head says that no other request follows.

        Raises:
            httpx.TransportError: The connection is not good, and nothing was sent; if *more*.
        """
        self._response.begin(to_head=method == "HEAD")
        self._busy = True
        self._sent = not more
        self._last = last
        self.started = self.received = False
        self.exchanges += 1
        self._corked = data
        if not more:
            self._cork.hold(self.uncork)
            return
        self.uncork()
        if self._error is not None:
            raise self._error

    def uncork(self) -> None:
        """Send what ``begin`` was given, unless the upstream has said something unasked."""
        data, self._corked = self._corked, b""
        transport = self._transport
        if data and self._error is None and transport is not None:
            if transport.is_closing() or (self.exchanges > 1 and self._has_arrivals()):
                self._is_no_good()
            else:
                self.started = True
                transport.write(data)

    def _is_no_good(self) -> None:
        reason = "it closed the connection, or sent something on it, before it was asked"
        self.fail(failure(httpx.RemoteProtocolError, reason, request_sent=False))

    async def send_body(
        self, chunks: AsyncIterator[bytes], *, chunked: bool, idle: float | None
    ) -> None:
        """Send the body as it comes, at the pace of the upstream.

        Args:
            chunks: The body.
            chunked: Frame it in chunks; else it has the length that the head declares.
            idle: Seconds until the upstream has to take a chunk.

        Raises:
            httpx.WriteTimeout: It did not.
            httpx.TransportError: The connection is lost.
        """
        async for chunk in chunks:
            if chunk:
                self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                await self._drain(idle)
        if chunked:
            self._write(b"0\r\n\r\n")
        self._sent = True

    def _write(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        assert self._transport is not None
        # Not writelines: on some versions of Python 3.12 and 3.13 it never asks us to pause.
        self._transport.write(data)

    async def _drain(self, idle: float | None) -> None:
        if self._transport is not None and self._transport.is_closing():
            # Who never waits would never learn of the loss.
            await asyncio.sleep(0)
        while self._unwritable is not None:
            left = self._unsent()
            done, _ = await asyncio.wait([self._unwritable], timeout=idle)
            if not done and self._unsent() == left:
                reason = f"it took nothing of the request's body for {idle} s"
                raise failure(httpx.WriteTimeout, reason, request_sent=True)

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def expect_head(self, seconds: float | None) -> None:
        """Start the clock for the response's head; no byte stops it but the head's last."""
        if seconds is not None and not self._response.in_body:
            self._deadline = self._loop.call_later(seconds, self._late, "response head", seconds)

    def _late(self, what: str, seconds: float) -> None:
        self.fail(failure(httpx.ReadTimeout, f"no {what} within {seconds} s", request_sent=True))

    async def next_head(self) -> Head:
        """Return the head of the next early hint (103), or of the response.

        Raises:
            httpx.TransportError: There is none.
        """
        while not self._response.heads:
            if self._error is not None:
                raise self._error
            await self._arrival()
        return self._response.heads.popleft()

    async def next_chunk(self, idle: float | None) -> bytes:
        """Return what has come of the body since the last call, or ``b""`` at its end.

        Args:
            idle: Seconds to wait for it.

        Raises:
            httpx.ReadTimeout: Nothing came.
            httpx.TransportError: The body is not complete and never will be.
        """
        response = self._response
        while not response.chunks and not response.complete:
            if self._error is not None:
                raise self._error
            timer = None
            if idle is not None:
                timer = self._loop.call_later(idle, self._late, "byte of the body", idle)
            try:
                await self._arrival()
            finally:
                if timer is not None:
                    timer.cancel()
        return self.take()

    def take(self) -> bytes:
        """Return what is here of the body."""
        chunk = self._response.take()
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return chunk

    @property
    def complete(self) -> bool:
        """Whether the whole response has arrived."""
        return self._response.complete

    @property
    def trailers(self) -> list[Header]:
        """The response's trailers, once it is complete."""
        return self._response.trailers

    def fail(self, error: Exception) -> None:
        """End the exchange with *error*, which whoever waits is given, and the connection."""
        if self._busy and self._error is None:
            self._error = error
            self._wake()
            self.abort()

    def rest(self) -> bool:
        """End the exchange and return whether the connection may carry another."""
        self._busy = False
        self._stop_clock()
        transport = self._transport
        if (
            transport is None
            or transport.is_closing()
            or self._paused
            or self._last
            or not self._sent
            or not self._response.reusable
            or transport.get_write_buffer_size()
        ):
            return False
        self.idle_since = self._loop.time()
        return True

    def abort(self) -> None:
        """Drop the connection. What was not sent is not sent, so no message looks complete."""
        self._corked = b""
        if self._transport is not None:
            self._transport.abort()

    async def _arrival(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._has_arrivals = arrivals(self._descriptor)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if not self._busy:
            # Nobody asked for it, so nobody may be given it.
            self.abort()
            return
        if self._corked:
            self._is_no_good()
            return
        self._parse(self._view[:nbytes])
        if self._response.buffered > _HIGH_WATER and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()

    def _parse(self, data: memoryview | bytes) -> None:
        response = self._response
        self.received = True
        try:
            response.feed(data)
        except IllegalResponse as error:
            self.fail(failure(httpx.RemoteProtocolError, str(error), request_sent=True))
        if response.in_body:
            self._stop_clock()
        if response.heads or response.chunks or response.complete:
            self._wake()

    def eof_received(self) -> None:
        tls = self._transport.get_extra_info("ssl_object") if self._transport else None
        if tls is None or is_tls_ended(tls):
            self._response.feed_eof()
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy and exc is not None and self._error is None:
            self._salvage()
        if self._error is None:
            kind = httpx.RemoteProtocolError if exc is None else httpx.ReadError
            stage = "in its response" if self.received else "without a response"
            reason = f"{exc or 'it closed the connection'}, {stage}"
            self._error = failure(kind, reason, request_sent=self._busy and self.started)
        self._stop_clock()
        self._transport = None
        self._response.close()
        self._wake()
        self.resume_writing()
        self._closed(self)

    def _salvage(self) -> None:
        """Read what the upstream said before it reset the connection.

        A write that fails makes the event loop close the connection without reading the rest.
        """
        transport = self._transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return
        for data in read_rest(self._descriptor):
            self._parse(data)

    def pause_writing(self) -> None:
        self._unwritable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._unwritable is not None:
            if not self._unwritable.done():
                self._unwritable.set_result(None)
            self._unwritable = None
