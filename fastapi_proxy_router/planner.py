"""Plans requests: what is declared for them, and where they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import Scope

from .answering import fixed
from .core.pool import UpstreamPool
from .core.split import Split
from .core.target import Location, locate
from .log import reported
from .overrides import CompiledOverride, Declared
from .plan import Plan, RouterHooks

__all__ = ["Planner", "Pool"]

Pool = UpstreamPool | Split

#: A WebSocket has no method; its handshake is a GET.
_GET: Final = "GET"


class Planner:
    """Plans what a router forwards.

    Args:
        overrides: What is declared; the first that matches applies.
        named: The pools that overrides may name.
        hooks: The router's hooks.
        more: Pools that serve no prefix, and that hooks may choose.
        strip_prefix: Whether prefixes are kept from the upstream.

    Attributes:
        hooks: The router's hooks.
        pools: The pools that somebody may choose.
    """

    def __init__(
        self,
        overrides: Sequence[CompiledOverride],
        named: Mapping[str, Pool],
        hooks: RouterHooks,
        more: Sequence[Pool],
        *,
        strip_prefix: bool,
    ) -> None:
        self._overrides = overrides
        self._strip_prefix = strip_prefix
        self.hooks = hooks
        self._named = named
        names = filter(None, (one.declared.pool for one in overrides))
        self.pools = tuple(dict.fromkeys([*(named[name] for name in names), *more]))

    @property
    def is_plain(self) -> bool:
        """Whether nothing is declared and there are no hooks."""
        return not (self._overrides or self.hooks)

    def locate(self, scope: Scope, slashes: int) -> Location:
        """Return the parts of a path whose last part has so many *slashes*."""
        location = locate(scope, slashes)
        if self._strip_prefix:
            return location
        return Location(location.root, b"", location.prefix + location.rest)

    def declared(self, scope: Scope, slashes: int) -> Declared | None:
        """Return what is declared for a request.

        Args:
            scope: The request's.
            slashes: How many the path has below the router's prefix.
        """
        if not self._overrides:
            return None
        found, method = locate(scope, slashes), scope.get("method", _GET)
        headers, query = scope["headers"], scope["query_string"]
        for override in self._overrides:
            if (declared := override.matches(method, found.rest, headers, query)) is not None:
                return _below(found.root + found.prefix, declared)
        return None

    def begin(self, connection: HTTPConnection, pool: Pool, slashes: int, depth: int) -> Plan:
        """Return the plan for a request, of which only what is declared is known.

        Args:
            connection: The request or handshake.
            pool: The pool of its route.
            slashes: How many the path has below the prefix of the pool.
            depth: How many this prefix has.
        """
        scope = connection.scope
        with reported(scope):
            location = self.locate(scope, slashes)
            declared = self.declared(scope, slashes + depth)
        return self.planned(connection, location, pool, declared)

    def planned(
        self, connection: HTTPConnection, location: Location, pool: Pool, declared: Declared | None
    ) -> Plan:
        """Return the plan for a request with what is *declared* for it."""
        plan = Plan(connection, location, pool, self.hooks)
        if declared is not None:
            handshake = connection.scope["type"] == "websocket"
            changes = declared.changes
            plan.changes = changes.of_handshake() if handshake else changes
            if declared.pool is not None:
                plan.choice.pool = self._named[declared.pool]
            if declared.answer is not None:
                plan.decide(fixed(declared.answer))
        return plan


def _below(above: bytes, declared: Declared) -> Declared:
    """Return what is *declared*, with what is above its path if there is a way back to that."""
    if all(one.inverse is None for one in declared.changes.response):
        return declared
    return declared._replace(changes=replace(declared.changes, above=above))
