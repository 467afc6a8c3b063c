"""However the network cuts what an upstream sends, the messages are the same."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import WebSocketURI
from websockets.utils import accept_key

from fastapi_proxy_router.websocket import UpstreamEnded, UpstreamWebSocket

LIMIT = 1000
TEXT, BINARY, CONT, PING = Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING


def frame(opcode, data=b"", *, fin=True):
    return Frame(opcode, data, fin).serialize(mask=False)


#: What looks like a frame inside of another one, and a length that is put longer than it need be.
INNER = frame(TEXT, b"smuggled")
LONG_WINDED = bytes([0x82, 126, 0, 3]) + b"abc"

STREAM = b"".join(
    [
        frame(TEXT, b"one"),
        frame(BINARY, INNER),
        frame(TEXT),
        frame(PING, INNER),
        frame(BINARY, INNER * 20),
        frame(TEXT, "caf\xe9".encode()[:4], fin=False),
        frame(PING),
        frame(CONT, "caf\xe9".encode()[4:], fin=True),
        LONG_WINDED,
        frame(BINARY, b"last"),
    ]
)
MESSAGES = ["one", INNER, "", INNER * 20, "caf\xe9", b"abc", b"last"]


@asynccontextmanager
async def connection():
    """Open a WebSocket whose other end is a socket of ours, on which nothing is sent."""
    ours, theirs = socket.socketpair()
    uri = WebSocketURI(False, "x", 80, "/", "")
    protocol = ClientProtocol(uri, state=State.OPEN, max_size=LIMIT)
    websocket = UpstreamWebSocket(protocol, max_size=LIMIT, ping_interval=None, ping_timeout=None)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: websocket, sock=theirs)
    feed(
        websocket,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(protocol.key).encode() + b"\r\n\r\n",
    )
    try:
        yield websocket
    finally:
        websocket.abort()
        await websocket.wait_closed()
        ours.close()


def feed(websocket, data):
    """Let *data* arrive in one read, or in as few as may be."""
    while data:
        buffer = websocket.get_buffer(-1)
        part, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(part)] = part
        websocket.buffer_updated(len(part))


async def received(parts):
    async with connection() as websocket:
        for part in parts:
            feed(websocket, part)
        return [await websocket.receive() for _ in MESSAGES]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 11, 64, 300, 10_000])
async def test_parts_of_one_size(size):
    """From byte by byte to all at once."""
    parts = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]

    assert await received(parts) == MESSAGES


async def test_a_cut_at_every_byte():
    """Payload that looks like a frame is never taken for one."""
    for at in range(1, len(STREAM)):
        assert await received([STREAM[:at], STREAM[at:]]) == MESSAGES


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=40))
def test_any_cuts(cuts):
    """Whatever they are."""
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[first:last] for first, last in pairwise(edges)]

    assert asyncio.run(received(parts)) == MESSAGES


LONG = frame(BINARY, INNER * 20)
FIRST, SECOND = frame(BINARY, b"a" * 18), frame(BINARY, b"b" * 8 + INNER)


@pytest.mark.parametrize(
    ("parts", "messages"),
    [
        ([SECOND[:2], SECOND[2:10], INNER], [b"b" * 8 + INNER]),
        ([LONG[:4], *[INNER] * 20], [INNER * 20]),
        # The second read is as long as the frame that ends in it.
        ([FIRST[:10], FIRST[10:] + SECOND[:10], INNER], [b"a" * 18, b"b" * 8 + INNER]),
    ],
)
async def test_a_read_that_looks_like_a_frame(parts, messages):
    """It is part of one that has begun."""
    async with connection() as websocket:
        for part in parts:
            feed(websocket, part)
        feed(websocket, frame(TEXT, b"end"))
        assert [await websocket.receive() for _ in [*messages, "end"]] == [*messages, "end"]


async def test_nothing_passes_behind_a_garbled_text():
    """Whole frames that follow are thrown away like all else."""
    async with connection() as websocket:
        feed(websocket, frame(TEXT, b"one") + frame(TEXT, b"\xff") + frame(PING))
        for _ in range(3):
            feed(websocket, frame(TEXT, b"behind"))
        assert await websocket.receive() == "one"
        with pytest.raises(UpstreamEnded) as ended:
            await websocket.receive()

    assert (ended.value.code, ended.value.reason[:4]) == (1006, "1007")


FRAMES = st.one_of(
    st.tuples(st.sampled_from([TEXT, BINARY]), st.sampled_from([b"", b"a", b"x" * 126, INNER])),
    st.tuples(st.just(PING), st.just(b"p")),
    st.just((TEXT, b"\xff")),
    st.just((CONT, b"z")),
    st.just((Opcode.CLOSE, b"\x03\xe8")),
).map(lambda one: frame(*one)) | st.just(LONG_WINDED)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FRAMES, st.booleans()), min_size=1, max_size=10))
def test_any_frames_in_any_packets(sent):
    """The messages are those that the parser of websockets finds, up to the first mistake."""
    packets: list[bytes] = []
    for data, with_last in sent:
        if packets and with_last:
            packets[-1] += data
        else:
            packets.append(data)

    assert asyncio.run(_by_us(packets)) == _by_websockets(packets)


async def _by_us(packets):
    async with connection() as websocket:
        for packet in packets:
            feed(websocket, packet)
        websocket.abort()
        messages = []
        with contextlib.suppress(UpstreamEnded):
            while True:
                messages.append(await websocket.receive())
        return messages


def _by_websockets(packets):
    uri = WebSocketURI(False, "x", 80, "/", "")
    protocol = ClientProtocol(uri, state=State.OPEN, max_size=LIMIT)
    messages: list[str | bytes] = []
    for packet in packets:
        protocol.receive_data(packet)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (TEXT, BINARY):
                try:
                    data = bytes(event.data)
                    messages.append(data.decode() if event.opcode is TEXT else data)
                except UnicodeDecodeError:
                    return messages
        if protocol.state is not State.OPEN:
            break
    return messages


async def test_a_frame_for_each_read():
    """Whole frames and others take turns."""
    frames = [frame(TEXT, b"one"), frame(BINARY, INNER), frame(TEXT, b"caf", fin=False)]
    frames += [frame(TEXT, b"inner")]

    async with connection() as websocket:
        for part in frames:
            feed(websocket, part)
        assert [await websocket.receive(), await websocket.receive()] == ["one", INNER]
        with pytest.raises(UpstreamEnded) as ended:
            await websocket.receive()

    # A new message amid another one breaks the protocol.
    assert (ended.value.code, ended.value.reason[:4]) == (1006, "1002")


@pytest.mark.parametrize("split", [False, True])
async def test_the_limit_holds_for_whole_frames(split):
    """1009, one byte above it, in one read or two."""
    data = frame(BINARY, b"x" * (LIMIT + 1))
    async with connection() as websocket:
        for part in [data[:500], data[500:]] if split else [data]:
            feed(websocket, part)
        with pytest.raises(UpstreamEnded) as ended:
            await websocket.receive()

    assert ended.value.code == 1009
