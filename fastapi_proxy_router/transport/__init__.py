"""What carries one exchange to one upstream: our engine, or any httpx transport."""

from .adapter import (
    UpstreamResponse,
    close_transports,
    connect,
    crossing,
    exchange,
    open_transports,
)
from .attempt import EarlyHint, RawRequest
from .cork import current_cork
from .engine import HTTP1Transport
from .limits import DEFAULT_LIMITS, ConnectionLimits
from .parser import Head, IllegalResponse, ResponseParser
from .reading import read_buffer

__all__ = [
    "DEFAULT_LIMITS",
    "ConnectionLimits",
    "EarlyHint",
    "HTTP1Transport",
    "Head",
    "IllegalResponse",
    "RawRequest",
    "ResponseParser",
    "UpstreamResponse",
    "close_transports",
    "connect",
    "crossing",
    "current_cork",
    "exchange",
    "open_transports",
    "read_buffer",
]
