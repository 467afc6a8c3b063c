"""How much an upstream or a pool may be given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

from ..exceptions import ConfigurationError

__all__ = [
    "Meter",
    "Queue",
    "RateLimit",
    "mistaken_count",
    "mistaken_flags",
    "mistaken_number",
    "mistaken_seconds",
]


def mistaken_number(name: str, value: object, *, highest: float) -> list[str]:
    """Return the mistake in *value* if it is no number from 0 to *highest*."""
    usable = _is_number(value) and 0 <= value <= highest
    return [] if usable else [f"{name} must be a number from 0 to {highest}, not {value!r}"]


def mistaken_seconds(name: str, value: object, *, or_none: bool = False) -> list[str]:
    """Return the mistake in *value* if it is no number of seconds above 0, or 0 for none of it."""
    if _is_number(value) and (0 < value < math.inf or (or_none and value == 0)):
        return []
    lowest = "from 0" if or_none else "above 0"
    return [f"{name} must be a number of seconds {lowest}, not {value!r}"]


def mistaken_flags(**values: object) -> list[str]:
    """Return the mistakes in *values* that are neither true nor false: ``"false"`` is true."""
    return [
        f"{name} must be True or False, not {value!r}"
        for name, value in values.items()
        if not isinstance(value, bool)
    ]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def mistaken_count(name: str, value: object, *, lowest: int = 1) -> list[str]:
    """Return the mistake in *value* if it is no whole number from *lowest*."""
    usable = type(value) is int and value >= lowest
    return [] if usable else [f"{name} must be a whole number from {lowest}, not {value!r}"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many requests an upstream takes in a window of time, which starts with the first.

    Attributes:
        requests: The most of them.
        seconds: The length of the window.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    requests: int
    seconds: float = 1.0

    def __post_init__(self) -> None:
        mistakes = mistaken_count("rate limit: requests", self.requests)
        mistakes += mistaken_seconds("rate limit: seconds", self.seconds)
        if mistakes:
            raise ConfigurationError(mistakes)


class Meter:
    """Counts requests against a ``RateLimit``."""

    __slots__ = ("_count", "_ends", "_limit")

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._ends = -math.inf
        self._count = 0

    def add(self, now: float) -> None:
        """Count one more request."""
        if now >= self._ends:
            self._ends = now + self._limit.seconds
            self._count = 0
        self._count += 1

    def wait(self, now: float) -> float:
        """Return the seconds until another one is allowed, 0 if it is."""
        if now >= self._ends or self._count < self._limit.requests:
            return 0.0
        return self._ends - now


@dataclass(frozen=True, slots=True)
class Queue:
    """Requests that wait because every upstream of their pool has all that it may take.

    Attributes:
        size: How many may wait; more are refused at once with 503.
        timeout: Seconds after which one that waits is refused.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    size: int = 100
    timeout: float = 5.0

    def __post_init__(self) -> None:
        mistakes = mistaken_count("queue: size", self.size)
        mistakes += mistaken_seconds("queue: timeout", self.timeout)
        if mistakes:
            raise ConfigurationError(mistakes)
