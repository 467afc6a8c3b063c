"""How the upstream's side of a WebSocket has ended."""

from __future__ import annotations

from typing import Final

from websockets.frames import CloseCode
from websockets.protocol import Protocol

__all__ = ["GARBLED", "UpstreamEnded", "why_ended"]

GARBLED: Final = "text that is not UTF-8"
#: Close codes that would make half a message look whole.
_CLEAN: Final = (CloseCode.NORMAL_CLOSURE, CloseCode.NO_STATUS_RCVD)


class UpstreamEnded(Exception):
    """The upstream's side is over.

    Attributes:
        code: The code of its close frame, 1005 if that had none; 1009 if it sent a message over the
            limit; 1006 if it vanished or broke the protocol.
        reason: The reason of its close frame, or what it did.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def why_ended(protocol: Protocol, *, is_garbled: bool) -> UpstreamEnded:
    """Return how it ended.

    Args:
        protocol: It has closed, or has failed the connection.
        is_garbled: We have failed it, for a text that is not UTF-8.
    """
    received, sent, broken = protocol.close_rcvd, protocol.close_sent, protocol.parser_exc
    if is_garbled:
        return UpstreamEnded(CloseCode.ABNORMAL_CLOSURE, f"1007 {GARBLED}")
    if received is not None and (broken is None or received.code not in _CLEAN):
        return UpstreamEnded(received.code, received.reason)
    if sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG:
        return UpstreamEnded(sent.code, "")
    reason = "it closed the connection" if sent is None else f"{sent.code} {sent.reason}"
    return UpstreamEnded(CloseCode.ABNORMAL_CLOSURE, reason)
