"""Who belongs to a pool, and who of them may be picked now."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..exceptions import ConfigurationError
from ..log import logger
from .binding import Affinity
from .checks import Ejection, HealthCheck
from .health import Health, State
from .upstream import Upstream

__all__ = ["Members", "StateChange", "indistinct", "joining"]

#: Is told of an upstream that changes its state: which, from what, to what.
StateChange = Callable[[Upstream, State, State], None]


class Members:
    """The upstreams of a pool.

    Who may be picked is worked out once and kept until something changes it, so that the choice
    costs nothing but the balancer.

    Args:
        check: How they are probed.
        ejection: When they are ejected.
        panic: Whether all are used when none is healthy.
        on_change: Is told of every change of state.

    Attributes:
        all: All of them.
        valid_until: When time alone changes who may be picked.
    """

    def __init__(
        self,
        *,
        check: HealthCheck | None,
        ejection: Ejection | None,
        panic: bool,
        on_change: StateChange | None,
    ) -> None:
        self.all: tuple[Upstream, ...] = ()
        self._check = check
        self._ejection = ejection
        self._panic = panic
        self._on_change = on_change
        self._states: dict[Upstream, State] = {}
        self._candidates: tuple[Upstream, ...] = ()
        self.valid_until = -math.inf

    def add(self, upstream: Upstream) -> None:
        """Take one more in, of which nothing is known."""
        upstream.health = health = Health(self._ejection, self._check)
        self._states[upstream] = health.state
        self.all = (*self.all, upstream)
        self.refresh()

    def remove(self, upstream: Upstream) -> None:
        """Let one go, which takes nothing of its state along."""
        self.all = tuple(one for one in self.all if one is not upstream)
        del self._states[upstream]
        upstream.health = Health()
        upstream.effective_weight = upstream.weight
        self.refresh()

    def refresh(self) -> None:
        """Work out anew who may be picked, the next time that it is asked."""
        self.valid_until = -math.inf

    def candidates(self, now: float) -> tuple[Upstream, ...]:
        """Return those that may be picked; the same tuple until something changes."""
        if now >= self.valid_until:
            self._work_out(now)
        return self._candidates

    def backups(self) -> tuple[Upstream, ...]:
        """Return the backups that could serve, whether or not a primary can."""
        return tuple(one for one in self.all if one.backup and one.weight and one.health.is_usable)

    def may_eject(self, upstream: Upstream) -> bool:
        """Tell whether *upstream* may be ejected, with regard to those that are already."""
        if self._ejection is None or not upstream.weight:
            return False
        serving = [one for one in self.all if one.weight]
        ejected = sum(one.health.is_ejected for one in serving if one is not upstream)
        # 0.29 * 100 is 28.999999999999996.
        return ejected + 1 <= self._ejection.max_share * len(serving) + 1e-9

    def settle(self, upstream: Upstream, now: float) -> None:
        """Say what has changed in the health of *upstream*, if anything has."""
        upstream.health.tick(now)
        before, after = self._states.get(upstream), upstream.health.state
        if before is None or before == after:
            return
        self._states[upstream] = after
        self.refresh()
        level = logger.info if after in ("healthy", "half-open") else logger.warning
        level("upstream %s was %s and is %s", upstream.origin, before, after)
        if self._on_change is not None:
            try:
                self._on_change(upstream, before, after)
            except Exception:  # noqa: BLE001 - must not fail the request that happens to be here
                logger.exception("on_state_change failed")

    def _work_out(self, now: float) -> None:
        # Before who is told of a change asks in turn.
        self.valid_until = math.inf
        for upstream in self.all:
            self.settle(upstream, now)
        self._candidates = self._choice()
        for upstream in self.all:
            upstream.effective_weight = upstream.weight * upstream.health.share(now)
        changes = [one.health.next_change(now) for one in self.all]
        self.valid_until = min(changes, default=math.inf)

    def _choice(self) -> tuple[Upstream, ...]:
        serving = [one for one in self.all if one.weight]
        usable = [one for one in serving if one.health.is_usable]
        # One that is half-open takes one request at a time, so it can stand in for nobody.
        steady = [one for one in usable if not one.health.is_ejected]
        panic = self._panic and not steady
        for one in self.all:
            one.health.in_panic = panic
        if panic:
            return tuple(serving)
        if all(one.backup for one in steady):
            return tuple(usable)
        return tuple(one for one in usable if not one.backup)


def joining(entry: object, mistakes: list[str]) -> Upstream | None:
    """Return *entry* as an upstream that is in no pool, or append to *mistakes*."""
    try:
        if isinstance(entry, str):
            entry = Upstream(entry)
    except ConfigurationError as error:
        mistakes += error.mistakes
        return None
    if not isinstance(entry, Upstream):
        mistakes.append(f"an upstream is a URL or an Upstream, not {entry!r}")
    elif entry.pool is not None:
        mistakes.append(f"upstream {entry.url!r} is in another pool; give each pool its own")
    else:
        return entry
    return None


def indistinct(affinity: Affinity | None, upstreams: Sequence[Upstream]) -> list[str]:
    """Return the mistakes in *upstreams* that *affinity* could not tell from each other."""
    return [
        f"upstream {url!r} cannot be told from another one, as its affinity has to"
        for url in (affinity.indistinct(upstreams) if affinity is not None else ())
    ]
