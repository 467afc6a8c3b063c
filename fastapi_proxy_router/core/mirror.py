"""A share of a pool's requests, copied to another pool whose answers nobody gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..exceptions import ConfigurationError
from ..sources import Chance
from .checks import mistaken_share
from .limits import mistaken_count, mistaken_seconds

if TYPE_CHECKING:
    from .pool import UpstreamPool

__all__ = ["Mirror"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Copies of requests for a shadow pool, which the client never hears of.

    A request is copied once its own upstream has answered it, and sent in the background. What the
    shadow pool answers is read and dropped; that it is slow, fails or is not there changes nothing
    for anybody. WebSockets are not copied.

    Attributes:
        pool: The shadow pool. It has its own limits, retries and health.
        share: The share of requests that are copied (Traefik's ``percent``).
        body_limit: The largest body that is copied, in bytes. A request with a larger one, or with
            one that has not come in full when its answer is here, is not copied.
        max_concurrent: Copies that may be on their way; more requests are not copied then.
        timeout: Seconds after which a copy is given up, also one whose answer has no end.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    pool: UpstreamPool
    share: float = 1.0
    body_limit: int = 64 * 1024
    max_concurrent: int = 100
    timeout: float = 30.0

    def __post_init__(self) -> None:
        mistakes = mistaken_share("share", self.share)
        # Not by its type, which needs this one.
        if not hasattr(self.pool, "snapshot"):
            mistakes.append(f"pool must be an UpstreamPool, not {self.pool!r}")
        mistakes += mistaken_count("body_limit", self.body_limit, lowest=0)
        mistakes += mistaken_count("max_concurrent", self.max_concurrent)
        mistakes += mistaken_seconds("timeout", self.timeout)
        if mistakes:
            raise ConfigurationError([f"mirror: {mistake}" for mistake in mistakes])

    def wants(self, chance: Chance) -> bool:
        """Decide whether a request is copied."""
        return self.share == 1 or chance.random() < self.share
