"""Work that is done for each part of a pool by itself: at once, and then at an interval."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeVar

from .core.pool import UpstreamPool

__all__ = ["Pace", "Rounds"]

_Part = TypeVar("_Part")


class Pace(Protocol):
    """How often: every so many seconds, give or take a share of them."""

    @property
    def interval(self) -> float:
        """Seconds."""

    @property
    def jitter(self) -> float:
        """A share of them."""


class Rounds(Generic[_Part]):
    """A task for each part of a pool, so that none waits for another.

    Parts may come and go with the pool's upstreams: the first turn of a new one is at once.

    Args:
        pool: The pool.
        parts: Returns its parts now.
        turn: What is done for a part. It raises nothing.
        pace: How often.
        label: Names the task of a part.
    """

    def __init__(
        self,
        pool: UpstreamPool,
        parts: Callable[[], Iterable[_Part]],
        turn: Callable[[_Part], Awaitable[None]],
        pace: Pace,
        label: Callable[[_Part], str],
    ) -> None:
        self._pool = pool
        self._parts = parts
        self._turn = turn
        self._pace = pace
        self._label = label
        self._tasks: dict[_Part, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._unwatch: Callable[[], None] | None = None
        self._context: contextvars.Context | None = None

    async def start(self) -> None:
        """Begin, and return when every part has had its first turn. Idempotent."""
        if self._unwatch is not None:
            return
        loop = asyncio.get_running_loop()
        # Not that of a request which happens to change the pool.
        self._context = contextvars.copy_context()
        # An endpoint without "async" changes the pool from a thread.
        self._unwatch = self._pool.watch(lambda: loop.call_soon_threadsafe(self._follow))
        try:
            await asyncio.gather(*self._follow())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End all of it, and return when nothing is left. It may be started again. Idempotent."""
        if self._unwatch is None:
            return
        self._unwatch()
        self._unwatch = None
        tasks = {*self._tasks.values(), *self._ending}
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _follow(self) -> list[asyncio.Future[None]]:
        """Give every part its task and no other one; return the ends of the first turns."""
        if self._unwatch is None:
            return []
        parts = dict.fromkeys(self._parts())
        for part in self._tasks.keys() - parts.keys():
            task = self._tasks.pop(part)
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()
        return [self._begin(part) for part in parts if part not in self._tasks]

    def _begin(self, part: _Part) -> asyncio.Future[None]:
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            self._run(part, first), name=self._label(part), context=self._context
        )
        # However it ends: nobody waits for a part that is gone.
        task.add_done_callback(lambda _task: _settle(first))
        self._tasks[part] = task
        return first

    async def _run(self, part: _Part, first: asyncio.Future[None]) -> None:
        loop, pace, chance = asyncio.get_running_loop(), self._pace, self._pool.chance
        while True:
            began = loop.time()
            await self._turn(part)
            _settle(first)
            wait = pace.interval * (1 + pace.jitter * chance.uniform(-1, 1))
            await asyncio.sleep(began + wait - loop.time())


def _settle(first: asyncio.Future[None]) -> None:
    if not first.done():
        first.set_result(None)
