"""The way back from a rewritten path: which public path leads to one of the upstream's?"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from starlette.routing import compile_path

from .patterns import PathPattern, Rewrite
from .target import quote_path, raw_groups

__all__ = ["inverse_of"]

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILLED = re.compile(rb"\{(\w+)\}")


def inverse_of(
    pattern: PathPattern, path_template: str, rewrite: Rewrite
) -> Callable[[bytes], bytes | None] | None:
    """Return what finds the path that *rewrite* turns into a given one.

    Parameters are matched as in requests, by their convertors and decoded, and stay byte for byte.
    What is found is matched again, so a path that would be rewritten to another one is never given:
    with ``/{a:path}/{b:path}`` there may be no telling where ``a`` ends.

    Args:
        pattern: The pattern of the requests that are rewritten.
        path_template: What *pattern* was made of; it has the convertors.
        rewrite: The template for the upstream's path.

    Returns:
        A function of a raw path below the upstream's base path, which returns the raw path below
        the router's prefix, or ``None`` if the rewrite cannot have led there. ``None`` if the
        rewrite drops a parameter, which nothing could bring back.
    """
    if rewrite.names != pattern.names:
        return None
    regex = _regex(path_template, rewrite)
    literals = _PARAMETER.split(pattern.format)

    def inverse(path: bytes) -> bytes | None:
        groups = raw_groups(regex, path)
        if groups is None:
            return None
        parameters = {name: groups[name] for name in rewrite.names}
        found = b"".join(
            parameters[part] if index % 2 else quote_path(part)
            for index, part in enumerate(literals)
        )
        return found if pattern.match(found) == parameters else None

    return inverse


def _regex(path_template: str, rewrite: Rewrite) -> re.Pattern[bytes]:
    """Return what matches every decoded path that *rewrite* may give."""
    convertors = compile_path(path_template)[2]
    # Filled with its own names, a rewrite is its template, quoted.
    template = rewrite.fill({name: b"{%s}" % name.encode() for name in rewrite.names})
    seen: set[str] = set()
    parts = []
    for index, part in enumerate(_FILLED.split(template)):
        name = part.decode("ascii")
        if index % 2 == 0:
            parts.append(re.escape(unquote_to_bytes(part)))
        elif name in seen:
            parts.append(b"(?P=%s)" % part)
        else:
            seen.add(name)
            parts.append(b"(?P<%s>%s)" % (part, convertors[name].regex.encode()))
    return re.compile(b"".join(parts) + rb"\Z")
