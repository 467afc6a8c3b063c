"""A block that ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["ClientGone", "Watch"]


class ClientGone(Exception):
    """The client left before its exchange was over. Not an error, so it stays in this package."""


class Watch:
    """A block that others can end with an exception of theirs.

    The task is cancelled as ``asyncio.timeout`` does it: a cancellation by somebody else, also one
    that comes meanwhile, stays one.

    Args:
        begin: Is called with this and the event loop when the block begins.
        watches: What this is taken out of when the block ends.
    """

    __slots__ = ("_begin", "_cancelling", "_error", "_task", "_watches")

    def __init__(
        self, begin: Callable[[Watch, asyncio.AbstractEventLoop], None], watches: list[Watch]
    ) -> None:
        self._begin = begin
        self._watches = watches
        self._error: Exception | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    def interrupt(self, error: Exception) -> None:
        """End the block with *error*; whoever is in it can raise it without our help."""
        if self._error is None and self._task not in (None, asyncio.current_task()):
            self._error = error
            self._task.cancel()

    def __enter__(self) -> Watch:
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task(loop)
        assert task is not None
        self._cancelling = task.cancelling()
        self._begin(self, loop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watches.remove(self)
        if self._error is not None and self._task is not None:
            ours = self._task.uncancel() <= self._cancelling
            if ours and isinstance(raised, asyncio.CancelledError):
                raise self._error from raised
        self._task = None
