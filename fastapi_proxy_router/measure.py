"""How long a request's body is and may be, and what is kept of it for another try."""

from __future__ import annotations

from typing import Final

from .exceptions import RequestRefused

__all__ = ["NO_BODY", "Measure", "too_large"]


def too_large(limit: int) -> RequestRefused:
    """Return the refusal of a body of more than *limit* bytes (RFC 9110, 15.5.14)."""
    return RequestRefused(f"The body has more than {limit} bytes", status=413)


class Measure:
    """Counts the bytes of one body as they come.

    Args:
        declared: Its declared length, if it has one.

    Attributes:
        declared: The same.
        taken: How many bytes have come.
        replay: They themselves, if they are kept.
    """

    __slots__ = ("_keeps", "_limit", "declared", "replay", "taken")

    def __init__(self, declared: int | None) -> None:
        self.declared = declared
        self.taken = 0
        self.replay: bytearray | None = None
        self._keeps = 0
        self._limit: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all that was declared has come; never, if nothing was."""
        return self.taken == self.declared

    def restrict(self, limit: int | None, kept: bytes | None) -> None:
        """Allow no more than *limit* bytes from now on.

        Args:
            limit: How many; ``None`` is any number.
            kept: The whole body, if it is here.

        Raises:
            RequestRefused: More are declared, or were kept or taken already.
        """
        self._limit = limit
        if limit is not None and max(self.declared or 0, self.taken, len(kept or b"")) > limit:
            raise too_large(limit)

    def keep(self, limit: int) -> None:
        """Keep what will come, unless it is more than *limit* bytes."""
        if (self.declared or 0) <= limit:
            self.replay, self._keeps = bytearray(), limit

    def take(self, chunk: bytes) -> None:
        """Count *chunk*, and keep it if that is wanted.

        Raises:
            RequestRefused: It is too much.
        """
        self.taken += len(chunk)
        if self._limit is not None and self.taken > self._limit:
            raise too_large(self._limit)
        if self.declared is not None and self.taken > self.declared:
            raise _another_length()
        if self.replay is not None:
            self.replay += chunk
            if self.taken > self._keeps:
                self.replay = None

    def end(self) -> None:
        """Tell that no more will come.

        Raises:
            RequestRefused: Some are missing.
        """
        if self.declared is not None and self.taken < self.declared:
            raise _another_length()


#: Of most requests; nothing is counted.
NO_BODY: Final = Measure(None)


def _another_length() -> RequestRefused:
    return RequestRefused("The body does not have its declared length")
