"""What an override changes in one exchange, compiled to bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.routing import compile_path

from .headers import NO_EDITS, Edits
from .policy import Timeout
from .target import quote_path, raw_groups

__all__ = ["NO_CHANGES", "Changes", "PathPattern", "Rewrite"]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes to one exchange; ``None`` leaves what the client sent.

    Attributes:
        path: The path below the upstream's base path, raw.
        query: The query, raw.
        method: The method.
        host: The ``Host``.
        body: The body. An empty one is sent as ``Content-Length: 0``.
        request: Edits of the request's headers, after hop-by-hop ones are gone and ours are set.
        response: Edits of the response's headers.
        timeout: The deadlines.
    """

    path: bytes | None = None
    query: bytes | None = None
    method: str | None = None
    host: bytes | None = None
    body: bytes | None = None
    request: Edits = NO_EDITS
    response: Edits = NO_EDITS
    timeout: Timeout | None = None


NO_CHANGES = Changes()


class PathPattern:
    """A path in Starlette's syntax, matched as FastAPI does but on raw bytes.

    Raises:
        ValueError: It is not a path or names a parameter twice or with an unknown convertor.
    """

    def __init__(self, path: str) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must begin with /")
        try:
            regex, self.format, convertors = compile_path(path)
        except AssertionError as error:
            raise ValueError(str(error)) from None
        self.names = frozenset(convertors)
        self.slashes = self.format.count("/")
        self._regex = re.compile(regex.pattern.encode())

    def match(self, raw: bytes) -> dict[str, bytes] | None:
        """Return the raw parameters of *raw*, or ``None`` if it does not match."""
        return raw_groups(self._regex, raw)


class Rewrite:
    """A path template that is filled with a pattern's raw parameters.

    Raises:
        ValueError: It is not a path, or names a parameter that *pattern* lacks.
    """

    def __init__(self, template: str, pattern: PathPattern) -> None:
        if not template.startswith("/"):
            raise ValueError(f"rewrite {template!r} must begin with /")
        self._parts: list[bytes | str] = []
        for literal, name in re.findall(r"([^{}]*)(?:\{([^{}]*)\})?", template):
            self._parts.append(quote_path(literal))
            if name:
                self._parts.append(name)
        names = {part for part in self._parts if isinstance(part, str)}
        if unknown := names - pattern.names:
            raise ValueError(
                f"rewrite {template!r} names {sorted(unknown)}, which path {pattern.format!r} lacks"
            )

    def fill(self, parameters: dict[str, bytes]) -> bytes:
        """Return the path with every parameter in its place, byte for byte."""
        return b"".join(parameters[part] if isinstance(part, str) else part for part in self._parts)
