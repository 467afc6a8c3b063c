"""The balancers by the names that settings have for them."""

from __future__ import annotations

from collections.abc import Callable

from ..exceptions import ConfigurationError
from ..sources import CHANCE, CLOCK, Chance, Clock
from .balancer import Balancer, FirstAvailable, LeastRequests, RoundRobin
from .drawing import LeastLatency, Random, TwoChoices
from .hashing import HASH_KEYS, ConsistentHash

__all__ = ["BALANCER_NAMES", "balancer_named"]

_BALANCERS: dict[str, Callable[[Chance, Clock], Balancer]] = {
    "two_choices": lambda chance, clock: TwoChoices(chance=chance),
    "round_robin": lambda chance, clock: RoundRobin(),
    "random": lambda chance, clock: Random(chance=chance),
    "least_requests": lambda chance, clock: LeastRequests(),
    "least_latency": lambda chance, clock: LeastLatency(chance=chance, clock=clock),
    "first_available": lambda chance, clock: FirstAvailable(),
}
_HASH = "hash:"
#: Every name, as messages show it.
BALANCER_NAMES = (*_BALANCERS, *(f"{_HASH}{key}" for key in HASH_KEYS))


def balancer_named(name: str, *, chance: Chance = CHANCE, clock: Clock = CLOCK) -> Balancer:
    """Return a new balancer, as each pool needs one of its own.

    Args:
        name: ``"two_choices"``, ``"round_robin"``, ``"random"``, ``"least_requests"``,
            ``"least_latency"``, ``"first_available"``, or ``"hash:"`` and what ``ConsistentHash``
            is on, as in ``"hash:client"`` and ``"hash:header:x-user"``.
        chance: The pool's source of random numbers.
        clock: The pool's clock.

    Raises:
        ConfigurationError: There is no such balancer; the message has all names.
    """
    if name in _BALANCERS:
        return _BALANCERS[name](chance, clock)
    if name.startswith(_HASH):
        return ConsistentHash(name.removeprefix(_HASH), fallback=TwoChoices(chance=chance))
    raise ConfigurationError(
        [f"balancer {name!r} is not known; there are {', '.join(BALANCER_NAMES)}"]
    )
