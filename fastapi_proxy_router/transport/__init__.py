"""What carries one exchange to one upstream: our engine, or any httpx transport."""

from .adapter import UpstreamResponse, close_transports, crossing, exchange, open_transports
from .attempt import EarlyHint, RawRequest
from .engine import HTTP1Transport, tls_context
from .limits import ConnectionLimits
from .parser import Head

__all__ = [
    "ConnectionLimits",
    "EarlyHint",
    "HTTP1Transport",
    "Head",
    "RawRequest",
    "UpstreamResponse",
    "close_transports",
    "crossing",
    "exchange",
    "open_transports",
    "tls_context",
]
