"""What a flood is made of, and how much memory it costs us."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from tests.threats.websocket.wire import BINARY, CONT, RSV1, Peer, frame

MIB = 1024 * 1024
#: The largest message that the gateways of the floods let through.
LIMIT = MIB


class Memory:
    """The most that was held at once, in bytes, over what was held before."""

    peak = 0


@contextmanager
def measured() -> Iterator[Memory]:
    """Trace what Python allocates in the block, here and in the server."""
    memory = Memory()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield memory
        memory.peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def unsent() -> int:
    """Return the most bytes that wait to be sent on one connection of this process."""
    transports: list[asyncio.WriteTransport] = [
        item for item in gc.get_objects() if issubclass(type(item), asyncio.WriteTransport)
    ]
    return max(transport.get_write_buffer_size() for transport in transports)


def objects() -> int:
    """Return how many things Python holds, large or small."""
    gc.collect(0)
    return sys.getallocatedblocks()


def bomb(size: int, *, masked: bool = False, fragments: int = 1) -> bytes:
    """Return a message of *size* zeros, deflated to a thousandth."""
    deflater = zlib.compressobj(9, wbits=-15)
    data = deflater.compress(bytes(size)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    data = data[:-4]
    step = len(data) // fragments + 1
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    return b"".join(
        frame(
            CONT if number else BINARY,
            part,
            fin=number == len(parts) - 1,
            rsv=0 if number else RSV1,
            masked=masked,
        )
        for number, part in enumerate(parts)
    )


async def flood(peer: Peer, data: bytes, times: int) -> None:
    """Send the same again and again."""
    block = data * max(1, 16384 // len(data))
    for _ in range(times * len(data) // len(block)):
        await peer.send(block)
