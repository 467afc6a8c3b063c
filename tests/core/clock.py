"""A clock that a test moves."""

from __future__ import annotations


class FakeClock:
    """Returns the time that it was set to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds
