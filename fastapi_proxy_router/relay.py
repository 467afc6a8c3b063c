"""WebSocket: messages both ways until one side ends, and the other side is told how."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, NoReturn

from anyio import CancelScope
from starlette.exceptions import WebSocketException
from starlette.websockets import WebSocket, WebSocketDisconnect

from .core.handshake import (
    ABNORMAL,
    CLIENT_LOST,
    UPSTREAM_LOST,
    close_frame,
    disconnection,
)
from .core.messages import Message, MessageHook, Reply
from .core.websocket import WebSocketOptions
from .websocket import CLOSE_TIMEOUT, UpstreamEnded, UpstreamWebSocket

__all__ = ["Ended", "Relay"]

_GOING_AWAY: Final = 1001
_TOO_LARGE: Final = 1009
_INTERNAL_ERROR: Final = 1011
_SERVICE_RESTART: Final = 1012
#: Messages after which others get their turn, whatever is still waiting.
_TURN: Final = 64
#: Seconds for the goodbyes of a relay that we end: a server that stops may not wait longer.
_GRACE: Final = 1.0
#: Seconds for the server to tell how a client has left to which nothing can be sent any more.
_PATIENCE: Final = 0.5
#: Seconds in which a client takes a message if it reads.
_HOLD_UP: Final = 1.0

_Send = Callable[[Message], Awaitable[None]]


class Ended(Exception):
    """The relay is over.

    Attributes:
        code: The close code, 1006 if a side vanished.
        reason: The reason.
        by: Who has ended it; the others are told.
    """

    def __init__(self, code: int, reason: str, by: Literal["client", "upstream", "us"]) -> None:
        super().__init__(code, reason, by)
        self.code = code
        self.reason = reason
        self.by = by


class Relay:
    """Two open sides of a WebSocket.

    Args:
        client: The client's side, not accepted yet.
        upstream: The upstream's side, open.
        options: The limits.
        on_client_message: Sees every message of the client.
        on_upstream_message: Sees every message of the upstream.

    Attributes:
        loop: The event loop that it runs in.
        is_held_up: The client did not read for so long that the upstream may have given it up.
    """

    def __init__(
        self,
        client: WebSocket,
        upstream: UpstreamWebSocket,
        options: WebSocketOptions,
        on_client_message: MessageHook | None = None,
        on_upstream_message: MessageHook | None = None,
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._options = options
        self._on_client_message = on_client_message
        self._on_upstream_message = on_upstream_message
        self.loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Ended] = self.loop.create_future()
        self._over = asyncio.Event()
        self._last_message = self.loop.time()
        self._idle_clock: asyncio.TimerHandle | None = None
        self._lifetime_clock: asyncio.TimerHandle | None = None
        self._gone_clock: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self.is_held_up = False

    async def run(self, accept: Coroutine[Any, Any, None]) -> Ended:
        """Pass messages on until one side has ended and the other was told; return how it ended.

        Args:
            accept: Accepts the client, first of all.

        Raises:
            Exception: What a message hook raised, after both sides were closed with 1011.
        """
        try:
            await self._accept(accept)
            ended = await self._pump()
            await self._tell(ended)
        except asyncio.CancelledError:
            # The server stops, or whoever called us has had enough.
            # What failed before is not raised any more, and would hold this through its traceback.
            self._failure = None
            # Shielded from scopes of anyio, which would cancel every await of this.
            with CancelScope(shield=True):
                await self._tell(Ended(_SERVICE_RESTART, "", "us"))
            raise
        finally:
            self._upstream.abort()
            self._over.set()
        if self._failure is not None:
            self._raise_failure(self._failure)
        return ended

    def _raise_failure(self, failure: BaseException) -> NoReturn:
        self._failure = None
        try:
            raise failure
        finally:
            # It would hold itself, through its traceback.
            del failure

    async def stop(self) -> None:
        """Close both sides, because the server stops, and wait until that is done."""
        self._end(Ended(_SERVICE_RESTART, "", "us"))
        await self._over.wait()

    def _end(self, ended: Ended) -> None:
        if not self._ended.done():
            self._ended.set_result(ended)

    async def _accept(self, accept: Coroutine[Any, Any, None]) -> None:
        """Accept the client, unless we are stopped first: then granian never says that it has."""
        accepting = asyncio.create_task(_unless_gone(accept), name="relay accept client")
        try:
            await asyncio.wait((accepting, self._ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            accepting.cancel()
            with CancelScope(shield=True):
                await asyncio.wait((accepting,))
        if not accepting.cancelled():
            accepting.result()

    async def _pump(self) -> Ended:
        """Run both pumps until one knows how a side ended; then neither runs any more."""
        pumps = [
            asyncio.create_task(self._client_to_upstream(), name="relay client->upstream"),
            asyncio.create_task(self._upstream_to_client(), name="relay upstream->client"),
        ]
        for pump in pumps:
            pump.add_done_callback(self._on_pump_done)
        try:
            with self._clocks():
                return await self._ended
        finally:
            # Before anything else is sent: granian's `close` waits for a pending `receive`.
            for pump in pumps:
                pump.cancel()
            with CancelScope(shield=True):
                await asyncio.wait(pumps)

    def _on_pump_done(self, pump: asyncio.Task[None]) -> None:
        cancelled = pump.cancelled()
        error = RuntimeError("a message hook was cancelled") if cancelled else pump.exception()
        if self._ended.done():
            return
        if isinstance(error, Ended):
            # Another one: this one's traceback leads back to the relay, which would hold itself.
            self._end(Ended(error.code, error.reason, error.by))
        elif isinstance(error, WebSocketException):
            self._end(Ended(error.code, error.reason, "us"))
        elif error is not None:
            self._failure = error
            self._end(Ended(_INTERNAL_ERROR, "", "us"))
        # A pump that returns leaves the end to the other one, which knows more.

    async def _client_to_upstream(self) -> None:
        receive, send = self._client.receive, self._upstream.send
        limit, hook = self._options.max_message_size or math.inf, self._on_client_message
        counts = self._options.idle is not None
        for number in itertools.count(1):
            if not number % _TURN:
                await asyncio.sleep(0)
            event = await receive()
            if event["type"] == "websocket.disconnect":
                raise Ended(*disconnection(event), "client")
            if counts:
                self._last_message = self.loop.time()
            text: str | None = event.get("text")
            payload: bytes = event["bytes"] if text is None else text.encode()
            if len(payload) > limit:
                raise Ended(_TOO_LARGE, "", "us")
            try:
                if hook is None:
                    await send(payload, text=text is not None)
                else:
                    message = payload if text is None else text
                    await self._hooked(hook, message, self._to_upstream, self._to_client)
            except UpstreamEnded:
                # The other pump has its last messages to deliver, and knows how it ended.
                return

    async def _upstream_to_client(self) -> None:
        receive, hook = self._upstream.receive, self._on_upstream_message
        counts = self._options.idle is not None
        for number in itertools.count(1):
            if not number % _TURN:
                await asyncio.sleep(0)
            try:
                message = await receive()
            except UpstreamEnded as ended:
                raise Ended(ended.code, ended.reason, "upstream") from None
            if counts:
                self._last_message = self.loop.time()
            if hook is None:
                await self._to_client(message)
            else:
                with suppress(UpstreamEnded):
                    await self._hooked(hook, message, self._to_client, self._to_upstream)
            if self._gone_clock is not None:
                return

    async def _hooked(
        self, hook: MessageHook, message: Message, onward: _Send, back: _Send
    ) -> None:
        result = await hook(message)
        if isinstance(result, Reply):
            await back(result.message)
        elif result is not None:
            await onward(result)

    async def _to_upstream(self, message: Message) -> None:
        if isinstance(message, str):
            await self._upstream.send(message.encode(), text=True)
        else:
            await self._upstream.send(message, text=False)

    async def _to_client(self, message: Message) -> None:
        kind = "text" if isinstance(message, str) else "bytes"
        began = self.loop.time()
        try:
            await self._client.send({"type": "websocket.send", kind: message})
        except (WebSocketDisconnect, RuntimeError):
            # We may be about to hear with which code it left; some servers do not tell.
            if self._gone_clock is None:
                gone = Ended(ABNORMAL, "", "client")
                self._gone_clock = self.loop.call_later(_PATIENCE, self._end, gone)
        self.is_held_up |= self.loop.time() - began > _HOLD_UP

    @contextmanager
    def _clocks(self) -> Iterator[None]:
        """Watch the limits of time."""
        lifetime = self._options.lifetime
        if lifetime is not None:
            ended = Ended(_GOING_AWAY, "its lifetime is over", "us")
            self._lifetime_clock = self.loop.call_later(lifetime, self._end, ended)
        self._check_idle()
        try:
            yield
        finally:
            for clock in (self._lifetime_clock, self._idle_clock, self._gone_clock):
                if clock is not None:
                    clock.cancel()

    def _check_idle(self) -> None:
        if (idle := self._options.idle) is None:
            return
        left = self._last_message + idle - self.loop.time()
        if left > 0:
            self._idle_clock = self.loop.call_later(left, self._check_idle)
        else:
            self._end(Ended(_GOING_AWAY, "idle for too long", "us"))

    async def _tell(self, ended: Ended) -> None:
        """Tell those who do not know yet, and wait until the upstream's connection is gone."""
        code, reason = ended.code, ended.reason
        patience = _GRACE if ended.by == "us" else CLOSE_TIMEOUT
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                if ended.by != "upstream":
                    self._upstream.close(*close_frame(code, reason, lost=CLIENT_LOST))
                if ended.by != "client":
                    await self._close_client(*close_frame(code, reason, lost=UPSTREAM_LOST))
                await self._upstream.wait_closed()

    async def _close_client(self, code: int | None, reason: str) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            # ASGI has no close without a code: some servers fail at one, which is worse than 1000.
            await self._client.close(1000 if code is None else code, reason)


async def _unless_gone(accept: Coroutine[Any, Any, None]) -> None:
    # If the client has left, the pumps will hear of it.
    with suppress(WebSocketDisconnect, RuntimeError, OSError):
        await accept
