"""Writing together what is written in one round of the event loop.

A process that sleeps is woken by the first write, and by none that follow at once: for an upstream
on the same machine that is a good part of what a small message costs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

__all__ = ["Cork", "current_cork"]


class Cork:
    """Holds writes back until the end of the event loop's round.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._held: list[Callable[[], None]] = []

    def hold(self, write: Callable[[], None]) -> None:
        """Call *write* at the end of the round."""
        if not self._held:
            self.loop.call_soon(self._release)
        self._held.append(write)

    def _release(self) -> None:
        held, self._held = self._held, []
        for write in held:
            try:
                write()
            except Exception as error:  # noqa: BLE001 - the others' messages must not stay here
                self.loop.call_exception_handler({"message": "write failed", "exception": error})


class _Local(threading.local):
    cork: Cork | None = None


_local = _Local()


def current_cork() -> Cork:
    """Return the one cork of the running event loop."""
    loop = asyncio.get_running_loop()
    if _local.cork is None or _local.cork.loop is not loop:
        _local.cork = Cork(loop)
    return _local.cork
