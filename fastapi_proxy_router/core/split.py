"""Traffic split between pools: a share for each, and rules for those who ask for one.

Rules:

* A rule decides before everything else. Who asks for a pool gets that pool or its 503, unless the
  rule says otherwise: a test of a new version that is down must not pass on the old one.
* Then a client stays with the pool that it is bound to by the pool's own affinity.
* Then the weights decide, among the pools that have a healthy upstream (Traefik's weighted service
  leaves the others out likewise). If none has, among all, and what happens is up to the pool.
* A pool that has healthy upstreams, all at their limit, is not left out: a limit that pushes the
  rest of the load to the canary protects nobody.
"""

# No "from __future__ import annotations" here: FastAPI reads the annotations of __call__.

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from starlette.requests import HTTPConnection

from ..exceptions import ConfigurationError
from ..log import reported
from ..sources import CHANCE, Chance
from .choice import asked
from .cookies import cookie_values
from .headers import field_values, is_value
from .limits import mistaken_count
from .names import is_name
from .pool import UpstreamPool
from .upstream import Upstream

__all__ = ["Canary", "Rule", "Split", "contested"]

#: Returns the pool for a request or WebSocket, or ``None`` if it has no opinion.
Rule = Callable[[HTTPConnection], UpstreamPool | None]


