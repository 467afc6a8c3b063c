"""A declared override, ready to be asked about requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..core.changes import Answer, Changes
from ..core.matching import Conditions
from ..core.names import Header
from ..core.patterns import PathPattern, Rewrite

__all__ = ["CompiledOverride", "Declared"]


class Declared(NamedTuple):
    """What is declared for one request.

    Attributes:
        changes: What is changed.
        pool: The name of the pool that serves it; ``None``: the one that would anyway.
        answer: The response, without an upstream; ``None``: an upstream is asked.
    """

    changes: Changes
    pool: str | None = None
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class CompiledOverride:
    """A ``RouteOverride`` that can be asked about a request.

    Attributes:
        pattern: The paths it is for.
        methods: The methods it is for; ``None`` is all.
        conditions: What else a request has to meet.
        rewrite: The template of the path for the upstream.
        declared: What is declared, but for the path.
        label: What messages call it.
    """

    pattern: PathPattern
    methods: frozenset[str] | None
    conditions: Conditions
    rewrite: Rewrite | None
    declared: Declared
    label: str = "an override"

    @property
    def pool(self) -> str | None:
        """The name of the pool that serves it, if it is another."""
        return self.declared.pool

    def matches(
        self, method: str, path: bytes, headers: Sequence[Header], query: bytes
    ) -> Declared | None:
        """Return what is declared for a request, or ``None`` if it does not match.

        Args:
            method: Its method.
            path: Its raw path below the router's prefix.
            headers: Its headers, as the client sent them, their names in small letters.
            query: Its raw query, likewise.
        """
        if self.methods is not None and method not in self.methods:
            return None
        parameters = self.pattern.match(path or b"/")
        if parameters is None or not self.conditions.hold(headers, query):
            return None
        if self.rewrite is None:
            return self.declared
        changes = replace(self.declared.changes, path=self.rewrite.fill(parameters))
        return self.declared._replace(changes=changes)
