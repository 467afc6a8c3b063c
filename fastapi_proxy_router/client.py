"""The client's side of an exchange: its body, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from .core.guard import announces_body
from .core.headers import content_length, tokens
from .exceptions import RequestRefused
from .lifetime import request_exit_stack
from .measure import NO_BODY, Measure
from .watch import ClientGone, Watch

__all__ = ["ClientStream"]

_SCOPE_KEY = "fastapi_proxy_router.client"
#: Seconds until somebody listens for the client's departure. Most exchanges are over before, and
#: do without a task of their own.
_LISTEN_AFTER = 0.1
#: Seconds for which the rest of an upload is read that the upstream did not wait for (nginx's
#: lingering_timeout): closing with unread bytes would take the answer away from the client.
_LINGER = 5.0


class ClientStream:
    """What one client sends.

    There is one per request, however many upstreams are tried for it, so that what was read for a
    failed attempt is still there for the next. At most one message is read ahead, to notice that
    the client leaves. A client that waits for ``100 Continue`` is not read before its body is
    wanted, because reading is what makes the server send it.

    Args:
        scope: The request's scope.
        receive: The server's.
        kept: The body, if somebody has read and kept it.
        consumed: Somebody has read all of it and kept nothing.
        part_read: Somebody has read some of it.

    Attributes:
        announced: The headers say that there is a body.
        has_left: The client is known to have left.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        *,
        kept: bytes | None = None,
        consumed: bool = False,
        part_read: bool = False,
    ) -> None:
        self.scope = scope
        self._receive = receive
        self._kept = kept
        self._request: Any = None
        self._consumed = consumed or part_read
        self.announced = announces_body(scope["headers"])
        is_http1 = scope["http_version"].startswith("1")
        is_bodyless = is_http1 and not self.announced
        self._ended = consumed or kept is not None or is_bodyless
        self._waits = not self._ended and b"100-continue" in tokens(scope["headers"], b"expect")
        declared = content_length(scope["headers"]) if self.announced else None
        self._measure = NO_BODY if is_bodyless else Measure(declared)
        #: Bytes of it were taken, and are gone unless they are kept.
        self._spent = self._consumed and kept is None and not is_bodyless and declared != 0
        self._dropping = False
        self.has_left = False
        self._told_end = False
        self._deaf = False
        self._ahead: Message | Exception | None = None
        self._receiving: asyncio.Future[Message] | None = None
        self._reading = asyncio.Lock()
        self._taken: asyncio.Event | None = None
        self._watches: list[Watch] = []
        self._timer: asyncio.TimerHandle | None = None
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, request: Request) -> ClientStream:
        """Return the stream of *request*, the same one for every attempt."""
        stream: ClientStream | None = request.scope.get(_SCOPE_KEY)
        if stream is None:
            stream = request.scope[_SCOPE_KEY] = cls(
                request.scope,
                request.receive,
                # Set by Starlette once a dependency has read the body.
                kept=getattr(request, "_body", None),
                consumed=getattr(request, "_stream_consumed", False),
                part_read=getattr(request, "is_part_read", False),
            )
            # What is read ahead is not lost to whoever reads the request itself later.
            request._receive = stream.receive  # noqa: SLF001
            if (stack := request_exit_stack(request)) is not None:
                stack.push_async_callback(stream.aclose)
            stream._request = request
        return stream

    @staticmethod
    def begun(request: Request) -> ClientStream | None:
        """Return the stream of *request* if there is one already, which then has its body."""
        stream: ClientStream | None = request.scope.get(_SCOPE_KEY)
        return stream

    @property
    def is_gone(self) -> bool:
        """Whether bytes of the body were forwarded or dropped, and are kept nowhere."""
        return self._spent and self._kept is None and not self._consumed

    @property
    def is_empty(self) -> bool:
        """Whether there is no body and no header of one, as for most requests."""
        return self._ended and not (self.announced or self._spent or self._kept)

    @property
    def uploads(self) -> bool:
        """Whether more of the body is to come; of a declared length, before the server says so."""
        return not self._ended and not self._measure.is_complete

    @property
    def is_replayable(self) -> bool:
        """Whether all that was taken of the body is still there for another try."""
        return not self._spent or self._measure.replay is not None

    @property
    def whole(self) -> bytes | None:
        """All of the body, if it is here and was kept."""
        if self._kept is not None or self.is_empty:
            return self._kept or b""
        replay = self._measure.replay
        return None if replay is None or self.uploads else bytes(replay)

    def keep(self, limit: int) -> None:
        """Keep the body for another try as it is taken, unless it has more than *limit* bytes."""
        if not self._spent and not self._ended:
            self._measure.keep(limit)

    def forget(self) -> None:
        """Keep nothing of the body any more: no other try will follow."""
        self._measure.replay = None

    async def body(
        self, idle: float | None, limit: int | None = None
    ) -> AsyncGenerator[bytes, None] | bytes:
        """Return the body: what is kept of it, or what will arrive.

        Args:
            idle: Seconds until the client has to send the next chunk.
            limit: The most bytes it may have. Default: any number.

        Raises:
            RequestRefused: It does not say whether there is a body, or has more than *limit* bytes.
            RuntimeError: It was already sent to an upstream, dropped, or consumed by a form parser,
                and nobody kept it. ``await request.body()`` beforehand keeps it.
        """
        if self._ended and not (self._spent or self._kept):
            return b""
        if self._kept is None and hasattr(self._request, "_body"):
            self._kept, self._spent = self._request._body, False  # noqa: SLF001
        self._measure.restrict(limit, self._kept)
        if self._kept is not None:
            return self._kept
        if self._measure.replay:
            return self._again(bytes(self._measure.replay), idle)
        if self._spent:
            raise RuntimeError(
                "the request body was already "
                + ("consumed, as a form for instance" if self._consumed else "sent")
                + "; read it with `await request.body()` before, to be able to send it"
            )
        if not self.announced:
            # HTTP/2 needs no header to announce a body (RFC 9113, 8.1).
            first = await self._next(idle)
            if not first.get("body") and not first.get("more_body"):
                self._ended = True
                return b""
            self._ahead = first
        return self._arriving(idle)

    async def receive(self) -> Message:
        """Receive for somebody who reads the request itself, once this listens to the client.

        Raises:
            RuntimeError: Bytes of the body are gone, so the rest would pass for the whole.
        """
        if self.is_gone and not self._ended:
            raise RuntimeError("the request body was already sent, and cannot be read any more")
        if self.has_left:
            return {"type": "http.disconnect"}
        self._waits = False
        async with self._reading:
            message = await self._message() if self._ahead is None else self._ahead
            self._take_ahead()
        if isinstance(message, Exception):
            raise message
        if message["type"] == "http.request" and not self._ended:
            self._spent = self._consumed = True
            self._ended = not message.get("more_body", False)
        return message

    async def _again(self, taken: bytes, idle: float | None) -> AsyncGenerator[bytes, None]:
        yield taken
        async for chunk in self._arriving(idle):
            yield chunk

    async def _arriving(self, idle: float | None) -> AsyncGenerator[bytes, None]:
        while not self._ended:
            message = await self._next(idle)
            self._ended = not message.get("more_body", False)
            if chunk := message.get("body", b""):
                self._spent = True
                self._measure.take(chunk)
                yield chunk
            if self._ended:
                self._measure.end()

    async def _next(self, idle: float | None) -> Message:
        self._waits = False
        try:
            async with asyncio.timeout(idle), self._reading:
                message = await self._message() if self._ahead is None else self._ahead
                self._take_ahead()
        except TimeoutError:
            raise RequestRefused("The body took too long", status=408, close=True) from None
        if isinstance(message, Exception):
            raise message
        if message["type"] == "http.disconnect":
            self._leave()
            raise ClientGone
        return message

    async def _message(self) -> Message:
        """Receive; if that is cut off it goes on, and the next call has what came of it.

        granian loses the message otherwise, and a body that is sent again would have a hole. That
        of a declared length is found to be too short.
        """
        if self._receiving is None:
            known = self._spent or self._measure.declared is not None
            if self._ended or (known and self._measure.replay is None):
                return await self._receive()
            self._receiving = asyncio.ensure_future(self._receive())
        receiving = self._receiving
        await asyncio.wait([receiving])
        self._receiving = None
        return receiving.result()

    def drop(self) -> None:
        """Read and drop a body that nobody wants, so that a client that leaves is noticed."""
        if not self._ended and not self._dropping:
            self._spent = self._dropping = True
            self._take_ahead()
            self._listen()

    def _take_ahead(self) -> None:
        self._ahead = None
        if self._taken is not None:
            self._taken.set()

    async def linger(self) -> None:
        """Read and drop the rest of an upload, for a while, so that the client reads our answer."""
        if self._waits:
            return
        with suppress(Exception):
            async with asyncio.timeout(_LINGER):
                while not self._ended:
                    await self._skip()

    async def _skip(self) -> None:
        async with self._reading:
            # Whoever listens may have come to the end meanwhile.
            if not self._ended:
                message = await self._message() if self._ahead is None else self._ahead
                self._take_ahead()
                if isinstance(message, Exception):
                    raise message
                self._ended = not message.get("more_body", False)

    def watch(self) -> Watch:
        """Return a block that ends with ``ClientGone`` as soon as the client leaves."""
        return Watch(self._begin, self._watches)

    def _begin(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        """Let *watch* know when the client leaves.

        Raises:
            ClientGone: It has left already.
        """
        if self.has_left:
            raise ClientGone
        self._watches.append(watch)
        if self._timer is None and self._listener is None:
            self._timer = loop.call_later(_LISTEN_AFTER, self._listen)

    def _listen(self) -> None:
        if self._waits and not self._dropping:
            self._timer = asyncio.get_running_loop().call_later(_LISTEN_AFTER, self._listen)
        elif self._listener is None:
            self._listener = asyncio.create_task(self._listening(), name="proxy listen to client")

    async def _listening(self) -> None:
        while not (self.has_left or self._deaf):
            async with self._reading:
                if self._ahead is None:
                    await self._read_ahead()
            if self._ahead is not None:
                self._taken = asyncio.Event()
                await self._taken.wait()

    async def _read_ahead(self) -> None:
        try:
            message = await self._message()
        except Exception as error:  # noqa: BLE001 - a limit of the router; raised to the reader
            self._ahead = error
            return
        if message["type"] == "http.disconnect":
            self._leave()
        elif not self._ended and not self._dropping:
            self._ahead = message
        elif self._ended and self._told_end:
            # After the end there is nothing but the disconnect, unless a middleware makes it up.
            self._deaf = True
        else:
            # A client that waited for a 100, and got an answer, may send its body or not.
            self._waits = False
            self._told_end = self._ended = not message.get("more_body", False)

    def _leave(self) -> None:
        self.has_left = True
        for watch in self._watches:
            watch.interrupt(ClientGone())

    async def aclose(self) -> None:
        """Stop listening. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in (self._listener, self._receiving) if task is not None]
        self._receiving = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
