"""The upstream's side of a WebSocket."""

from .answer import SWITCHING
from .connection import CLOSE_TIMEOUT, UpstreamWebSocket
from .dialer import Dialled, Refused, dial
from .ending import UpstreamEnded

__all__ = [
    "CLOSE_TIMEOUT",
    "SWITCHING",
    "Dialled",
    "Refused",
    "UpstreamEnded",
    "UpstreamWebSocket",
    "dial",
]
