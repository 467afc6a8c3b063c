"""Cancel a coroutine at each of its steps, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Literal

#: When a task is cancelled: as it begins to wait, or as what it waits for has just come;
#: ``again``: also at every step after that, so that what cleans up is cancelled, too.
How = Literal["waiting", "coming", "again"]
HOWS: tuple[How, ...] = ("waiting", "coming", "again")


class Stepped:
    """A coroutine whose task is cancelled at one of its steps.

    Args:
        coroutine: The coroutine.
        step: At which of its suspensions, from 1; 0 is none.
        how: In which way.

    Attributes:
        steps: How many suspensions there were.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], step: int, how: How) -> None:
        self._coroutine = coroutine
        self._step = step
        self._how = how
        self.steps = 0

    async def run(self) -> Any:
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        resume: Callable[[], Any] = partial(inner.send, None)
        while True:
            try:
                waits_for = resume()
            except StopIteration as stop:
                return stop.value
            self.steps += 1
            if self.steps == self._step or (self._how == "again" and self.steps > self._step > 0):
                self._cancel(waits_for)
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to handle
                resume = partial(inner.throw, error)
            else:
                resume = partial(inner.send, value)

    def _cancel(self, waits_for: asyncio.Future[Any] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._how != "coming":
            task.cancel()
        elif waits_for is None:
            asyncio.get_running_loop().call_soon(task.cancel)
        else:
            # Called before the task is, which waits for the same.
            waits_for.add_done_callback(lambda _: task.cancel())


async def cancelled_at(coroutine: Coroutine[Any, Any, Any], step: int, how: How) -> bool:
    """Run *coroutine*, cancel it at *step*, and tell whether there was such a step."""
    stepped = Stepped(coroutine, step, how)
    task = asyncio.create_task(stepped.run())
    await asyncio.wait([task], timeout=5)
    assert task.done()
    if not task.cancelled():
        task.result()
    return stepped.steps >= step
