"""Who may begin an exchange, and who waits for another one to end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection
from threading import get_ident

from starlette.requests import HTTPConnection
from starlette.types import Scope

from .core.pool import UpstreamPool
from .core.upstream import Upstream
from .exceptions import NoUpstreamAvailable
from .sources import CLOCK

__all__ = ["admitted", "may_begin"]


def may_begin(upstream: Upstream) -> bool:
    """Tell whether an exchange with *upstream* may begin, if that is done before any await."""
    pool = upstream.pool
    if pool is None:
        return not upstream.is_busy(CLOCK())
    return not (pool.waiting or upstream.is_busy(pool.clock())) and pool.has_room()


async def admitted(
    upstream: Upstream,
    scope: Scope,
    *,
    without: Collection[Upstream] = (),
    until: float | None = None,
    waits: bool = True,
) -> Upstream:
    """Return an upstream with which an exchange may begin, if that is done before any await.

    Args:
        upstream: The one that was picked. If it may be given nothing more by now, another of its
            pool is returned, or this waits in the pool's queue.
        scope: The client's.
        without: Upstreams that were tried.
        until: When there is no use in it any more, in the event loop's time.
        waits: Whether this may wait.

    Raises:
        NoUpstreamAvailable: None may, and the queue is full or the wait was too long.
    """
    if may_begin(upstream):
        return upstream
    pool = upstream.pool
    if pool is None:
        wait = upstream.wait(CLOCK())
        reason = "it has all that it may take"
        raise NoUpstreamAvailable(
            reason, upstream=upstream, stage="pick", fault="us", retry_after=wait
        )
    is_full = pool.queue is None or len(pool.waiting) >= pool.queue.size
    # A queue may be full of those that are bound to one upstream, while the others have room.
    may_look = not pool.waiting or (is_full and pool.affinity is not None)
    if may_look and (free := _free(pool, scope, without)) is not None:
        return free
    if not waits or pool.queue is None or is_full:
        raise pool.exhausted()
    latest = asyncio.get_running_loop().time() + pool.queue.timeout
    return await _turn(pool, scope, without, latest if until is None else min(latest, until))


def _free(pool: UpstreamPool, scope: Scope, without: Collection[Upstream]) -> Upstream | None:
    """Return an upstream that may be given one more exchange, or ``None``."""
    if not pool.has_room():
        return None
    upstream = pool.pick(HTTPConnection(scope), without=without)
    return None if upstream.is_busy(pool.clock()) else upstream


async def _turn(
    pool: UpstreamPool, scope: Scope, without: Collection[Upstream], until: float
) -> Upstream:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    wake = _waker(woken)
    timer: asyncio.TimerHandle | None = None
    pool.waiting.append(wake)
    # Those before us may be waiting for others than we would take.
    pool.wake()
    try:
        async with asyncio.timeout_at(until):
            while True:
                await woken.wait()
                woken.clear()
                if (free := _free(pool, scope, without)) is not None:
                    return free
                if without or pool.affinity is not None:
                    # The next one may take what is no good for this one.
                    pool.wake(after=wake)
                if timer is not None:
                    timer.cancel()
                if pool.has_room() and (wait := pool.patience()) < math.inf:
                    timer = loop.call_later(wait, wake)
    except TimeoutError:
        raise pool.exhausted() from None
    finally:
        if timer is not None:
            timer.cancel()
        pool.waiting.remove(wake)
        # There may be room for the next one too; it looks after we have begun.
        pool.wake()


def _waker(woken: asyncio.Event) -> Callable[[], None]:
    """Return what sets *woken*: a pool may be changed from a thread, and serve several loops."""
    loop, here = asyncio.get_running_loop(), get_ident()

    def wake() -> None:
        if get_ident() == here:
            woken.set()
        else:
            loop.call_soon_threadsafe(woken.set)

    return wake
