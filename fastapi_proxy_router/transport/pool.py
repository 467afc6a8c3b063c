"""The connections to one origin: kept, limited, and waited for in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import httpx

from .cork import current_cork
from .http1 import HTTP1Connection
from .limits import ConnectionLimits, failure

__all__ = ["Connect", "ConnectionPool"]


class Connect(Protocol):
    """Opens a connection that the pool has made; raises httpx's errors."""

    def __call__(
        self, new: Callable[[], HTTP1Connection], *, timeout: float | None
    ) -> Awaitable[HTTP1Connection]:
        """Return the connection once it stands."""


class ConnectionPool:
    """The connections to one origin.

    The one that was used last is used first, so that the others can expire. To take one costs the
    same whether there are one or a thousand. Whoever waits is served in turn.

    Args:
        connect: Opens a connection; raises httpx's errors.
        limits: The limits.

    Attributes:
        time: What time it is, for the event loop.
    """

    def __init__(self, connect: Connect, limits: ConnectionLimits) -> None:
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._connect = connect
        self._limits = limits
        self._open: set[HTTP1Connection] = set()
        # An ordered set: the one that has idled longest comes first.
        self._idle: dict[HTTP1Connection, None] = {}
        self._opening = 0
        self._waiters: deque[asyncio.Future[HTTP1Connection | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._cork = current_cork()
        self._closed = False

    def take(self) -> HTTP1Connection | None:
        """Return an idle connection, if there is one that is still good."""
        now = self._loop.time()
        while self._idle:
            connection, _ = self._idle.popitem()
            if self._is_fresh(connection, now):
                return connection
            self.discard(connection)
        return None

    def _is_fresh(self, connection: HTTP1Connection, now: float) -> bool:
        limits = self._limits
        return now - connection.idle_since < limits.keepalive_expiry and (
            limits.max_age is None or now - connection.born < limits.max_age
        )

    async def open(self, *, connect: float | None, pool: float | None) -> HTTP1Connection:
        """Open a connection, or wait for one if there may be no more.

        Args:
            connect: Seconds until it stands.
            pool: Seconds to wait for a turn.

        Raises:
            httpx.PoolTimeout: The turn did not come, or too many wait already.
            httpx.ConnectTimeout: It did not stand in time.
            httpx.ConnectError: It could not be opened.
        """
        limit = self._limits.max_connections
        if limit is not None and len(self._open) + self._opening >= limit:
            connection = await self._turn(pool)
            if connection is not None:
                if self._is_fresh(connection, self._loop.time()):
                    return connection
                return await self.renew(connection, connect=connect)
        else:
            self._opening += 1
        return await self._fill_place(connect)

    async def renew(self, connection: HTTP1Connection, *, connect: float | None) -> HTTP1Connection:
        """Open a connection in the place of one that is no good; raises as ``open`` does."""
        connection.abort()
        self._open.discard(connection)
        self._opening += 1
        return await self._fill_place(connect)

    async def _fill_place(self, seconds: float | None) -> HTTP1Connection:
        connection: HTTP1Connection | None = None
        try:
            connection = await self._connect(self._new, timeout=seconds)
        finally:
            self._opening -= 1
            if connection is None:
                self._pass_on(None)
        self._open.add(connection)
        return connection

    def _new(self) -> HTTP1Connection:
        return HTTP1Connection(self._loop, self._limits, self._lost, self._cork)

    async def _turn(self, seconds: float | None) -> HTTP1Connection | None:
        """Wait for a connection, or for the place of one (``None``), already counted as opening."""
        if len(self._waiters) >= self._limits.max_waiting:
            reason = f"{len(self._waiters)} requests are waiting for a connection already"
            raise failure(httpx.PoolTimeout, reason, request_sent=False)
        waiter: asyncio.Future[HTTP1Connection | None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except BaseException as error:
            self._leave_queue(waiter)
            if isinstance(error, TimeoutError):
                reason = f"no connection was free within {seconds} s"
                raise failure(httpx.PoolTimeout, reason, request_sent=False) from None
            # For a deadline of the caller's: it is not the upstream that is waited for.
            error.in_queue = True  # type: ignore[attr-defined]
            raise

    def _leave_queue(self, waiter: asyncio.Future[HTTP1Connection | None]) -> None:
        if waiter.done() and not waiter.cancelled():
            # Its turn came in the moment it left.
            if (connection := waiter.result()) is None:
                self._opening -= 1
                self._pass_on(None)
            else:
                self.release(connection)
        elif waiter in self._waiters:
            self._waiters.remove(waiter)

    def release(self, connection: HTTP1Connection) -> None:
        """Take a connection back whose exchange is over; it is kept if it is clean."""
        if not connection.rest() or self._closed:
            self.discard(connection)
        elif not self._pass_on(connection):
            self._idle[connection] = None
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(self._limits.keepalive_expiry, self._sweep)

    def discard(self, connection: HTTP1Connection) -> None:
        """Close a connection and give its place to whoever waits."""
        connection.abort()
        if connection in self._open:
            self._open.remove(connection)
            self._pass_on(None)

    def _lost(self, connection: HTTP1Connection) -> None:
        """Forget a connection that was lost while it idled; else its exchange will see to it."""
        if connection in self._idle:
            del self._idle[connection]
            self.discard(connection)

    def _pass_on(self, connection: HTTP1Connection | None) -> bool:
        """Give a connection, or the place of one, to the first that waits."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._opening += connection is None
                waiter.set_result(connection)
                return True
        return False

    def _sweep(self) -> None:
        """Close what has idled too long, and come back for the next."""
        self._sweeper = None
        now, expiry = self._loop.time(), self._limits.keepalive_expiry
        for connection in list(self._idle):
            remaining = connection.idle_since + expiry - now
            if remaining > 0:
                self._sweeper = self._loop.call_later(remaining, self._sweep)
                return
            del self._idle[connection]
            self.discard(connection)

    def close(self) -> None:
        """Close all connections, also those in use. None that is opened later is kept."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        for connection in list(self._open):
            self.discard(connection)
