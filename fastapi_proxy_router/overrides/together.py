"""The overrides of one router, checked together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from ..core.matching import Conditions
from ..core.patterns import shape_of_path
from ..exceptions import ConfigurationError
from .compiled import CompiledOverride
from .route import RouteOverride

__all__ = ["compiled", "duplicates"]


def compiled(overrides: Iterable[RouteOverride | Mapping[str, Any]]) -> list[CompiledOverride]:
    """Return overrides, or mappings of their fields, ready to be matched in this order.

    Raises:
        ConfigurationError: Some cannot work, or two are for the same requests; every mistake is
            reported and names the route.
    """
    if isinstance(overrides, RouteOverride | Mapping | str):
        raise ConfigurationError(["overrides is a list of overrides, also where there is one"])
    mistakes: list[str] = []
    usable: list[RouteOverride] = []
    for override in overrides:
        try:
            usable.append(RouteOverride.model_validate(override))
        except ValidationError as error:
            mistakes += [mistake["msg"] for mistake in error.errors(include_url=False)]
    if mistakes := mistakes + duplicates(usable):
        raise ConfigurationError(mistakes)
    return [override.compile() for override in usable]


def duplicates(overrides: Iterable[RouteOverride]) -> list[str]:
    """Return the mistakes of overrides that are for the same requests, naming the routes.

    Such are two with the same path, whatever its parameters are called, with equal conditions, and
    with a method in common. But one for all methods may follow those for some: it is for the rest.
    """
    mistakes: list[str] = []
    before: dict[tuple[str, Conditions], list[RouteOverride]] = {}
    for override in overrides:
        alike = before.setdefault((shape_of_path(override.path), override.conditions()), [])
        if other := next((each for each in alike if _overlap(each, override)), None):
            mistakes.append(f"{override.label}: the {other.label} before it takes its requests")
        alike.append(override)
    return mistakes


def _overlap(earlier: RouteOverride, later: RouteOverride) -> bool:
    if earlier.methods is None or later.methods is None:
        return earlier.methods is None
    return not set(earlier.methods).isdisjoint(later.methods)
