"""The frames that nearly all messages are, by hand: whole, and read by themselves.

The Sans-I/O protocol takes any frame in any number of pieces, and needs four times as long for it,
which is a good part of what a small message costs. It still gets whatever is not as plain as this.
"""

from __future__ import annotations

import os
import secrets
import struct
from typing import Final

from websockets.frames import (  # type: ignore[attr-defined]
    Opcode,
    apply_mask,  # the one in C, where it is built
)

__all__ = ["build", "whole", "wire_size"]

_FIN: Final = 0x80
_MASKED: Final = 0x80
#: Lengths that need two more bytes to be told, and eight (RFC 6455, 5.2).
_MEDIUM: Final = 126
_LONG: Final = 1 << 16
_masks: list[bytes] = []
if hasattr(os, "register_at_fork"):  # Windows has none
    os.register_at_fork(after_in_child=_masks.clear)
_PLAIN: Final = {_FIN | opcode: opcode for opcode in (Opcode.TEXT, Opcode.BINARY)}


def whole(data: bytes) -> tuple[Opcode, bytes] | None:
    """Return what *data* is, if it is one unmasked frame, which is a whole message, and no more.

    ``None`` says nothing of it but that it has to be looked at closely.
    """
    size, opcode = len(data), _PLAIN.get(data[0])
    if opcode is None or size < 2:
        return None
    length = data[1]
    if length < _MEDIUM:
        return (opcode, data[2:]) if size == 2 + length else None
    if length == _MEDIUM and size > 4 and size == 4 + int.from_bytes(data[2:4]):
        return opcode, data[4:]
    return None


def wire_size(payload: int) -> int:
    """Return how long an unmasked frame is with so many bytes, if its length is put shortly."""
    return payload + (2 if payload < _MEDIUM else 4 if payload < _LONG else 10)


def build(payload: bytes, *, text: bool) -> bytes:
    """Return the frame of a client's message, masked with fresh random bytes (RFC 6455, 5.3)."""
    first, length = _FIN | (Opcode.TEXT if text else Opcode.BINARY), len(payload)
    if length < _MEDIUM:
        head = bytes((first, _MASKED | length))
    elif length < _LONG:
        head = struct.pack("!BBH", first, _MASKED | 126, length)
    else:
        head = struct.pack("!BBQ", first, _MASKED | 127, length)
    mask = _mask()
    return b"".join((head, mask, apply_mask(payload, mask)))


def _mask() -> bytes:
    try:
        return _masks.pop()
    except IndexError:
        # Asking the system for each would cost as much as the rest of the frame.
        data = secrets.token_bytes(4096)
        _masks.extend([data[at : at + 4] for at in range(4, 4096, 4)])
        return data[:4]
