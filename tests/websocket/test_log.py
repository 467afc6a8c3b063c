"""Whose fault the end of a WebSocket was, in the log."""

import asyncio
import contextlib
import logging

import pytest
from fastapi import WebSocketException
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from fastapi_proxy_router import WebSocketOptions
from tests.servers import serve
from tests.test_relay import dialled, ended, ws_upstream
from tests.test_streaming import leave
from tests.websocket.hooking import Hooked
from tests.websocket.wire import Wire, until, wire_client, wire_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


def lines(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "fastapi_proxy_router"]


@pytest.fixture(autouse=True)
def _all_levels(caplog):
    caplog.set_level(logging.DEBUG, "fastapi_proxy_router")


async def refuse(message: str) -> str:
    raise WebSocketException(4000, "no")


async def close(client):
    await client.close(4002)


async def vanish(client):
    client.transport.abort()


async def send_much(client):
    await client.send("x" * 2000)


async def send(client):
    await client.send("x")


async def nothing(_client):
    """Wait."""


NO_FAULTS = [
    (close, {}),
    (vanish, {}),
    (send_much, {"options": WebSocketOptions(max_message_size=1000)}),
    (send, {"from_client": refuse}),
    (nothing, {"options": WebSocketOptions(idle=0.1)}),
    (nothing, {"options": WebSocketOptions(lifetime=0.1)}),
]


@pytest.mark.parametrize(("act", "options"), NO_FAULTS, ids=range(len(NO_FAULTS)))
@pytest.mark.parametrize("is_busy", [False, True])
async def test_an_end_that_is_nobodys_fault_is_not_logged(caplog, act, options, is_busy):
    """A client that leaves, a limit, a hook: also while the upstream sends."""

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            while is_busy:
                await connection.send("x")
                await asyncio.sleep(0.001)
        await connection.wait_closed()

    async with ws_upstream(handler) as upstream:
        app = Hooked(upstream, **options)
        if is_busy and options.get("options", WebSocketOptions()).idle:
            pytest.skip("it does not idle")
        async with serve(app) as gw, dialled(gw) as client:
            await act(client)
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await client.recv()
            await upstream.closed.wait()
            await until(lambda: app.target.in_flight == 0)
    assert lines(caplog) == []


@pytest.mark.parametrize("code", [None, 1000, 1001, 1011, 4000])
async def test_a_close_of_the_upstream_is_not_logged(caplog, code):
    """Whatever its code: what it means is between the two."""

    async def script(wire: Wire) -> None:
        wire.write(Opcode.CLOSE, b"" if code is None else code.to_bytes(2))
        await wire.read_until(Opcode.CLOSE)

    async with wire_upstream(script) as upstream:
        app = Hooked(upstream)
        async with serve(app) as gw, dialled(gw) as client:
            assert (await ended(client))[0] == (code or 1000)
    assert lines(caplog) == []


async def quit_at_once(wire: Wire) -> None:
    """Close the connection without a word."""


async def reset(wire: Wire) -> None:
    await leave(wire.writer, "reset")


async def stay_silent(wire: Wire) -> None:
    await wire.read_until(Opcode.CLOSE)


def saying(data: bytes):
    async def script(wire: Wire) -> None:
        wire.writer.write(data)
        await wire.read_until(Opcode.CLOSE)

    return script


FAULTS = [
    (quit_at_once, "closed the connection"),
    (reset, "closed the connection"),
    (stay_silent, "1011 keepalive ping timeout"),
    (saying(b"\x81\x81maskX"), "1002 incorrect masking"),
    (saying(b"\xf1\x01x"), "1002 reserved bits"),
    (saying(b"\x83\x00"), "1002 invalid opcode"),
    (saying(b"\x80\x00"), "1002 unexpected continuation"),
    (saying(b"\x09\x00"), "1002 fragmented control"),
    (saying(b"\x81\x02\xff\xfe"), "1007 text that is not UTF-8"),
    (saying(b"\x01\x01\xff\x80\x01\xfe"), "1007 text that is not UTF-8"),
    # A good close after it in the same packet makes nothing good.
    (saying(b"\x81\x02\xff\xfe\x88\x02\x03\xe8"), "10"),
    (saying(b"\x88\x02\x03\xed"), "1002 "),
    (saying(b"\x88\x01\x03"), "1002 "),
]


@pytest.mark.parametrize(("script", "words"), FAULTS, ids=range(len(FAULTS)))
async def test_an_upstream_that_fails_is_one_line_in_the_log(caplog, script, words):
    """It has vanished or broken the protocol: the client is told 1014, and the log by whom."""
    options = WebSocketOptions(ping_interval=0.1, ping_timeout=0.1)
    async with wire_upstream(script) as upstream:
        app = Hooked(upstream, options=options)
        async with serve(app) as gw, dialled(gw) as client:
            assert (await ended(client))[0] == 1014
            await until(lambda: app.target.in_flight == 0)
        (line,) = lines(caplog)
        assert line.startswith(f"WEBSOCKET '/ws' to {upstream.url} failed at body")
    assert "fault of upstream" in line
    assert words in line
    assert caplog.records[-1].levelno == logging.WARNING


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_client_that_resets_its_connection_is_not_logged(caplog, is_busy):
    """TCP's own way to leave."""

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            while is_busy:
                await connection.send("x" * 1000)
        await connection.wait_closed()

    async with ws_upstream(handler) as upstream:
        app = Hooked(upstream)
        async with serve(app) as gw, wire_client(gw) as client:
            await leave(client.writer, "reset")
            await upstream.closed.wait()
            await until(lambda: app.target.in_flight == 0)
    assert lines(caplog) == []
