"""The bytes of a WebSocket: handshakes and frames, for the programs on both sides of a gateway."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

#: Masks what is not masked, and the other way round.
xor = apply_mask
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN, MASKED = 0x80, 0x80
#: What floods are made of: 64 KiB that are not all alike.
BLOCK = bytes(range(256)) * 256

_KEY = base64.b64encode(b"0123456789abcdef")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_REQUEST = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n"
)
_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\n\r\n"
)


def _answer(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


def request(path: str) -> bytes:
    return _REQUEST % (path.encode(), _KEY)


def accepts(head: bytes) -> bool:
    """Return whether *head* is the right answer to ``request``."""
    return head.startswith(b"HTTP/1.1 101 ") and _header(head, b"sec-websocket-accept") == _answer(
        _KEY
    )


def accept(head: bytes) -> bytes | None:
    """Return the answer to the request *head*, or ``None`` if it asks for no WebSocket."""
    key = _header(head, b"sec-websocket-key")
    return _ACCEPT % _answer(key) if key else None


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip()
    return b""


def build(opcode: int, payload: bytes, *, mask: bool = False) -> bytes:
    """Return a message as one frame; clients mask theirs."""
    flag, length = MASKED if mask else 0, len(payload)
    if length < 126:
        head = bytes((FIN | opcode, flag | length))
    elif length < 65536:
        head = bytes((FIN | opcode, flag | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, flag | 127)) + length.to_bytes(8, "big")
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + apply_mask(payload, key)


class Reader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        #: What is not a whole frame yet.
        self.rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the first byte (end of message and opcode) and payload of each whole frame."""
        rest = self.rest
        rest += data
        while len(rest) >= 2:
            short, masked = rest[1] & 127, rest[1] & MASKED
            start = {126: 4, 127: 10}.get(short, 2)
            length = int.from_bytes(rest[2:start], "big") if start > 2 else short
            body = start + 4 if masked else start
            if len(rest) < body + length:
                return
            first, payload = rest[0], bytes(memoryview(rest)[body : body + length])
            if masked:
                payload = apply_mask(payload, bytes(rest[start:body]))
            del rest[: body + length]
            yield first, payload
