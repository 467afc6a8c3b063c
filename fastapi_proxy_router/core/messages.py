"""WebSocket messages, and what a hook may do with one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Message", "MessageHook", "Reply"]

#: Text is ``str``, binary is ``bytes``.
Message = str | bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A message hook's answer to the sender; the message it was given goes no further.

    Attributes:
        message: The answer: text, bytes, or anything pydantic can serialise as JSON.
    """

    message: Any


#: A hook that was compiled: it returns the message to pass on, an answer, or ``None`` to drop it.
MessageHook = Callable[[Message], Awaitable[Message | Reply | None]]
