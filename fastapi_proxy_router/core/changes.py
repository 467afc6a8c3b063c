"""What an override changes in one exchange, compiled to bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.routing import compile_path

from .headers import NO_EDITS, Edits
from .messages import MessageHook
from .policy import Timeout
from .target import quote_path, raw_groups
from .websocket import WebSocketOptions

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
        websocket: The limits of a WebSocket.
        on_client_message: Sees every message of a WebSocket's client.
        on_upstream_message: Sees every message of its upstream.
    """

    path: bytes | None = None
    query: bytes | None = None
    method: str | None = None
    host: bytes | None = None
    body: bytes | None = None
    request: Edits = NO_EDITS
    response: Edits = NO_EDITS
    timeout: Timeout | None = None
    websocket: WebSocketOptions | None = None
    on_client_message: MessageHook | None = None
    on_upstream_message: MessageHook | None = None

    @property
    def own_body(self) -> bytes | None:
        """What is sent in place of the client's body; ``None`` if nothing is."""
        # Where the client's request had one, GET and HEAD drop it.
        return b"" if self.body is None and self.method in ("GET", "HEAD") else self.body


NO_CHANGES = Changes()

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


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
