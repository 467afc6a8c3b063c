"""How values are read that the environment can only give as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from pydantic import BeforeValidator

__all__ = ["fields_of", "listed", "weighted"]

_RANGE = re.compile(r"(\d{3})-(\d{3})")


def listed(value: Any) -> Any:
    """Read a list from JSON or, for names and URLs, from a comma-separated line."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def weighted(value: Any) -> Any:
    """Read names with weights from JSON or from a line such as ``stable:95,canary:5``."""
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return _object(value)
    pairs = [part.rpartition(":") for part in listed(value)]
    if mistaken := [weight for name, _, weight in pairs if not name]:
        raise ValueError(f"{mistaken[0]!r} is no name and weight, such as stable:95")
    return {name.strip(): weight.strip() for name, _, weight in pairs}


def statuses(value: Any) -> Any:
    """Read statuses, a range of which may be written ``200-299``."""
    # One alone has already been read as a number.
    given = [value] if isinstance(value, int) else listed(value)
    if not isinstance(given, list):
        return given
    found: list[Any] = []
    for entry in given:
        if bounds := _RANGE.fullmatch(str(entry)):
            found += range(int(bounds[1]), int(bounds[2]) + 1)
        else:
            found.append(entry)
    return found


def _object(value: Any) -> Any:
    return _json(value) if isinstance(value, str) else value


def _texts(value: Any) -> Any:
    """Read texts by name, some of which have been read as numbers already."""
    value = _object(value)
    if not isinstance(value, dict):
        return value
    return {
        name: given if isinstance(given, str) else json.dumps(given)
        for name, given in value.items()
    }


_READERS: dict[str, Callable[[Any], Any]] = {
    "headers": _texts,
    "methods": listed,
    "statuses": statuses,
}


def fields_of(kind: type) -> BeforeValidator:
    """Return what reads the fields of *kind*, a dataclass of the core, and refuses all others."""
    known = {field.name for field in fields(kind) if field.init}

    def read(value: Any) -> Any:
        value = _object(value)
        if not isinstance(value, dict):
            return value
        if unknown := sorted(value.keys() - known):
            raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return {name: _READERS.get(name, _as_it_is)(given) for name, given in value.items()}

    return BeforeValidator(read)


def _as_it_is(value: Any) -> Any:
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
