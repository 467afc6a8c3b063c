"""What a pool may be told besides its upstreams and how it forwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from inspect import iscoroutinefunction

from ..exceptions import ConfigurationError
from ..sources import CHANCE, CLOCK, Chance, Clock
from .balancer import Balancer
from .balancers import balancer_named
from .binding import Affinity
from .checks import Ejection, HealthCheck
from .discovery import Resolve
from .drawing import TwoChoices
from .limits import Queue, mistaken_count
from .members import StateChange
from .mirror import Mirror
from .policy import ForwardPolicy, PolicyOptions, policy_from
from .retry import Retry

__all__ = ["PoolOptions", "Pooling", "configured", "pooling_from"]


class PoolOptions(PolicyOptions, total=False):
    """The keyword arguments of a pool.

    Attributes:
        balancer: Picks one of the available upstreams: its name, such as ``"least_requests"``, or
            any callable. Default: ``TwoChoices()``.
        health: How its upstreams are probed: ``HealthCheck``. Default: they are not.
        ejection: When upstreams that fail requests are left alone for a while: ``Ejection``.
            Default: after five failures in a row or half of all, and never more than half of the
            pool; ``None`` is never.
        resolve: How the names of its upstreams are looked up, so that every address is an upstream:
            ``Resolve``. Default: a name is one upstream, looked up for every new connection.
        retry: What is tried again on another upstream: ``Retry``. Default: what could not be sent,
            and what is idempotent, twice.
        affinity: How clients are bound to upstreams: ``CookieAffinity`` or ``HeaderAffinity``.
            Default: they are not.
        panic: What happens when no upstream is healthy. ``True``: all are used, because what is
            known may be wrong, and an attempt can only do better than a certain error (the rule of
            nginx, Envoy and YARP). ``False``: 503 at once. Default: ``True``.
        max_concurrent: The most exchanges of the pool at the same time. Default: no limit.
        queue: Who may wait while all upstreams are at their limit: ``Queue``. Default: nobody;
            503 at once.
        mirror: Where a share of its requests is copied to: ``Mirror``. Default: nowhere.
        on_state_change: Is called with the upstream, its state before, and its state now.
        clock: What time it is, in seconds; for tests.
        chance: The source of random numbers; for tests.
    """

    balancer: str | Balancer
    health: HealthCheck | None
    ejection: Ejection | None
    resolve: Resolve | None
    retry: Retry
    affinity: Affinity | None
    panic: bool
    max_concurrent: int | None
    queue: Queue | None
    mirror: Mirror | None
    on_state_change: StateChange | None
    clock: Clock
    chance: Chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """What ``PoolOptions`` became."""

    balancer: Balancer = field(default_factory=TwoChoices)
    health: HealthCheck | None = None
    ejection: Ejection | None = field(default_factory=Ejection)
    resolve: Resolve | None = None
    retry: Retry = field(default_factory=Retry)
    affinity: Affinity | None = None
    panic: bool = True
    max_concurrent: int | None = None
    queue: Queue | None = None
    mirror: Mirror | None = None
    on_state_change: Callable[..., None] | None = None
    clock: Clock = CLOCK
    chance: Chance = CHANCE


_KINDS: dict[str, tuple[type, ...]] = {
    "health": (HealthCheck, type(None)),
    "ejection": (Ejection, type(None)),
    "resolve": (Resolve, type(None)),
    "retry": (Retry,),
    "affinity": (Affinity, type(None)),
    "panic": (bool,),
    "queue": (Queue, type(None)),
    "mirror": (Mirror, type(None)),
    "chance": (Chance,),
}


def pooling_from(options: PoolOptions) -> Pooling:
    """Build what the pool needs of *options*, without those that say how it forwards.

    Raises:
        ConfigurationError: An option is unknown or its value cannot be used.
    """
    policy = PolicyOptions.__annotations__
    values: dict[str, object] = {
        name: value for name, value in options.items() if name not in policy
    }
    known = {each.name for each in fields(Pooling)}
    mistakes = [
        f"unknown option {name!r}; there are {', '.join(sorted({*known, *policy}))}"
        for name in values
        if name not in known
    ]
    for name, kinds in _KINDS.items():
        if name in values and not isinstance(values[name], kinds):
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            mistakes.append(f"{name} must be {wanted}, not {values[name]!r}")
    mistakes += [
        f"{name} must be callable, not {values[name]!r}"
        for name, optional in (("on_state_change", True), ("clock", False))
        if name in values and not (callable(values[name]) or (optional and values[name] is None))
    ]
    mistakes += [
        f"{name} must not be async: it is called in the middle of things, and nobody waits for it"
        for name in ("balancer", "on_state_change")
        if iscoroutinefunction(values.get(name))
    ]
    if values.get("max_concurrent") is not None:
        mistakes += mistaken_count("max_concurrent", values["max_concurrent"])
    try:
        if "balancer" in values:
            values["balancer"] = _balancer(options)
    except ConfigurationError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(mistakes)
    return Pooling(**values)  # type: ignore[arg-type]


def configured(options: PoolOptions, mistakes: list[str]) -> tuple[ForwardPolicy, Pooling]:
    """Return what *options* say, appending to *mistakes* what cannot be used."""
    policy, pooling = ForwardPolicy(), Pooling()
    known = PolicyOptions.__annotations__
    try:
        policy = policy_from(
            {name: value for name, value in options.items() if name in known}  # type: ignore[arg-type]
        )
    except ConfigurationError as error:
        mistakes += error.mistakes
    try:
        pooling = pooling_from(options)
    except ConfigurationError as error:
        mistakes += error.mistakes
    return policy, pooling


def _balancer(options: PoolOptions) -> Balancer:
    """Return the balancer that is given, or the one that has the given name."""
    balancer = options["balancer"]
    if isinstance(balancer, str):
        chance, clock = options.get("chance", CHANCE), options.get("clock", CLOCK)
        return balancer_named(balancer, chance=chance, clock=clock)
    if isinstance(balancer, type):
        name = balancer.__name__
        raise ConfigurationError([f"balancer is the class {name}; give one of it: {name}(...)"])
    if not callable(balancer):
        raise ConfigurationError([f"balancer must be a name or callable, not {balancer!r}"])
    return balancer
