"""Bodies that pass through functions of a user's, chunk by chunk.

Whatever such a function does, a body that broke off is never made to look complete, and its
mistakes are nobody else's: they are told apart from those of the client and of the upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from .core.changes import Transform
from .log import logger

__all__ = ["TransformFailed", "Transformed", "unwrapped"]

#: Seconds for a function to let go of what it holds, once it is told to.
_CLOSING = 5.0


class TransformFailed(Exception):
    """A function has raised *error*. It stays in this package: a user sees *error* itself.

    Anything else that it might raise, such as an error of httpx or ``TimeoutError``, would be taken
    for one of the upstream's on its way.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def unwrapped(error: Exception) -> Exception:
    """Return what a function has raised, or *error* if it is none of that."""
    return error.error if isinstance(error, TransformFailed) else error


class Transformed:
    """What is left of a body behind some functions. Iterate it, and close it whatever happens.

    Args:
        chunks: The body.
        transforms: The functions, in order. They are called when the first chunk is wanted.
        idle: Seconds for them to come up with the next chunk, without those that *chunks* takes.
            Default: they may take as long as they like.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        transforms: Sequence[Transform],
        idle: float | None = None,
    ) -> None:
        self._chunks = chunks
        self._transforms = transforms
        self._idle = idle
        self._clock: asyncio.Timeout | None = None
        self._inputs: list[_Input] = []
        self._output: AsyncIterator[bytes] | None = None
        self._stages: list[Any] = []
        self._error: Exception | None = None

    @property
    def has_read_all(self) -> bool:
        """Whether the functions have read the body to its end."""
        return bool(self._inputs) and self._inputs[0].ended

    @property
    def failure(self) -> Exception | None:
        """What broke the body off, at the earliest place that is known."""
        for index, one in enumerate(self._inputs):
            if one.error is not None:
                return TransformFailed(one.error) if index else one.error
        return None if self._error is None else TransformFailed(self._error)

    def __aiter__(self) -> Transformed:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk that is not empty.

        Raises:
            TransformFailed: A function has failed.
            Exception: What *chunks* has raised, whatever the functions make of it.
        """
        chunk: bytes | None = None
        try:
            output = self._output or self._begun()
            while not chunk:
                chunk = _as_bytes(await self._next_of(output))
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001 - it is wrapped and goes on
            self._error = error
        if any(one.cut_off for one in self._inputs):
            self._refuse_the_rest()
        if (failure := self.failure) is not None:
            raise failure
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    def _refuse_the_rest(self) -> None:
        """Let nobody take for the end that a function goes on after reading was cancelled.

        Raises:
            asyncio.CancelledError: It was not the function that has cancelled it.
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        lost = "a transform has cancelled the reading of a body, of which the rest is lost"
        self._error = self._error or RuntimeError(lost)

    def _begun(self) -> AsyncIterator[bytes]:
        output: Any = self._chunks
        for transform in self._transforms:
            source = _Input(output, None if self._inputs else self)
            self._inputs.append(source)
            output = transform(source)
            self._stages.append(output)
            if not hasattr(output, "__anext__"):
                name = getattr(transform, "__qualname__", repr(transform))
                raise TypeError(f"{name} must be an async generator function")
        self._output = output
        return self._output

    async def _next_of(self, output: AsyncIterator[bytes]) -> bytes:
        if self._idle is None:
            return await anext(output)
        try:
            async with asyncio.timeout(self._idle) as clock:
                self._clock = clock
                chunk = await anext(output)
        except TimeoutError:
            if not clock.expired():
                raise
        finally:
            self._clock = None
        if clock.expired():
            raise TimeoutError(f"a transform has yielded nothing for {self._idle} s")
        return chunk

    def set_clock(self, *, running: bool) -> None:
        """Stop the clock while the body itself is waited for, and start it anew after that."""
        clock, idle = self._clock, self._idle
        if clock is not None and idle is not None and not clock.expired():
            now = asyncio.get_running_loop().time()
            clock.reschedule(now + idle if running else None)

    async def aclose(self) -> None:
        """Close the functions, the last one first, and then the body. Idempotent."""
        stages, self._stages = self._stages, []
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_close, self._chunks)
            for stage in stages:
                stack.push_async_callback(_close, stage)


class _Input:
    """What a function reads. It remembers how that ended, whatever the function makes of it."""

    __slots__ = ("_chunks", "_clocked", "cut_off", "ended", "error")

    def __init__(self, chunks: AsyncIterator[bytes], clocked: Transformed | None) -> None:
        self._chunks = chunks
        self._clocked = clocked
        self.ended = False
        self.error: Exception | None = None
        self.cut_off = False

    def __aiter__(self) -> _Input:
        return self

    async def __anext__(self) -> bytes:
        if self._clocked is not None:
            self._clocked.set_clock(running=False)
        try:
            return _as_bytes(await anext(self._chunks))
        except StopAsyncIteration:
            self.ended = True
            raise
        except Exception as error:
            self.error = error
            raise
        except BaseException:
            # What it reads from has ended with that, and would say next that there is no more.
            self.cut_off = True
            raise
        finally:
            if self._clocked is not None:
                self._clocked.set_clock(running=True)


def _as_bytes(chunk: object) -> bytes:
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, (bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a transform must yield bytes, not {type(chunk).__name__}")


async def _close(stage: Any) -> None:
    """Close what a function has returned; the exchange is over, so what fails now is only told."""
    close = getattr(stage, "aclose", None)
    try:
        if asyncio.iscoroutine(stage):
            stage.close()
        elif close is not None:
            async with asyncio.timeout(_CLOSING):
                await close()
    except Exception:  # noqa: BLE001 - it is in the log
        logger.exception("a transform of a body failed when it was closed")
