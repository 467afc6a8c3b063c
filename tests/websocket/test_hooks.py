"""Message hooks: what they may do with a message, and what happens when they fail."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import contextlib

import pytest
from fastapi import FastAPI, WebSocket, WebSocketException
from websockets.exceptions import ConnectionClosed

from fastapi_proxy_router import ProxyRouter, Reply, WebSocketOptions, WebSocketOverride
from tests.servers import serve
from tests.test_relay import dialled, ended, ws_upstream
from tests.websocket.hooking import Hooked, upstream_told
from tests.websocket.wire import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

DIRECTIONS = pytest.mark.parametrize("direction", ["from_client", "from_upstream"])


async def judge(message: str | bytes) -> str | bytes | Reply | None:
    """Change, drop, answer or leave a message."""
    if message == "drop":
        return None
    if message == "answer":
        return Reply("no")
    if isinstance(message, bytes):
        return message.decode()
    return message.upper()


# --- What they do ------------------------------------------------------------------------------


async def test_the_clients_messages_are_changed_dropped_and_answered(server):
    """The upstream sees those that were passed on, and no others."""
    seen = []

    async def handler(connection):
        async for message in connection:
            seen.append(message)
            await connection.send(f"seen {message}")

    async with ws_upstream(handler) as upstream:
        async with serve(Hooked(upstream, judge), server) as gw, dialled(gw) as client:
            answers = []
            for message in ("a", "drop", "answer", b"binary", ""):
                await client.send(message)
                if message != "drop":
                    answers.append(await client.recv())
    assert seen == ["A", "binary", ""]
    assert answers == ["seen A", "no", "seen binary", "seen "]


async def test_the_upstreams_messages_are_changed_dropped_and_answered(server):
    """The client sees those that were passed on, and an answer goes to the upstream."""
    answers = []

    async def handler(connection):
        for message in ("a", "drop", "answer", b"binary", "end"):
            await connection.send(message)
        answers.append(await connection.recv())
        await connection.close(4000)

    async with ws_upstream(handler) as upstream:
        async with serve(Hooked(upstream, None, judge), server) as gw, dialled(gw) as client:
            received = [message async for message in messages_of(client)]
            assert (await ended(client))[0] == 4000
    assert received == ["A", "binary", "END"]
    assert answers == ["no"]


async def messages_of(client):
    """Yield messages until the end, whichever it is."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield await client.recv()


async def test_each_direction_has_its_own_hook():
    """Both at once, and what one passes on the other does not see."""

    async def up(message: str) -> str:
        return f"<{message}"

    async def down(message: str) -> str:
        return f"{message}>"

    async with ws_upstream() as upstream, serve(Hooked(upstream, up, down)) as gw:
        async with dialled(gw) as client:
            await client.send("x")
            assert await client.recv() == "<x>"


async def test_hooks_of_the_router_keep_their_state_for_each_connection():
    """What the override's function makes belongs to one WebSocket."""
    app = FastAPI()
    async with ws_upstream() as upstream:
        proxy = ProxyRouter(upstream.url)

        @proxy.override_websocket("/count/{start}")
        async def counting(start: int) -> WebSocketOverride:
            count = start

            async def number(message: str) -> str:
                nonlocal count
                count += 1
                return f"{count} {message}"

            return WebSocketOverride(path="/", on_client_message=number)

        app.include_router(proxy)
        async with serve(app) as gw:
            async with dialled(gw, "/count/0") as one, dialled(gw, "/count/10") as two:
                got = []
                for client in (one, two, one, two):
                    await client.send("x")
                    got.append(await client.recv())
    assert got == ["1 x", "11 x", "2 x", "12 x"]


@DIRECTIONS
async def test_the_order_of_messages_is_kept(direction):
    """However long the hook takes for each."""

    async def slow_first(message: str) -> str:
        await asyncio.sleep(0.02 if int(message) % 5 == 0 else 0)
        return message

    numbers = [str(number) for number in range(30)]
    async with ws_upstream() as upstream:
        app = Hooked(upstream, **{direction: slow_first})  # type: ignore[arg-type]
        async with serve(app) as gw:
            async with dialled(gw) as client:
                for number in numbers:
                    await client.send(number)
                assert [await client.recv() for _ in numbers] == numbers


async def test_a_slow_hook_stops_the_client():
    """Messages wait where they come from, not in a queue of ours."""
    release, called = asyncio.Event(), []

    async def wait(message: bytes) -> bytes:
        called.append(len(message))
        await release.wait()
        return message

    sent = 0
    async with ws_upstream() as upstream, serve(Hooked(upstream, wait)) as gw:
        async with dialled(gw, compression=None) as client:
            with contextlib.suppress(TimeoutError):
                while sent < 1024:
                    async with asyncio.timeout(0.3):
                        await client.send(b"x" * 65536)
                    sent += 1
            assert sent < 256
            assert len(called) == 1
            release.set()
            assert len(await client.recv()) == 65536


# --- How they fail -----------------------------------------------------------------------------


def failing(error: BaseException):
    async def hook(message: str) -> str:
        raise error

    return hook


async def one_message(connection):
    with contextlib.suppress(ConnectionClosed):
        await connection.send("x")
    await connection.wait_closed()


async def run_failing(app: Hooked, server: str = "uvicorn-httptools") -> tuple[int | None, str]:
    """Send a message that a hook fails on, and return how it ended for the client."""
    async with serve(app, server) as gw, dialled(gw) as client:
        with contextlib.suppress(ConnectionClosed):
            await client.send("x")
        end = await ended(client)
        await until(lambda: app.target.in_flight == 0)
    return end


