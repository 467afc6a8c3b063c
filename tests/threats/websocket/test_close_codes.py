"""W3: every close code, from each side, as the other side hears it."""

from __future__ import annotations

import pytest

from tests.threats.websocket.known import known
from tests.threats.websocket.wire import NO_CODE, End, close_frame, relayed

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

REASON = "because \xe9".encode()
#: May be sent, and is passed on.
SENT = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4999]
#: May not be sent: a bad frame.
ILLEGAL = [0, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2999, 5000, 65535]


@pytest.mark.parametrize("code", SENT)
async def test_a_close_of_the_upstream_reaches_the_client(world, code):
    """With its code and its reason; the upstream gets its own code back."""

    async def close(peer):
        await peer.send(close_frame(code, REASON))

    world.upstream.behaviour = close
    async with relayed(world.gw) as client:
        assert await client.end() == ([], End(code, REASON))
        assert (await world.upstream.end()).code == code


@pytest.mark.parametrize("code", ILLEGAL)
async def test_an_illegal_close_of_the_upstream_is_a_bad_gateway(world, code):
    """The upstream hears 1002, and the client never what may not be sent."""

    async def close(peer):
        await peer.send(close_frame(code, REASON))

    world.upstream.behaviour = close
    async with relayed(world.gw) as client:
        assert await client.end() == ([], End(1014))
        assert (await world.upstream.end()).code == 1002
    await world.still_works()


async def test_a_close_of_the_upstream_without_a_code_is_a_normal_one(world):
    """ASGI has no close without a code, and it is not 1005."""

    async def close(peer):
        await peer.send(close_frame())

    world.upstream.behaviour = close
    async with relayed(world.gw) as client:
        _, ended = await client.end()
        assert ended in (End(1000), End(NO_CODE))
        assert await world.upstream.end() == End(NO_CODE)


@pytest.mark.parametrize("size", [123, 0])
async def test_the_longest_reason_reaches_the_client(world, size):
    """A close frame holds 123 bytes of it."""

    async def close(peer):
        await peer.send(close_frame(1000, b"r" * size))

    world.upstream.behaviour = close
    async with relayed(world.gw) as client:
        assert await client.end() == ([], End(1000, b"r" * size))
        await world.upstream.end()


@pytest.mark.parametrize("code", SENT)
async def test_a_close_of_the_client_reaches_the_upstream(world, code):
    """With its code and its reason, as far as the server tells them."""
    async with relayed(world.gw) as client:
        await client.send(close_frame(code, REASON, masked=True))
        _, answer = await client.end()
        told = await world.upstream.end()

    if known(world.server, "The application is not told the code of a close frame"):
        assert told == End(1001)
    elif code == 1014 and known(world.server, "1014 from a client is a bad frame"):
        assert told.code == 1002
    elif known(world.server, "The application is not told the reason of a close frame"):
        assert told == End(code)
    else:
        assert told == End(code, REASON)
        assert answer.code == code


@pytest.mark.parametrize("code", ILLEGAL)
async def test_an_illegal_close_of_the_client_is_its_mistake(world, code):
    """The upstream hears 1002, or that the client has gone, and never what may not be sent."""
    async with relayed(world.gw) as client:
        await client.send(close_frame(code, REASON, masked=True))
        await client.end()
        told = await world.upstream.end()

    untold = known(world.server, "The application is not told the code of a close frame")
    assert told.code == (1001 if untold else 1002)
    await world.still_works()


async def test_a_close_of_the_client_without_a_code_stays_one(world):
    """Where the server can tell it from a client that has vanished; then it is 1001."""
    async with relayed(world.gw) as client:
        await client.send(close_frame(masked=True))
        await client.end()
        told = await world.upstream.end()

    lossy = known(world.server, "A close without a code, a lost connection and a bad frame are one")
    assert told == (End(1001) if lossy else End(NO_CODE))
