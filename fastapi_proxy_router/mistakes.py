"""Gathers mistakes, so that all of them are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .exceptions import ConfigurationError

__all__ = ["Mistakes"]


class Mistakes:
    """What is wrong with something that is being made.

    Args:
        label: What it is; each mistake is told of it.

    Attributes:
        found: What is wrong.
    """

    def __init__(self, label: str = "") -> None:
        self._prefix = f"{label}: " if label else ""
        self.found: list[str] = []

    @contextmanager
    def noted(self, kind: type[Exception] = ValueError) -> Iterator[None]:
        """Go on after what is wrong in the block."""
        try:
            yield
        except ConfigurationError as error:
            self.found += error.mistakes
        except kind as error:
            self.found.append(str(error))

    def report(self) -> None:
        """Go on only if nothing is wrong.

        Raises:
            ConfigurationError: Something is.
        """
        if self.found:
            raise ConfigurationError([self._prefix + mistake for mistake in self.found])
