"""The time of one exchange: what is left of it, and who has used it up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Final

from .client import ClientStream
from .core.lease import Lease
from .core.policy import Timeout
from .core.upstream import Upstream
from .exceptions import Fault, GatewayTimeout, Stage
from .transforming import Transformed

__all__ = ["PATIENCE", "Timing"]

#: Seconds for a client to send what it is asked for, or to take what it is sent, before the
#: upstream may not be blamed for what comes of it.
PATIENCE: Final = 1.0


class Timing:
    """The clocks of one exchange.

    Args:
        client: The client's side.
        upstream: The upstream.
        timeout: The deadlines of the exchange.
        until: When all of it has to be over, in the event loop's time.
        per_try: Seconds until the head of the response, without those the client is waited for.

    Attributes:
        until: The same.
        lease: The place that the exchange has with its upstream.
    """

    __slots__ = (
        "_asked",
        "_began",
        "_client",
        "_clock",
        "_patience",
        "_per_try",
        "_total",
        "_upstream",
        "_waited",
        "lease",
        "until",
    )

    def __init__(
        self,
        client: ClientStream,
        upstream: Upstream,
        timeout: Timeout,
        until: float | None,
        per_try: float | None,
    ) -> None:
        self.until = until
        self.lease: Lease | None = None
        self._client = client
        self._upstream = upstream
        self._total = timeout.total
        self._per_try = per_try
        self._clock: asyncio.Timeout | None = None
        self._patience: asyncio.TimerHandle | None = None
        # It is only asked for where there is a total.
        self._began = asyncio.get_running_loop().time() if until is not None else 0.0
        #: Since when the client is waited for, and for how long it was.
        self._asked = self._waited = 0.0

    def of_head(self, opening: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        """Return what awaits *opening* until the try, or all of the exchange, has to be over."""
        until = self.until if self._per_try is None else self._end_of_try(self._per_try)
        return opening if until is None else self._in_time(opening, until, "head")

    def of_body(self, relaying: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        """Return what awaits *relaying* until the exchange has to be over."""
        return relaying if self.until is None else self._in_time(relaying, self.until, "body")

    async def of_upload(
        self, body: AsyncGenerator[bytes, None] | Transformed
    ) -> AsyncGenerator[bytes, None]:
        """Pass *body* on, and take note whenever it is the client, or a hook, that is waited for.

        It is closed with this, but not if this never begins.
        """
        async with aclosing(body):
            self.ask_client()
            async for chunk in body:
                self.go_on()
                yield chunk
                self.ask_client()
        self.go_on()

    def ask_client(self) -> None:
        """Stop the clock of the try."""
        loop = asyncio.get_running_loop()
        self._asked = loop.time()
        self._set_clock(self.until)
        if self.lease is not None and self.lease.is_trying:
            wait = max(PATIENCE - self._waited, 0.0)
            self._patience = loop.call_later(wait, self.lease.make_way)

    def go_on(self) -> None:
        """Start the clock of the try anew; what the client took is nobody's latency."""
        waited = asyncio.get_running_loop().time() - self._asked
        self._waited += waited
        self._asked = 0.0
        if self._patience is not None:
            self._patience.cancel()
        if self.lease is not None:
            self.lease.excuse(waited)
        if self._per_try is not None:
            self._set_clock(self._end_of_try(self._per_try))

    def _end_of_try(self, per_try: float) -> float:
        """Return until when the head has to be here if the try begins now."""
        until = asyncio.get_running_loop().time() + per_try
        return until if self.until is None else min(until, self.until)

    def _set_clock(self, until: float | None) -> None:
        # It is over once the head is here, of which the body may not have taken notice.
        if self._clock is not None and not self._clock.expired():
            self._clock.reschedule(until)

    async def _in_time(
        self, awaitable: Coroutine[Any, Any, None], until: float, stage: Stage
    ) -> None:
        try:
            async with asyncio.timeout_at(until) as clock:
                self._clock = clock if stage == "head" else None
                await awaitable
                self._clock = None
        except TimeoutError as error:
            if not clock.expired():
                # Somebody else's, such as a hook's.
                raise
            raise self._late(stage, error.__cause__) from error

    def _late(self, stage: Stage, cut_off: BaseException | None) -> GatewayTimeout:
        """Return the error that says which time is used up."""
        sent = getattr(cut_off, "request_sent", True)
        # What was cut off may be a wait for a connection of ours.
        fault: Fault = "us" if hasattr(cut_off, "in_queue") else "upstream"
        now = asyncio.get_running_loop().time()
        if self.until is None or now < self.until:
            reason = f"no response head within the {self._per_try} s of a try"
        else:
            reason = f"it took longer than {self._total} s in all"
            # It may be the client that is slow, in sending or in reading, or the queue, or another
            # upstream: who had the smaller part of the time was not the one that used it up.
            own = now - self._began - self._waited - (now - self._asked if self._asked else 0.0)
            if stage == "body" or self._client.uploads or own < (self._total or 0.0) / 2:
                fault = "us"
        return GatewayTimeout(
            reason,
            upstream=self._upstream,
            stage=stage if sent else "connect",
            fault=fault,
            request_sent=sent,
        )
