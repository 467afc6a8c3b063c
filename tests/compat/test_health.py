"""HealthChecker: what it accepts, what it asks, and when."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fastapi_proxy_router import ConfigurationError
from fastapi_proxy_router.compat import HealthChecker
from tests.compat.programs import closed_port
from tests.servers import OK, raw_upstream
from tests.test_forwarding import respond

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

A, B = "http://a", "http://b"


async def until(condition: Callable[[], Any], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# --- Construction --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"targets": []}, ValueError),
        ({"targets": [A], "interval": 0}, ValueError),
        ({"targets": [A], "timeout": 0}, ValueError),
        ({"targets": [1]}, TypeError),
        ({"targets": [A, {"host": B}]}, TypeError),
        ({"targets": [{"host": A}, B]}, TypeError),
        ({"targets": [{"pingpath": "/"}]}, KeyError),
        ({"targets": ["http://"]}, ConfigurationError),
        ({"targets": [{"host": A}], "ping_path": "/x"}, RuntimeError),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, error):
    """With the exceptions that it raises there."""
    with pytest.raises(error):
        HealthChecker(**arguments)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("http://a", "http://a"),
        ("http://a:8080/", "http://a:8080"),
        ("https://a/base/?q#f", "https://a/base"),
        ("a:8080", "http://a:8080"),
    ],
)
def test_a_target_is_named_by_its_address_and_base_path(target, name):
    """There, the base path is lost, and a target without a scheme is misread."""
    for targets in ([target], [{"host": target}]):
        assert HealthChecker(targets).targets == [name]


def test_the_dictionaries_are_kept():
    """Under the names of the targets."""
    targets = [{"host": f"{A}/", "pingpath": "/up", "own": 1}]
    checker = HealthChecker(targets)
    assert (checker.is_personalized, checker.target_configs) == (True, {A: targets[0]})
    assert (HealthChecker([A]).is_personalized, HealthChecker([A]).target_configs) == (
        False,
        {A: {}},
    )


def test_the_ping_path_can_be_given_read_and_set():
    """Only where it is the same for all."""
    checker = HealthChecker([A], ping_path="/up")
    assert (checker.ping_path, HealthChecker([A]).ping_path) == ("/up", "/")
    checker.ping_path = "/healthz"
    assert checker.ping_path == "/healthz"
    own = HealthChecker([{"host": A}])
    with pytest.raises(RuntimeError):
        _ = own.ping_path
    with pytest.raises(RuntimeError):
        own.ping_path = "/up"


def test_before_the_first_check_nothing_is_known():
    """No target is down, and none is the fastest."""
    checker = HealthChecker([A, B], interval=3, timeout=4)
    assert (checker.interval, checker.timeout) == (3, 4)
    assert checker.status == {A: None, B: None}
    assert (checker.get_healthy_targets(), checker.is_healthy(A)) == ([A, B], True)
    assert (checker.get_response_times(), checker.get_fastest()) == ({}, None)


def test_a_checker_that_was_never_started_goes_quietly(caplog):
    """There, it warns of a client that it could not close."""
    with caplog.at_level(logging.DEBUG):
        HealthChecker([A])
        gc.collect()
    assert caplog.text == ""


# --- What is asked -------------------------------------------------------------------------------


async def test_the_first_check_is_over_when_it_has_started():
    """What is up has a time, what is down has none."""
    down = await closed_port()
    async with raw_upstream() as upstream:
        began = time.perf_counter()
        async with HealthChecker([down, upstream.url], ping_path="/up?x") as checker:
            assert checker.status[down] is False
            assert list(checker.get_response_times()) == [upstream.url]
            assert 0 < checker.get_response_times()[upstream.url] < 1000
            assert checker.get_healthy_targets() == [upstream.url]
            assert checker.get_fastest() == upstream.url
            assert checker.last_update > began
    assert [request.line for request in upstream.requests] == [b"HEAD /up?x HTTP/1.1"]


async def test_the_slower_target_is_not_the_fastest():
    """The times are those of the answers, in milliseconds."""

    async def slow(_reader, writer):
        await asyncio.sleep(0.05)
        writer.write(OK)
        await writer.drain()

    async with raw_upstream(slow) as one, raw_upstream() as two:
        async with HealthChecker([one.url, two.url]) as checker:
            times = checker.get_response_times()
            assert checker.get_fastest() == two.url
            assert 50 <= times[one.url] < 5000


@pytest.mark.parametrize(
    ("code", "healthy"), [("204 No Content", True), ("302 Found", True), ("404 Not Found", False)]
)
async def test_an_error_status_is_down(code, healthy):
    """From 400 on. A redirect is not followed."""
    async with raw_upstream(respond("Location: /x", code=code, body=b"")) as upstream:
        async with HealthChecker([upstream.url]) as checker:
            assert checker.is_healthy(upstream.url) is healthy
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("code", ["405 Method Not Allowed", "501 Not Implemented"])
async def test_a_target_without_head_is_asked_with_get(code):
    """There, it is down."""

    async def only_get(_reader, writer):
        is_get = upstream.last.line.startswith(b"GET")
        writer.write(OK if is_get else respond("X: 1", code=code, body=b""))
        await writer.drain()

    async with raw_upstream(only_get) as upstream:
        async with HealthChecker([upstream.url]) as checker:
            assert checker.is_healthy(upstream.url)
    assert upstream.last.line == b"GET / HTTP/1.1"


async def test_a_silent_target_is_down_when_the_time_is_up():
    """And holds up no other."""
    silent = asyncio.Event()

    async def wait(_reader, _writer):
        await silent.wait()

    async with raw_upstream(wait) as one, raw_upstream() as two:
        checker = HealthChecker([one.url, two.url])
        checker.timeout = 0.3
        checking = asyncio.create_task(checker.check_all())
        await until(lambda: checker.status[two.url] is not None)
        assert checker.status[one.url] is None
        await checking
        assert checker.status[one.url] is False
        await checker.destroy()


async def test_every_target_may_have_its_own_path():
    """A slash is put before it if it has none."""
    async with raw_upstream() as one, raw_upstream() as two:
        targets = [{"host": one.url, "pingpath": "up"}, {"host": two.url}]
        async with HealthChecker(targets):
            pass
    assert (one.last.target, two.last.target) == (b"/up", b"/")


async def test_the_path_is_not_put_below_the_base_path():
    """It is where it was there."""
    async with raw_upstream() as upstream:
        async with HealthChecker([f"{upstream.url}/base"], ping_path="/up"):
            pass
    assert upstream.last.target == b"/up"


async def test_a_client_of_the_programs_own_asks():
    """With what it sends by itself. It is not closed with the checker."""
    async with raw_upstream() as upstream:
        own: Any = {"auth": ("bob", "secret"), "headers": {"X-Probe": "1"}}
        async with httpx.AsyncClient(trust_env=False, **own) as client:
            async with HealthChecker([upstream.url], httpx_client=client) as checker:
                assert checker.is_healthy(upstream.url)
            assert not client.is_closed
    assert upstream.last.values(b"authorization") == [b"Basic Ym9iOnNlY3JldA=="]
    assert upstream.last.values(b"x-probe") == [b"1"]


async def test_a_client_that_fails_in_its_own_way_is_a_target_that_is_down():
    """One that was closed, for instance; the checks go on."""
    client = httpx.AsyncClient()
    await client.aclose()
    async with HealthChecker([A], httpx_client=client) as checker:
        assert checker.status == {A: False}


async def test_any_url_of_a_server_asks_for_its_health():
    """As there; one of another server is not healthy, nor is nonsense."""
    async with raw_upstream() as upstream:
        async with HealthChecker([f"{upstream.url}/base"]) as checker:
            assert checker.is_healthy(f"{upstream.url}/base/")
            assert checker.is_healthy(upstream.url)
            assert checker.is_healthy(f"{upstream.url}/any/path")
            assert not checker.is_healthy(A)
            assert not checker.is_healthy("http://[")


async def test_a_change_is_one_line_in_the_log(caplog):
    """However often the same is found; that a target is up at first is no change."""
    codes = iter(["200 OK", "200 OK", "500 Oops", "503 Oops", "200 OK", "200 OK"])

    async def moody(_reader, writer):
        writer.write(respond("X: 1", code=next(codes), body=b""))
        await writer.drain()

    async with raw_upstream(moody) as upstream:
        checker = HealthChecker([upstream.url])
        with caplog.at_level(logging.INFO, "fastapi_proxy_router"):
            for _ in range(6):
                await checker.check_all()
        await checker.destroy()
    said = [message.removeprefix(f"target {upstream.url} is ") for message in caplog.messages]
    assert [message.split(":")[0] for message in said] == ["down", "up again"]


# --- When ----------------------------------------------------------------------------------------


async def test_starting_checks_once():
    """There, it checks twice at once."""
    async with raw_upstream() as upstream:
        async with HealthChecker([upstream.url], interval=60) as checker:
            await checker.start()
            await asyncio.wait_for(checker.start(), 1)
    assert len(upstream.requests) == 1


async def test_starting_twice_at_once_checks_once():
    """Both wait for the same check."""
    async with raw_upstream() as upstream:
        checker = HealthChecker([upstream.url], interval=60)
        await asyncio.gather(checker.start(), checker.start())
        assert checker.get_fastest() == upstream.url
        await checker.destroy()
    assert len(upstream.requests) == 1


async def test_checks_go_on_at_the_interval():
    """What comes up is noticed."""
    async with raw_upstream() as upstream:
        checker = HealthChecker([upstream.url])
        checker.interval = 0.01
        async with checker:
            await until(lambda: len(upstream.requests) >= 3)


async def test_stopping_keeps_what_is_known():
    """Nothing is asked any more."""
    async with raw_upstream() as upstream:
        checker = HealthChecker([upstream.url])
        await checker.start()
        await checker.stop()
        await checker.stop()
        assert checker.is_healthy(upstream.url)
        assert checker.get_fastest() == upstream.url
        await checker.destroy()


async def test_a_destroyed_checker_can_be_started_again():
    """There, everything is down from then on."""
    async with raw_upstream() as upstream:
        checker = HealthChecker([upstream.url])
        for _ in range(2):
            async with checker:
                assert checker.get_response_times().keys() == {upstream.url}
    assert len(upstream.requests) == 2


async def test_destroying_closes_the_connections():
    """The target sees it at once."""
    async with raw_upstream() as upstream:
        async with HealthChecker([upstream.url]):
            pass
        async with asyncio.timeout(1):
            await upstream.closed.wait()


async def test_a_start_that_is_cancelled_leaves_nothing_behind():
    """The fixture sees to that."""

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        checker = HealthChecker([upstream.url])
        starting = asyncio.create_task(checker.start())
        await upstream.received.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await checker.destroy()


async def test_a_checker_of_an_ended_event_loop_can_be_started_in_another():
    """An application that is tested twice has two."""
    async with raw_upstream() as upstream:
        checker = HealthChecker([upstream.url], interval=60)
        for _ in range(2):
            await asyncio.to_thread(asyncio.run, checker.start())
        await checker.start()
        assert checker.is_healthy(upstream.url)
        await checker.destroy()
    assert len(upstream.requests) == 3
