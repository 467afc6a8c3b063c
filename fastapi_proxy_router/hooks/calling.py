"""Calls hooks, for as long as they may take."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any, Final

import anyio.to_thread

from .signature import signature_of

__all__ = ["HOOK_TIMEOUT", "Hook", "name_of"]

#: Seconds that a hook may take, by default.
HOOK_TIMEOUT: Final = 30.0


def name_of(hook: object) -> str:
    """Return how messages call a hook."""
    return str(getattr(hook, "__qualname__", None) or type(hook).__qualname__)


class Hook:
    """A function of a user's, and what it asks for.

    Args:
        function: The function; one that is not async runs in a thread, as FastAPI's do.
        kinds: What this library can fill in.
        timeout: Seconds that it may take.
        markers: What says at a parameter that it is filled in otherwise.

    Attributes:
        name: How messages call it.
        signature: What it asks for.

    Raises:
        ValueError: Its signature cannot be used.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        kinds: Set[type],
        timeout: float | None,
        markers: tuple[type, ...] = (),
    ) -> None:
        self.name = name_of(function)
        self.signature = signature_of(function, kinds, markers)
        self._function = function
        self._timeout = timeout
        call = getattr(function, "__call__", None)  # noqa: B004 - the method of an object
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)

    async def __call__(self, supply: Mapping[type, Any], values: Mapping[str, Any]) -> Any:
        """Call it.

        Args:
            supply: What it may ask for.
            values: Its other arguments.

        Raises:
            RuntimeError: It takes too long.
            Exception: What it raises.
        """
        arguments = {
            name: next((supply[kind] for kind in asked.kinds if kind in supply), None)
            for name, asked in self.signature.asked.items()
        } | dict(values)
        try:
            async with asyncio.timeout(self._timeout) as clock:
                if self._is_async:
                    return await self._function(**arguments)
                call = partial(self._function, **arguments)
                result = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
                # A function may return a coroutine without being a coroutine function.
                return await result if inspect.isawaitable(result) else result
        except TimeoutError:
            if clock.expired():
                raise RuntimeError(f"hook {self.name} took longer than {self._timeout} s") from None
            raise