@dataclass(frozen=True, slots=True, eq=False)
class Canary:
    """Send to a pool what has a header or a cookie.

    Both reach the upstream like any other. Anybody can send them.

    Attributes:
        pool: The pool.
        header: The name of a header, or
        cookie: the name of a cookie.
        value: The value that it must have, in the same case. Default: any.
        fallback: Let the weights decide while the pool has no healthy upstream. Default: 503, so
            that nobody takes the answer of another pool for that of this one.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    pool: UpstreamPool
    _: KW_ONLY
    header: str | None = None
    cookie: str | None = None
    value: str | None = None
    fallback: bool = False

    def __post_init__(self) -> None:
        mistakes = []
        if not isinstance(self.pool, UpstreamPool):
            mistakes.append(f"pool must be an UpstreamPool, not {self.pool!r}")
        if (self.header is None) == (self.cookie is None):
            mistakes.append("give either a header or a cookie")
        mistakes += [
            f"{kind} must be a name, which {name!r} is not"
            for kind, name in (("header", self.header), ("cookie", self.cookie))
            if name is not None and not (name.isascii() and is_name(name.encode()))
        ]
        if self.value is not None and not is_value(self.value.encode("utf-8", "replace")):
            mistakes.append(f"value {self.value!r} cannot be sent")
        if mistakes:
            raise ConfigurationError([f"canary: {mistake}" for mistake in mistakes])

    def __call__(self, connection: HTTPConnection) -> UpstreamPool | None:
        """Return the pool if *connection* has the header or the cookie."""
        headers = connection.scope["headers"]
        if self.header is not None:
            found = field_values(headers, self.header.lower().encode())
        else:
            found = cookie_values(headers, (self.cookie or "").encode())
        if self.value is None:
            return self.pool if found else None
        wanted = self.value.encode()
        return self.pool if any(value.strip(b" \t") == wanted for value in found) else None


class Split:
    """Several pools that share traffic by weight.

    Like a pool it is a FastAPI dependency: ``Depends(split)`` injects the ``Upstream`` that one of
    its pools has picked. How it is forwarded, retried and limited is up to that pool.

    Args:
        pools: The pools and their weights, whole numbers from 0, of which not all are 0. A pool of
            weight 0 gets what rules send to it and keeps the clients that are bound to it.
        rules: Are asked in order before the weights; the first that returns a pool decides. Each
            is a ``Canary`` or your own function. The pool of a ``Canary`` need not have a weight,
            that of a function has to be among *pools*.
        name: What logs and ``repr`` call the split.
        chance: The source of random numbers; for tests.

    Attributes:
        pools: All its pools.
        policy: None of its own.

    Raises:
        ConfigurationError: The arguments cannot work; every mistake is reported.
    """

    policy = None

    def __init__(
        self,
        pools: Mapping[UpstreamPool, int],
        *,
        rules: Sequence[Rule] = (),
        name: str = "",
        chance: Chance = CHANCE,
    ) -> None:
        if not isinstance(pools, Mapping):
            raise ConfigurationError([f"a split is of pools and their weights, not {pools!r}"])
        given: Sequence[object] = [*pools, *rules]
        mistakes = [
            f"a split is between pools, not {pool!r}"
            for pool in given[: len(pools)]
            if not isinstance(pool, UpstreamPool)
        ]
        mistakes += [
            f"rule {rule!r} cannot be called" for rule in given[len(pools) :] if not callable(rule)
        ]
        self.name = name
        self._rules = tuple(rules)
        self._chance = chance
        self._weights: dict[UpstreamPool, int] = {}
        canaries = [rule.pool for rule in rules if isinstance(rule, Canary)]
        mistakes += self._weigh({**pools, **{pool: pools.get(pool, 0) for pool in canaries}})
        if mistakes:
            raise ConfigurationError(mistakes)
        self.pools: tuple[UpstreamPool, ...] = tuple(self._weights)

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """The upstreams of all pools."""
        return tuple(upstream for pool in self.pools for upstream in pool.upstreams)

    def reweight(self, weights: Mapping[UpstreamPool, int]) -> None:
        """Change weights at run time, from the next request on; those not given stay.

        Raises:
            ConfigurationError: A pool is not in the split, a weight cannot be used, or none would
                be above 0. Nothing has changed then.
        """
        mistakes = [f"{pool!r} is not in {self!r}" for pool in weights if pool not in self._weights]
        mistakes += self._weigh({**self._weights, **weights}, mistakes)
        if mistakes:
            raise ConfigurationError(mistakes)

    def _weigh(self, weights: Mapping[UpstreamPool, int], earlier: Sequence[str] = ()) -> list[str]:
        """Take *weights* unless there are mistakes; return those that are in them."""
        mistakes = [
            mistake
            for pool, weight in weights.items()
            for mistake in mistaken_count(f"weight of {pool!r}", weight, lowest=0)
        ]
        if not mistakes and not any(weights.values()):
            mistakes.append("a split needs a pool with a weight above 0")
        if not mistakes and not earlier:
            self._weights = dict(weights)
        return mistakes

    def pool_for(
        self, connection: HTTPConnection, *, without: Collection[Upstream] = ()
    ) -> UpstreamPool:
        """Return the pool for *connection*: by a rule, by affinity, or by weight.

        Args:
            connection: The request or WebSocket.
            without: Upstreams that were tried for it.
        """
        pool = self._ruled(connection, without) or self._bound(connection, without)
        return pool or self._drawn(without)

    def pick(self, connection: HTTPConnection, *, without: Collection[Upstream] = ()) -> Upstream:
        """Return what the pool for *connection* picks.

        Args:
            connection: The request or WebSocket.
            without: Upstreams that were tried for it.

        Raises:
            NoUpstreamAvailable: The pool has none to pick.
        """
        return self.pool_for(connection, without=without).pick(connection, without=without)

    def choose(self, connection: HTTPConnection) -> Upstream:
        """Pick, and log it if there is nothing to pick from; raises what ``pick`` raises."""
        with reported(connection.scope):
            return self.pick(connection)

    async def __call__(self, connection: HTTPConnection) -> Upstream:
        """Pick, as a FastAPI dependency. A coroutine, so that FastAPI runs it without a thread.

        On a router's own route it picks nothing if the router wants another pool.
        """
        # Nothing is for the router's own dependencies alone.
        return asked(self, connection)  # type: ignore[return-value]

    def _ruled(
        self, connection: HTTPConnection, without: Collection[Upstream]
    ) -> UpstreamPool | None:
        for rule in self._rules:
            pool = rule(connection)
            if pool is None:
                continue
            if pool not in self._weights:
                raise ConfigurationError([f"rule {rule!r} chose {pool!r}, not of {self!r}"])
            falls_back = isinstance(rule, Canary) and rule.fallback
            return pool if not falls_back or _is_well(pool, without) else None
        return None

    def _bound(
        self, connection: HTTPConnection, without: Collection[Upstream]
    ) -> UpstreamPool | None:
        for pool in self.pools:
            affinity = pool.affinity
            upstream = affinity.bound(connection, pool.upstreams) if affinity else None
            if affinity is not None and upstream is not None:
                is_well = _is_well(pool, without) or _can_serve(upstream, without)
                if is_well or affinity.failure == "refuse":
                    return pool
        return None

    def _drawn(self, without: Collection[Upstream]) -> UpstreamPool:
        weighted = [pool for pool, weight in self._weights.items() if weight]
        pools = [pool for pool in weighted if _is_well(pool, without)] or weighted
        if len(pools) == 1:
            return pools[0]
        return self._chance.choices(pools, [self._weights[pool] for pool in pools])[0]

    def __repr__(self) -> str:
        shares = ", ".join(f"{weight} {pool.name!r}" for pool, weight in self._weights.items())
        return f"<Split {self.name!r} {shares}>"


def contested(pools: Mapping[str, UpstreamPool | Split]) -> list[str]:
    """Return the mistakes of pools, by prefix, that take each other's clients by a cookie."""
    found: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for prefix, entry in pools.items():
        for pool in entry.pools if isinstance(entry, Split) else (entry,):
            if pool.affinity is not None and pool.affinity.place[0] == "cookie":
                keys = found.setdefault(pool.affinity.place, {}).setdefault(prefix, set())
                keys |= {pool.affinity.key_of(upstream) for upstream in pool.upstreams}
    return [
        f"the pools of {' and '.join(repr(prefix or '/') for prefix in keys)} take each other's "
        f"clients with the cookie {place[1]!r}; give each its own name or path"
        for place, keys in found.items()
        if any(each != next(iter(keys.values())) for each in keys.values())
    ]


def _is_well(pool: UpstreamPool, without: Collection[Upstream]) -> bool:
    """Tell whether *pool* has an upstream to be picked that is not used for want of a better."""
    # Nobody else asks a pool that gets nothing whether the time of an ejection is up.
    pool.available()
    return any(one.weight and _can_serve(one, without) for one in pool.upstreams)


def _can_serve(upstream: Upstream, without: Collection[Upstream]) -> bool:
    health = upstream.health
    return health.is_usable and not health.on_trial and upstream not in without