@DIRECTIONS
@pytest.mark.parametrize("code", [1000, 1008, 1013, 3000, 4999])
async def test_a_hook_closes_both_sides_with_its_code(direction, code):
    """``WebSocketException`` is the word for it, as everywhere in FastAPI."""
    hook = failing(WebSocketException(code, "because"))
    async with ws_upstream(one_message) as upstream:
        app = Hooked(upstream, **{direction: hook})
        assert await run_failing(app) == (code, "because")
        assert await upstream_told(upstream) == (code, "because")
    assert app.raised == []


async def test_a_hook_closes_both_sides_on_every_server(server):
    """The code is the client's wherever the application can send one."""
    async with ws_upstream(one_message) as upstream:
        app = Hooked(upstream, failing(WebSocketException(4000, "x")))
        assert await run_failing(app, server) == (4000, "x")
        assert await upstream_told(upstream) == (4000, "x")


@pytest.mark.parametrize(("code", "client", "upstream"), [(1016, 1002, 1002), (1005, 1000, 1005)])
async def test_a_code_that_may_not_be_sent_is_not_sent(code, client, upstream):
    """A reserved one becomes 1002; no code is none, or 1000 where ASGI wants one."""
    async with ws_upstream(one_message) as up:
        app = Hooked(up, failing(WebSocketException(code, "x")))
        assert (await run_failing(app))[0] == client
        assert (await upstream_told(up))[0] == upstream


@DIRECTIONS
async def test_any_other_exception_ends_both_sides_and_is_raised(server, direction):
    """With 1011 and no word of it, and the server's log hears of the rest."""
    error = RuntimeError("SECRET")
    async with ws_upstream(one_message) as upstream:
        app = Hooked(upstream, **{direction: failing(error)})
        assert await run_failing(app, server) == (1011, "")
        assert await upstream_told(upstream) == (1011, "")
    assert app.raised == [error]


async def test_an_exception_has_its_handler():
    """It is the application's own, registered as for any other route."""
    handled = []

    async def handler(websocket: WebSocket, error: Exception) -> None:
        handled.append((websocket.url.path, error))

    error = KeyError("x")
    async with ws_upstream(one_message) as upstream:
        app = Hooked(upstream, failing(error))
        app.app.add_exception_handler(KeyError, handler)
        assert (await run_failing(app))[0] == 1011
    assert handled == [("/ws", error)]
    assert app.raised == []


@DIRECTIONS
async def test_a_hook_that_was_cancelled_ends_both_sides(direction):
    """A task of its own that it waits for may be; a relay that goes on by halves helps nobody."""
    async with ws_upstream(one_message) as upstream:
        app = Hooked(upstream, **{direction: failing(asyncio.CancelledError())})
        assert (await run_failing(app))[0] == 1011
        assert (await upstream_told(upstream))[0] == 1011


async def slow(message: str) -> str:
    await asyncio.sleep(0.05)
    return message


async def test_messages_before_the_clients_close_pass_a_slow_hook():
    """A client that sends and leaves has sent."""
    seen = []

    async def handler(connection):
        with contextlib.suppress(ConnectionClosed):
            while True:
                seen.append(await connection.recv())

    async with ws_upstream(handler) as upstream:
        async with serve(Hooked(upstream, slow)) as gw:
            async with dialled(gw) as client:
                for message in "abc":
                    await client.send(message)
                await client.close(4002, "bye")
            assert await upstream_told(upstream) == (4002, "bye")
    assert seen == ["a", "b", "c"]


async def test_messages_before_the_upstreams_close_pass_a_slow_hook():
    """Nor is an upstream's last word lost."""

    async def handler(connection):
        for message in "abc":
            await connection.send(message)
        await connection.close(4000, "bye")

    async with ws_upstream(handler) as upstream, serve(Hooked(upstream, None, slow)) as gw:
        async with dialled(gw) as client:
            assert [message async for message in messages_of(client)] == ["a", "b", "c"]
            assert await ended(client) == (4000, "bye")


# --- How they end ------------------------------------------------------------------------------


class Endless:
    """A hook that does not return, and tells whether it was stopped."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()

    async def __call__(self, message: str) -> str:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        return message


async def test_an_upstream_that_ends_stops_the_hook_of_the_client():
    """The hook is cancelled where it waits."""
    hook = Endless()

    async def leave(connection):
        await hook.begun.wait()
        await connection.close(4000)

    async with ws_upstream(leave) as upstream, serve(Hooked(upstream, hook)) as gw:
        async with dialled(gw) as client:
            await client.send("x")
            assert (await ended(client))[0] == 4000
            async with asyncio.timeout(1):
                await hook.stopped.wait()


async def test_a_client_that_leaves_stops_the_hook_of_the_upstream():
    """Likewise, and the upstream is told."""
    hook = Endless()
    async with ws_upstream(one_message) as upstream:
        async with serve(Hooked(upstream, None, hook)) as gw, dialled(gw) as client:
            await hook.begun.wait()
            await client.close(4002)
            async with asyncio.timeout(1):
                await hook.stopped.wait()
            assert (await upstream_told(upstream))[0] == 4002


@DIRECTIONS
async def test_a_limit_of_time_stops_a_hook(direction):
    """Both sides are closed although it does not return."""
    hook = Endless()
    async with ws_upstream(one_message) as upstream:
        app = Hooked(upstream, options=WebSocketOptions(lifetime=0.1), **{direction: hook})
        assert (await run_failing(app))[0] == 1001
        assert (await upstream_told(upstream))[0] == 1001
    assert hook.stopped.is_set()
