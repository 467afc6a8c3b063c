"""Messages out of frames, kept until they are taken."""

from __future__ import annotations

from collections import deque
from typing import Final

from websockets.frames import Opcode

from ..core.messages import Message

__all__ = ["OVERHEAD", "BytesLike", "Inbox"]

BytesLike = bytes | bytearray | memoryview

#: What a message costs besides its bytes: empty ones count as well.
OVERHEAD: Final = 64


class Inbox:
    """The messages that have come and were not taken.

    Attributes:
        messages: They, the first that came first.
        size: Their bytes, and what else they cost.
    """

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()
        self._partial: bytearray | None = None
        self._is_text = False
        self.size = 0

    @property
    def is_partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._partial is not None

    def put(self, opcode: Opcode, data: BytesLike, *, fin: bool) -> None:
        """Add a frame of data; control frames are no messages.

        Raises:
            UnicodeDecodeError: A text is not UTF-8.
        """
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._is_text = opcode is Opcode.TEXT
            if fin:
                self._add(data)
            else:
                self._partial = bytearray(data)
        elif opcode is Opcode.CONT and self._partial is not None:
            self._partial += data
            if fin:
                message, self._partial = self._partial, None
                self._add(message)

    def _add(self, data: BytesLike) -> None:
        self.messages.append(str(data, "utf-8") if self._is_text else bytes(data))
        self.size += len(data) + OVERHEAD

    def take(self) -> Message:
        """Return the first message."""
        message = self.messages.popleft()
        self.size = self.size - len(message) - OVERHEAD if self.messages else 0
        return message
