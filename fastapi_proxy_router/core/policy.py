"""How a pool forwards: its timeouts, its ``Host``, whom it believes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, TypedDict

from ..exceptions import ConfigurationError
from .forwarded import ForwardedMode, TrustedProxies
from .websocket import WebSocketOptions

_VIA = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z:]*")

__all__ = [
    "DEFAULT_POLICY",
    "Deadlines",
    "ForwardPolicy",
    "PolicyOptions",
    "Timeout",
    "as_timeout",
    "policy_from",
]


class Deadlines(NamedTuple):
    """How long a transport waits in one exchange, in seconds; ``None`` is no limit.

    Attributes:
        connect: Until a connection stands.
        pool: For a turn, where connections are limited.
        response: From the end of the request until the whole head of the response is here.
        read: For the next chunk of the response's body.
        write: Until the upstream takes a chunk of the request's body.
    """

    connect: float | None = None
    pool: float | None = None
    response: float | None = None
    read: float | None = None
    write: float | None = None


@dataclass(frozen=True, slots=True)
class Timeout:
    """Deadlines of one exchange, in seconds; ``None`` is no limit.

    Attributes:
        connect: Until the connection to the upstream stands (Envoy's default).
        response: From the end of the request until the whole response head is here (nginx's
            default). For a WebSocket, until the handshake is answered.
        idle: Until the upstream sends the next chunk of its body, or the client the next one of
            its own, or the upstream takes that one (Envoy's stream idle default). A client may be
            as slow in reading as its server allows.
        pool: For a connection, where the transport limits how many there are (httpx's default).
        total: From the beginning to the end of the exchange, the response's body included.
            Not for WebSockets.
        waits: The same as a transport wants them.
    """

    connect: float | None = 5.0
    response: float | None = 60.0
    idle: float | None = 300.0
    pool: float | None = 5.0
    total: float | None = None
    waits: Deadlines = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mistakes = [
            f"timeout {name.name} must be a number of seconds above 0 or None, not {value!r}"
            for name in fields(self)
            if name.init
            and (value := getattr(self, name.name)) is not None
            and not (isinstance(value, int | float) and value > 0)
        ]
        if mistakes:
            raise ConfigurationError(mistakes)
        waits = Deadlines(self.connect, self.pool, self.response, self.idle, self.idle)
        object.__setattr__(self, "waits", waits)


def as_timeout(value: float | Timeout) -> Timeout:
    """Return *value* as a ``Timeout``; a number holds for every wait, but not for the total."""
    return value if isinstance(value, Timeout) else Timeout(value, value, value, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPolicy:
    """What ``PolicyOptions`` became, ready for use on every request."""

    preserve_host: bool = False
    trusted_proxies: TrustedProxies = field(default_factory=TrustedProxies)
    forwarded: ForwardedMode = False
    via: bytes = b""
    keep_server_headers: bool = False
    timeout: Timeout = field(default_factory=Timeout)
    websocket: WebSocketOptions = field(default_factory=WebSocketOptions)


#: For an upstream that is in no pool.
DEFAULT_POLICY = ForwardPolicy()


class PolicyOptions(TypedDict, total=False):
    """The keyword arguments of a pool that say how it forwards.

    Attributes:
        preserve_host: Send the client's ``Host`` to the upstream. Default: the upstream's own.
        trusted_proxies: Addresses or CIDRs of peers whose forwarding headers are believed, or
            ``"unix"`` for peers on a unix socket. Default: none.
        forwarded: Send RFC 7239 ``Forwarded`` as well as ``X-Forwarded-*``; ``"none"`` sends
            neither, so that the upstream learns nothing of the client. Default: no.
        via: The name to give in ``Via``, both ways (RFC 9110, 7.6.3). Default: no ``Via``.
        keep_server_headers: Pass the upstream's ``Date`` and ``Server`` on. Only for servers that
            add none themselves (uvicorn with ``--no-date-header --no-server-header``).
        timeout: A ``Timeout``, or one number of seconds for all its deadlines.
        websocket: How WebSockets are relayed: ``WebSocketOptions``.
    """

    preserve_host: bool
    trusted_proxies: Sequence[str]
    forwarded: ForwardedMode
    via: str
    keep_server_headers: bool
    timeout: float | Timeout
    websocket: WebSocketOptions


def policy_from(options: PolicyOptions) -> ForwardPolicy:
    """Build a policy.

    Raises:
        ConfigurationError: An option is unknown or its value cannot be used.
    """
    values: dict[str, object] = dict(options)
    mistakes = [
        f"unknown option {name!r}" for name in values if name not in PolicyOptions.__annotations__
    ]
    try:
        values["trusted_proxies"] = TrustedProxies(options.get("trusted_proxies", ()))
    except ValueError as error:
        mistakes.append(f"trusted_proxies: {error}")
    try:
        values["timeout"] = as_timeout(options.get("timeout", Timeout()))
    except ConfigurationError as error:
        mistakes += error.mistakes
    if not isinstance(options.get("websocket", WebSocketOptions()), WebSocketOptions):
        mistakes.append(f"websocket must be WebSocketOptions, not {options['websocket']!r}")
    if options.get("forwarded", False) not in (True, False, "none"):
        mistakes.append(f"forwarded must be True, False or 'none', not {options['forwarded']!r}")
    via = options.get("via", "")
    if not _VIA.fullmatch(via):
        mistakes.append(f"via must be a pseudonym or a host, not {via!r}")
    values["via"] = via.encode(errors="replace")
    if mistakes:
        raise ConfigurationError(mistakes)
    return ForwardPolicy(**values)  # type: ignore[arg-type]
