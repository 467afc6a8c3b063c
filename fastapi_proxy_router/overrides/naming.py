"""Names of routes, and reports of mistakes that say which route they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

__all__ = ["named", "route_name"]


def route_name(path: object, methods: object = None) -> str:
    """Return what an override is called in messages, however wrong it may be."""
    listed = methods if isinstance(methods, list | tuple | set | frozenset) else ()
    words = [each.upper() for each in listed if isinstance(each, str)]
    where = path if isinstance(path, str) else "no path"
    return " ".join(part for part in ("override of", ", ".join(words), where) if part)


def named(error: ValidationError, value: Any, fields: Iterable[str]) -> ValidationError:
    """Return *error* with the route that *value* is for, and the field, in each of its messages.

    pydantic says where in a list a mistake is, but the route is what its author knows it by. Of
    *fields*, the nearest to one that is not known is named.
    """
    given: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    route = route_name(given.get("path"), given.get("methods"))
    return ValidationError.from_exception_data(
        error.title, list(_prefixed(error, route, [*fields]))
    )


def _prefixed(
    error: ValidationError, route: str, fields: Sequence[str]
) -> Iterator[InitErrorDetails]:
    for mistake in error.errors(include_url=False):
        cause = mistake.get("ctx", {}).get("error")
        message = str(cause) if isinstance(cause, ValueError) else mistake["msg"]
        # What is in brackets says which kind of value it was taken for.
        place = tuple(part for part in mistake["loc"] if not str(part).startswith("["))
        field = ".".join(map(str, place))
        if field and not message.startswith(str(place[0])):
            message = f"{field}: {message}"
        if mistake["type"] == "extra_forbidden" and len(place) == 1:
            nearest = get_close_matches(field, fields)
            message += f"; is it {' or '.join(nearest)}?" if nearest else ""
        yield InitErrorDetails(
            # A message without a context is taken as it is, braces and all.
            type=PydanticCustomError(mistake["type"], f"{route}: {message}"),
            loc=place,
            input=mistake["input"],
        )
