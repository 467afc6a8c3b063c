"""The clock and the source of chance, unless a decision is given others.

The decisions in ``core/`` take both as arguments, so that a test can run an hour in a moment.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable
from typing import Final

__all__ = ["CHANCE", "CLOCK", "Chance", "Clock", "new_secret"]

#: Returns seconds since any moment; it never goes back.
Clock = Callable[[], float]

#: A source of random numbers.
Chance = random.Random

CLOCK: Final[Clock] = time.monotonic
CHANCE: Final = Chance()

if hasattr(os, "register_at_fork"):
    # Else the workers of a server that loads the application first would all choose alike.
    os.register_at_fork(after_in_child=CHANCE.seed)


def new_secret() -> bytes:
    """Return 32 bytes that nobody can guess."""
    return secrets.token_bytes(32)
