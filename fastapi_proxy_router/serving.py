"""What runs beside the traffic of pools: lookups, health checks, and the care for connections."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from .core.pool import UpstreamPool
from .core.split import Split
from .core.upstream import Upstream
from .mirroring import end_copies
from .prober import Prober
from .resolver import Resolver
from .transport import close_transports, open_transports
from .upgrade import close_relays

__all__ = ["frozen", "serving"]


@asynccontextmanager
async def serving(*pools: UpstreamPool | Split) -> AsyncIterator[None]:
    """Keep pools going: a ``ProxyRouter`` does it for its own, for others it is your lifespan.

    When the block begins, names have been looked up and every upstream was probed once. When it
    ends, nothing is left: no task, no relay, no connection. A pool may be in several such blocks at
    a time; the last one that ends counts. ::

        app = FastAPI(lifespan=lambda app: serving(pool))

    Args:
        pools: The pools. Those of a ``Split``, and those that requests are copied to, come by
            themselves.

    Raises:
        ConfigurationError: A pool needs a package that is not installed.
    """
    entered = []
    async with AsyncExitStack() as stack:
        for pool in _all_of(pools):
            running = _running_for(pool)
            running.users += 1
            stack.push_async_callback(running.leave)
            entered.append(running)
        async with asyncio.TaskGroup() as group:
            for running in entered:
                group.create_task(running.start(), name="proxy start pool")
        yield


@contextmanager
def frozen() -> Iterator[None]:
    """Keep what is loaded out of the garbage collector's sight, unless somebody has done so.

    It is there to stay, and looking through all of it in the middle of traffic holds every request
    up for tens of milliseconds.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _all_of(given: Iterable[UpstreamPool | Split]) -> list[UpstreamPool]:
    """Return the pools, also those of a split and those that requests are copied to, each once."""
    found: dict[UpstreamPool, None] = {}
    for entry in given:
        for pool in entry.pools if isinstance(entry, Split) else (entry,):
            found[pool] = None
            if pool.mirror is not None:
                found[pool.mirror.pool] = None
    return list(found)


class _Running:
    """All that runs for one pool in one event loop, however many ask for it."""

    def __init__(self, pool: UpstreamPool) -> None:
        self.users = 0
        self._pool = pool
        self._starting = asyncio.Lock()
        self._connections = _Connections(pool)
        self._resolver = Resolver(pool)
        self._prober = Prober(pool)

    async def start(self) -> None:
        """Start everything, or wait until it has been started."""
        async with self._starting:
            self._connections.start()
            await self._resolver.start()
            await self._prober.start()

    async def leave(self) -> None:
        """Stop everything if nobody else needs it."""
        self.users -= 1
        if self.users:
            return
        del _running[self._pool, asyncio.get_running_loop()]
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._connections.stop)
            stack.push_async_callback(end_copies, [self._pool])
            stack.push_async_callback(self._resolver.stop)
            stack.push_async_callback(self._prober.stop)


class _Connections:
    """The connections of a pool's upstreams, also of those that have left it meanwhile."""

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._members: set[Upstream] = set()
        self._gone: set[Upstream] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._unwatch: Callable[[], None] | None = None

    def start(self) -> None:
        if self._unwatch is not None:
            return
        loop = asyncio.get_running_loop()
        self._unwatch = self._pool.watch(lambda: loop.call_soon_threadsafe(self._follow))
        self._follow()

    async def stop(self) -> None:
        if self._unwatch is None:
            return
        # What has changed last may not have been followed yet.
        self._follow()
        self._unwatch()
        self._unwatch = None
        if self._closing:
            await asyncio.wait(self._closing)
        upstreams = [*self._members, *self._gone]
        self._members.clear()
        self._gone.clear()
        await close_relays(upstreams)
        await close_transports(upstreams)

    def _follow(self) -> None:
        """Open transports for those that have come, and close those of which nothing is left."""
        if self._unwatch is None:
            return
        members = set(self._pool.upstreams)
        open_transports(members - self._members)
        # In another pool it goes on with what it has.
        gone = {one for one in self._gone | (self._members - members) if one.pool is None}
        self._gone = {one for one in gone if one.in_flight}
        self._members = members
        in_use = {id(one.transport) for one in members | self._gone}
        if over := [one for one in gone - self._gone if id(one.transport) not in in_use]:
            task = asyncio.create_task(close_transports(over), name="proxy close transports")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


_running: dict[tuple[UpstreamPool, asyncio.AbstractEventLoop], _Running] = {}


def _running_for(pool: UpstreamPool) -> _Running:
    key = (pool, asyncio.get_running_loop())
    if key not in _running:
        _running[key] = _Running(pool)
    return _running[key]
