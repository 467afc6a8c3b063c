"""What may be tried again, and how often."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..exceptions import ConfigurationError, GatewayError, GatewayTimeout
from ..sources import Chance
from .checks import mistaken_statuses
from .limits import mistaken_count, mistaken_flags, mistaken_number, mistaken_seconds
from .names import is_name
from .window import Window

if TYPE_CHECKING:
    from .names import Header

__all__ = ["IDEMPOTENT", "Budget", "Retry"]

#: Methods whose requests may be executed twice (RFC 9110, 9.2.2; RFC 4918 and its followers).
IDEMPOTENT = frozenset(
    "GET HEAD OPTIONS PUT DELETE QUERY PROPFIND REPORT SEARCH "
    "MKCOL COPY MOVE UNLOCK PROPPATCH ACL".split()
)


#: How far the budget looks back (Finagle's).
_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What a pool tries again on another of its upstreams.

    A request of which nothing was sent is tried again whatever its method. One that may have
    reached an upstream is tried again only if its method is idempotent (RFC 9110, 9.2.2), or it is
    one of *methods*, or it has an ``Idempotency-Key`` and these are believed. Nothing is tried
    again once anything was sent to the client. A client gets the last real response.

    Attributes:
        attempts: The most tries of one request, the first included; 1 is no retry.
        per_try: Seconds until the head of a response, for each try, without those in which the
            client is waited for. A try that takes longer fails and is followed by the next.
            Default: as long as the pool's ``timeout`` says, after which there is no other.
        statuses: Statuses of responses that are tried again. Default: none.
        methods: Methods that are tried again although they are not idempotent.
        idempotency_key: Whether a request with an ``Idempotency-Key`` is taken for idempotent.
        body_limit: The largest body that is kept for another try, in bytes. A request with a larger
            one is sent as it comes and not tried again.
        same_upstream: Whether an upstream is tried again where there is no other. Default: no.
        backoff: Seconds. The wait before the first retry is random, from 0 to this ("full jitter",
            Envoy's values); before each further one its limit is doubled. 0 is no wait. There is
            none before another upstream is tried because the last could not be connected to.
        max_backoff: The longest wait.
        budget: The share of requests in the last 10 s that may be retries, so that a pool that
            fails is not given twice the load (Finagle, Envoy).
        budget_floor: Retries in the last 10 s that are always allowed.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    attempts: int = 3
    per_try: float | None = None
    statuses: AbstractSet[int] = frozenset()
    methods: AbstractSet[str] = frozenset()
    idempotency_key: bool = False
    body_limit: int = 64 * 1024
    same_upstream: bool = False
    backoff: float = 0.025
    max_backoff: float = 0.25
    budget: float = 0.2
    budget_floor: int = 10

    def __post_init__(self) -> None:
        mistakes = mistaken_flags(
            idempotency_key=self.idempotency_key, same_upstream=self.same_upstream
        )
        mistakes += mistaken_count("attempts", self.attempts)
        if self.per_try is not None:
            mistakes += mistaken_seconds("per_try", self.per_try)
        mistakes += mistaken_statuses("statuses", self.statuses)
        mistakes += _mistaken_methods(self.methods)
        mistakes += mistaken_count("body_limit", self.body_limit, lowest=0)
        mistakes += mistaken_seconds("backoff", self.backoff, or_none=True)
        mistakes += mistaken_seconds("max_backoff", self.max_backoff, or_none=True)
        mistakes += mistaken_number("budget", self.budget, highest=1)
        mistakes += mistaken_count("budget_floor", self.budget_floor, lowest=0)
        if mistakes:
            raise ConfigurationError([f"retry: {mistake}" for mistake in mistakes])
        # Ours: whoever gave them may change them.
        object.__setattr__(self, "statuses", frozenset(self.statuses))
        object.__setattr__(self, "methods", frozenset(self.methods))

    def may_repeat(self, method: str, headers: Iterable[Header]) -> bool:
        """Tell whether a request may be executed twice.

        Args:
            method: Its method.
            headers: Its headers as upstreams get them, their names in small letters.
        """
        if method in IDEMPOTENT or method in self.methods:
            return True
        return self.idempotency_key and any(name == b"idempotency-key" for name, _ in headers)

    def follows(self, error: GatewayError, *, repeatable: bool) -> bool:
        """Tell whether a try may follow one that ended with *error*.

        One that took too long is only followed by another if that was the limit for each try: else
        the client would wait several times as long as the pool's timeout says.
        """
        if not error.request_sent:
            return True
        late = isinstance(error, GatewayTimeout) and self.per_try is None
        return repeatable and not late

    def pause(self, number: int, chance: Chance) -> float:
        """Return the seconds to wait before the retry of this *number*, from 0."""
        longest = min(self.max_backoff, self.backoff * 2.0 ** min(number, 32))
        return chance.uniform(0, longest)


def _mistaken_methods(methods: object) -> list[str]:
    if isinstance(methods, str) or not isinstance(methods, Collection):
        return [f"methods must be a set of methods, not {methods!r}"]
    return [
        f"methods: {method!r} is no method in capital letters"
        for method in methods
        if not (isinstance(method, str) and method.isascii() and is_name(method.encode()))
        or method != method.upper()
    ]


class Budget:
    """The retries that a pool may afford: a share of its requests, and a few."""

    __slots__ = ("_floor", "_requests", "_retries", "_share")

    def __init__(self, retry: Retry) -> None:
        self._share = retry.budget
        self._floor = retry.budget_floor
        self._requests = Window(_SECONDS)
        # A window may look back a tenth less than it says: that is too little for what is limited.
        self._retries = Window(_SECONDS / 0.9)

    def request(self, now: float) -> None:
        """Count a request's first try."""
        self._requests.add(now)

    def withdraw(self, now: float) -> bool:
        """Count a retry, if there is one left."""
        if self.is_spent(now):
            return False
        self._retries.add(now)
        return True

    def retries(self, now: float) -> int:
        """Return how many there were in the last 10 s, or a second more."""
        return self._retries.counts(now)[0]

    def is_spent(self, now: float) -> bool:
        """Tell whether there is none left."""
        requests, _ = self._requests.counts(now)
        return self.retries(now) + 1 > self._floor + self._share * requests
