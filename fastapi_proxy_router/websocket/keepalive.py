"""Pings, and patience with what does not answer them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from .outbox import Outbox

__all__ = ["Keepalive", "Pinged"]


class Pinged(Protocol):
    """A connection that can be pinged."""

    @property
    def is_listening(self) -> bool:
        """Whether it reads; if not, silence means nothing."""

    def ping(self) -> None:
        """Send a ping."""

    def give_up(self) -> None:
        """End the connection: nobody is there."""


class Keepalive:
    """Sends pings and watches for a sign of life after each.

    A sign of life is anything that arrives. But a side that takes nothing of what waits for it is
    given up even if it talks.

    Args:
        interval: Seconds between two pings; ``None`` sends none.
        timeout: Seconds after a ping until the other side is given up; ``None`` never does.
        outbox: What is sent to it.

    Attributes:
        heard: Set it when something has arrived.
    """

    def __init__(self, interval: float | None, timeout: float | None, outbox: Outbox) -> None:
        self._outbox = outbox
        self._interval = interval
        self._timeout = timeout
        self._side: Pinged | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._sent = 0
        self.heard = False

    def start(self, side: Pinged) -> None:
        """Send the first ping in one interval."""
        self._side = side
        self._beat_later()

    def stop(self) -> None:
        """Send no more pings, and let go of the connection."""
        self._side = None
        for clock in (self._timer, self._deadline):
            if clock is not None:
                clock.cancel()
        self._timer = self._deadline = None

    def _beat_later(self) -> None:
        if self._interval is not None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)

    def _beat(self) -> None:
        side = self._side
        assert side is not None
        if self._timeout is not None and self._deadline is None:
            self.heard, self._sent = False, self._outbox.sent
            self._deadline = asyncio.get_running_loop().call_later(self._timeout, self._check)
        side.ping()
        self._beat_later()

    def _check(self) -> None:
        side = self._side
        assert side is not None
        self._deadline = None
        is_stuck = self._outbox.unsent > 0 and self._outbox.sent == self._sent
        if side.is_listening and (is_stuck or not self.heard):
            side.give_up()
