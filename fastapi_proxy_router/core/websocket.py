"""How WebSockets are relayed: their limits, their keepalive, who may open one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..exceptions import ConfigurationError

__all__ = ["WebSocketOptions"]

#: Browsers leave out the default port, the path, and everything that is not ASCII.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._~%:\[\]-]*[a-z0-9._~%\]-]")
_DEFAULT_PORTS = re.compile(r"http://.*:80|https://.*:443")
_TIMES = ("ping_interval", "ping_timeout", "idle", "lifetime")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketOptions:
    """How WebSockets are relayed. Times are in seconds; ``None`` is no limit, or no pings.

    What is between the client and the server is the server's to negotiate: its own limit for
    messages holds as well, its own pings, its own compression.

    Attributes:
        max_message_size: The largest message in either direction, in bytes (uvicorn's default). A
            larger one ends both sides with 1009.
        compression: Offer permessage-deflate to the upstream (RFC 7692). It costs an upstream in
            the same network more time than it saves, and memory for each connection.
        ping_interval: Time between two pings to the upstream (websockets' default).
        ping_timeout: Time that an upstream may be silent after a ping before it counts as gone.
        idle: Time without a message in either direction after which both sides are closed (1001).
        lifetime: Time after which both sides are closed, whatever they do (1001).
        allowed_origins: The values of ``Origin`` from which a WebSocket may be opened, such as
            ``https://app.example``; any other is refused with 403. A client that sends no
            ``Origin`` is no browser and may. Default: the upstream decides.

    Raises:
        ConfigurationError: A value cannot be used; every mistake is reported.
    """

    max_message_size: int | None = 16 * 1024 * 1024
    compression: bool = False
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    idle: float | None = None
    lifetime: float | None = None
    allowed_origins: Sequence[str] | None = None

    def __post_init__(self) -> None:
        mistakes = [
            f"websocket {name} must be a number of seconds above 0 or None, not {value!r}"
            for name in _TIMES
            if (value := getattr(self, name)) is not None
            and not (_is_number(value) and math.isfinite(value))
        ]
        size: object = self.max_message_size
        if size is not None and not (_is_number(size) and isinstance(size, int)):
            mistakes.append(f"websocket max_message_size must be above 0 or None, not {size!r}")
        compression: object = self.compression
        if not isinstance(compression, bool):
            mistakes.append(f"websocket compression must be True or False, not {compression!r}")
        origins: object = self.allowed_origins
        if isinstance(origins, str) or not isinstance(origins, Iterable | None):
            mistakes.append(f"websocket allowed_origins must be a list, not {origins!r}")
        elif self.allowed_origins is not None:
            object.__setattr__(self, "allowed_origins", tuple(self.allowed_origins))
            mistakes += [
                f"websocket allowed_origins: {origin!r} is not like https://app.example"
                for origin in self.allowed_origins
                if not _is_origin(origin)
            ]
        if mistakes:
            raise ConfigurationError(mistakes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_origin(value: object) -> bool:
    """Tell whether *value* is an origin as browsers write it (RFC 6454, 6.2): no default port."""
    return value == "null" or (
        isinstance(value, str)
        and _ORIGIN.fullmatch(value) is not None
        and _DEFAULT_PORTS.fullmatch(value) is None
    )
