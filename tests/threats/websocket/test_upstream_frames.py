"""W2: bad frames of an upstream. Our parser meets them; the client hears an abnormal end."""

from __future__ import annotations

import asyncio

import pytest

from tests.threats.websocket.wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    close_frame,
    frame,
    relayed,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

BAD = {
    "masked": (frame(TEXT, b"bad", masked=True), 1002),
    "RSV1 without compression": (frame(TEXT, b"bad", rsv=RSV1), 1002),
    "RSV2": (frame(TEXT, b"bad", rsv=RSV2), 1002),
    "RSV3": (frame(TEXT, b"bad", rsv=RSV3), 1002),
    "opcode 3": (frame(3, b"bad"), 1002),
    "opcode 7": (frame(7, b"bad"), 1002),
    "opcode 11": (frame(11, b"bad"), 1002),
    "opcode 15": (frame(15, b"bad"), 1002),
    "a ping of 126 bytes": (frame(PING, b"b" * 126), 1002),
    "a ping in fragments": (frame(PING, b"bad", fin=False), 1002),
    "a close in fragments": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a continuation of nothing": (frame(CONT, b"bad"), 1002),
    "two messages interleaved": (frame(TEXT, b"ba", fin=False) + frame(TEXT, b"d"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close of 126 bytes": (close_frame(1000, b"b" * 124), 1002),
    "text that is not UTF-8": (frame(TEXT, b"bad \xff"), 1007),
    "text cut in a character": (frame(TEXT, b"bad \xc3"), 1007),
    "text with a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "fragments that are not UTF-8": (frame(TEXT, b"b\xc3", fin=False) + frame(CONT, b"ad"), 1007),
    "a reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
    "a length of 17 MiB": (frame(BINARY, b"bad", length=17 << 20), 1009),
    "a length of 2^62": (frame(BINARY, b"bad", length=1 << 62), 1009),
    "a length of 2^63": (frame(BINARY, b"bad", length=1 << 63), 1009),
    "fragments of 17 MiB": (
        frame(BINARY, bytes(16 << 20), fin=False) + frame(CONT, bytes(1 << 20)),
        1009,
    ),
}


@pytest.mark.parametrize("row", BAD)
async def test_a_bad_frame_ends_both_sides(world, row):
    """The upstream is told its mistake; the client gets what came before, and what went wrong."""
    data, code = BAD[row]

    async def misbehave(peer):
        await peer.message("good")
        await peer.send(data, frame(TEXT, b"after"))

    world.upstream.behaviour = misbehave
    async with relayed(world.gw) as client:
        received, ended = await client.end()
        told = await world.upstream.end()

    assert received == [b"good"]
    assert told.code == code
    assert ended.code == (1009 if code == 1009 else 1014)
    await world.still_works()


@pytest.mark.parametrize("row", BAD)
async def test_a_close_behind_a_bad_frame_makes_no_good_end(world, row):
    """Though it says 1000, and may be answered before anybody has looked at the text."""
    data, code = BAD[row]

    async def misbehave(peer):
        await peer.send(data, frame(TEXT, b"after"), close_frame(1000))

    world.upstream.behaviour = misbehave
    async with relayed(world.gw) as client:
        received, ended = await client.end()
        told = await world.upstream.end()

    assert received == []
    assert ended.code == (1009 if code == 1009 else 1014)
    assert told.code in ((code, 1000) if code == 1007 else (code,))


async def test_what_a_client_is_told_names_no_upstream(world):
    """The reason for which an upstream was given up is for the log."""

    async def misbehave(peer):
        await peer.send(frame(3))

    world.upstream.behaviour = misbehave
    async with relayed(world.gw) as client:
        _, ended = await client.end()

    assert ended.reason == b""


async def test_a_bad_frame_leaves_nothing_in_the_log_but_a_line(world, caplog):
    """The line says what was wrong, and whose fault it was."""

    async def misbehave(peer):
        await peer.send(frame(TEXT, b"bad \xff"))

    world.upstream.behaviour = misbehave
    async with relayed(world.gw, target=b"/x?token=SECRET") as client:
        await client.end()
    await world.upstream.end()
    await world.still_works()

    (line,) = [r.getMessage() for r in caplog.records if r.name == "fastapi_proxy_router"]
    assert "1007" in line
    assert "fault of upstream" in line
    assert "SECRET" not in line


@pytest.mark.parametrize("row", ["closes", "resets"])
async def test_an_upstream_that_vanishes_in_a_message_delivers_no_half(world, row):
    """W5: what was not finished is not delivered, and the end is abnormal."""

    async def vanish(peer):
        await peer.message("good")
        await peer.send(frame(TEXT, b"half of a message", fin=False))
        await peer.send(frame(CONT, b"cut", length=100))
        if row == "resets":
            peer.reset()
        else:
            peer.writer.close()

    world.upstream.behaviour = vanish
    async with relayed(world.gw) as client:
        received, ended = await client.end()
    await world.upstream.end()

    assert received == [b"good"]
    assert ended.code == 1014
    await world.still_works()


async def test_control_frames_between_fragments_disturb_nothing(world):
    """Pings and pongs may stand inside a message; each ping is answered with its own bytes."""
    pongs = []

    async def interleave(peer):
        await peer.send(frame(TEXT, b"a", fin=False), frame(PING, b"1"), frame(CONT, fin=False))
        await peer.send(frame(10, b"unasked"), frame(PING, b"2" * 125), frame(CONT, b"b"))
        async with asyncio.timeout(3):
            pongs.extend([(await peer.receive()).payload, (await peer.receive()).payload])

    world.upstream.behaviour = interleave
    async with relayed(world.gw) as client:
        assert (await client.receive()).payload == b"ab"
        await client.send(close_frame(1000, masked=True))
        await client.end()
    await world.upstream.end()

    assert pongs == [b"1", b"2" * 125]
