"""Paths in Starlette's syntax: as patterns of raw paths, and as templates to fill."""

from __future__ import annotations

import re

from starlette.routing import compile_path

from .target import quote_path, raw_groups

__all__ = ["PathPattern", "Rewrite", "shape_of_path"]

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

#: As Starlette has it, with its convertor.
_CONVERTED = re.compile(r"\{[a-zA-Z_][a-zA-Z0-9_]*(?::([a-zA-Z_][a-zA-Z0-9_]*))?\}")


def shape_of_path(path: str) -> str:
    """Return *path* with its parameters as they match, whatever they are called."""
    return _CONVERTED.sub(lambda match: f"{{:{match[1] or 'str'}}}", path)


class PathPattern:
    """A path in Starlette's syntax, matched as FastAPI does but on raw bytes.

    Raises:
        ValueError: It is not a path, names a parameter twice or with an unknown convertor, or has a
            brace that belongs to none.
    """

    def __init__(self, path: str) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must begin with /")
        try:
            regex, self.format, convertors = compile_path(path)
        except AssertionError as error:
            raise ValueError(str(error)) from None
        if re.search(r"[{}]", _PARAMETER.sub("", self.format)):
            raise ValueError(f"path {path!r} has a brace that belongs to no parameter")
        self.names = frozenset(convertors)
        self.slashes = self.format.count("/")
        self._regex = re.compile(regex.pattern.encode())
        self._beginning = path.partition("{")[0].encode()

    def match(self, raw: bytes) -> dict[str, bytes] | None:
        """Return the raw parameters of *raw*, or ``None`` if it does not match."""
        # A path without an escape is what it decodes to: most others are told apart at once.
        if not raw.startswith(self._beginning) and b"%" not in raw:
            return None
        return raw_groups(self._regex, raw)


class Rewrite:
    """A path template that is filled with a pattern's raw parameters.

    Raises:
        ValueError: It is not a path, or a brace or a question mark stands by itself in it.
    """

    def __init__(self, template: str) -> None:
        literals = _PARAMETER.split(template)
        self.names = frozenset(literals[1::2])
        if not template.startswith("/") or re.search(r"[{}?#]", "".join(literals[::2])):
            raise ValueError(f"rewrite {template!r} must be a path with parameters like {{name}}")
        self._parts = literals

    def fill(self, parameters: dict[str, bytes]) -> bytes:
        """Return the path with every parameter in its place, byte for byte."""
        return b"".join(
            parameters[part] if index % 2 else quote_path(part)
            for index, part in enumerate(self._parts)
        )
