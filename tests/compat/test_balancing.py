"""LoadBalancer: its turns, its limits, and what it answers when nobody may be asked."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import logging
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router.compat import HealthChecker, LoadBalancer
from tests.compat.programs import application
from tests.servers import get_raw, raw_upstream, serve, status
from tests.test_relay import dialled, ws_upstream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

A, B, C = "http://a", "http://b", "http://c"


def checked(status: dict[str, Any], **limits: int) -> HealthChecker:
    """Return a checker that has found this out."""
    targets: Any = list(status)
    if limits:
        targets = [
            {"host": t, "maxrequests": limits.get(t.removeprefix("http://"))} for t in status
        ]
    checker = HealthChecker(targets)
    checker.status.update(status)
    return checker


def next_round(checker: HealthChecker) -> None:
    checker.last_update += 1


# --- In turn -------------------------------------------------------------------------------------


def test_servers_take_turns():
    """In their order, again and again."""
    balancer = LoadBalancer([A, B, C])
    assert [balancer.get() for _ in range(7)] == [A, B, C, A, B, C, A]


def test_peek_takes_no_turn():
    """It says who is next."""
    balancer = LoadBalancer([A, B])
    assert [balancer.peek(), balancer.peek(), balancer.get(), balancer.peek()] == [A, A, A, B]


def test_the_next_turn_can_be_set():
    """The others follow from there."""
    balancer = LoadBalancer([A, B, C])
    balancer.set_index(2)
    assert [balancer.get() for _ in range(2)] == [C, A]


@pytest.mark.parametrize("index", [-1, 2])
def test_a_turn_that_nobody_has_cannot_be_set(index):
    """An IndexError, as there."""
    with pytest.raises(IndexError):
        LoadBalancer([A, B]).set_index(index)


def test_all_servers_can_be_had():
    """The list itself, as there: a program may change it."""
    servers = [A, B]
    balancer = LoadBalancer(servers)
    assert balancer.get_all() is servers
    balancer.set_index(1)
    servers.remove(B)
    assert [balancer.peek(), balancer.get()] == [A, A]


def test_nobody_is_none():
    """An empty list has no next."""
    balancer = LoadBalancer([])
    assert (balancer.peek(), balancer.get(), balancer.get_all()) == (None, None, [])


def test_a_limit_without_rounds_says_that_it_has_no_effect(caplog):
    """There, it has none either, but nobody is told."""
    balancer = LoadBalancer([A])
    with caplog.at_level(logging.WARNING, "fastapi_proxy_router"):
        balancer.max_requests = 1
    assert balancer.max_requests == 1
    assert [balancer.get() for _ in range(2)] == [A, A]
    assert "no effect" in caplog.text


# --- With a HealthChecker ------------------------------------------------------------------------


def test_the_fastest_healthy_server_is_chosen():
    """Always, until a check says otherwise."""
    checker = checked({A: 9.0, B: 3.0, C: False})
    balancer = LoadBalancer(checker)
    assert [balancer.get() for _ in range(3)] == [B, B, B]
    checker.status[B] = False
    assert balancer.get() == A


def test_the_next_fastest_follows_when_the_limit_is_reached():
    """And nobody, when all have reached theirs."""
    balancer = LoadBalancer(checked({A: 9.0, B: 3.0}))
    balancer.max_requests = 2
    assert [balancer.get() for _ in range(5)] == [B, B, A, A, None]


def test_a_round_of_checks_resets_the_counts():
    """The limit is one per interval."""
    checker = checked({A: 1.0})
    balancer = LoadBalancer(checker)
    balancer.max_requests = 1
    assert [balancer.get(), balancer.get()] == [A, None]
    next_round(checker)
    assert [balancer.get(), balancer.get()] == [A, None]


def test_peek_counts_nothing():
    """However often it is asked."""
    balancer = LoadBalancer(checked({A: 1.0}))
    balancer.max_requests = 1
    assert [balancer.peek(), balancer.peek(), balancer.get(), balancer.peek()] == [A, A, A, None]


def test_every_server_may_have_its_own_limit():
    """None is no limit."""
    balancer = LoadBalancer(checked({A: 1.0, B: 2.0}, a=1))
    assert [balancer.get() for _ in range(4)] == [A, B, B, B]


def test_there_is_no_common_limit_beside_their_own():
    """It can neither be read nor set."""
    balancer = LoadBalancer(checked({A: 1.0}, a=1))
    with pytest.raises(RuntimeError):
        _ = balancer.max_requests
    with pytest.raises(RuntimeError):
        balancer.max_requests = 1


def test_there_are_no_turns_to_be_set():
    """All targets can be had, though."""
    balancer = LoadBalancer(checked({A: 1.0, B: False}))
    with pytest.raises(RuntimeError):
        balancer.set_index(0)
    assert balancer.get_all() == [A, B]


def test_a_server_that_was_never_checked_is_not_the_fastest():
    """There, it has taken 0 ms."""
    assert LoadBalancer(checked({A: None, B: 3.0})).get() == B


def test_before_the_first_check_servers_take_turns():
    """There, the first gets everything."""
    balancer = LoadBalancer(checked({A: None, B: None}))
    assert [balancer.get() for _ in range(4)] == [A, B, A, B]


# --- Forwarding ----------------------------------------------------------------------------------


def gateway(balancer: LoadBalancer, **arguments: Any) -> FastAPI:
    app = application()

    @app.get("/{rest:path}")
    async def passed(request: Request, rest: str):
        return await balancer.proxy_pass(request, **{"path": f"/{rest}", **arguments})

    @app.websocket("/{rest:path}")
    async def relayed(websocket: WebSocket, rest: str):
        await balancer.proxy_pass_websocket(websocket, **arguments)

    return app


async def test_nobody_to_ask_is_a_503():
    """In plain text."""
    async with serve(gateway(LoadBalancer([]))) as gw:
        answer = await get_raw(gw)
    assert status(answer) == 503
    assert answer.endswith(b"Service Unavailable")


async def test_nobody_to_ask_refuses_a_websocket():
    """It is closed before it is accepted, which is a 403."""
    async with serve(gateway(LoadBalancer([]))) as gw:
        with pytest.raises(InvalidStatus) as refused:
            async with dialled(gw, "/x"):
                pass
    assert refused.value.response.status_code == 403


async def test_what_proxy_pass_takes_is_taken():
    """override_host too, as the README says."""
    async with raw_upstream() as upstream:
        balancer = LoadBalancer([upstream.url])
        arguments = {"override_host": "a.test", "additional_headers": {"x": "1"}, "method": "POST"}
        async with serve(gateway(balancer, forward_query=False, **arguments)) as gw:
            await get_raw(gw, "/a%2Fb?q")
    assert upstream.last.line == b"POST /a%2Fb HTTP/1.1"
    assert (upstream.last.values(b"host"), upstream.last.values(b"x")) == ([b"a.test"], [b"1"])


async def test_the_path_may_be_left_out():
    """It is the client's then."""
    async with raw_upstream() as upstream:
        async with serve(gateway(LoadBalancer([upstream.url]), path=None)) as gw:
            await get_raw(gw, "/a%2Fb?q")
    assert upstream.last.target == b"/a%2Fb?q"


@pytest.mark.parametrize("checks", [False, True])
async def test_the_base_path_of_a_server_is_kept(checks):
    """For HTTP and for WebSockets, from a list and from a HealthChecker."""
    async with ws_upstream() as upstream:
        servers: Any = [f"{upstream.url}/base/"]
        balancer = LoadBalancer(HealthChecker(servers) if checks else servers)
        async with serve(gateway(balancer)) as gw, dialled(gw, "/x"):
            request = upstream.connections[0].request
    assert request is not None
    assert request.path == "/base/x"
    async with raw_upstream() as http:
        servers = [f"{http.url}/base/"]
        balancer = LoadBalancer(HealthChecker(servers) if checks else servers)
        async with serve(gateway(balancer)) as gw:
            await get_raw(gw, "/x")
    assert http.last.target == b"/base/x"


async def test_a_websocket_takes_a_timeout():
    """The one of the handshake."""

    async def silent(reader, _writer):
        await reader.read()

    async with raw_upstream(silent) as upstream:
        app = application()
        balancer = LoadBalancer([upstream.url])

        @app.websocket("/x")
        async def relayed(websocket: WebSocket):
            await balancer.proxy_pass_websocket(websocket, timeout=0.2)

        async with serve(app) as gw:
            with pytest.raises(InvalidStatus) as refused:
                async with dialled(gw, "/x"):
                    pass
    assert refused.value.response.status_code == 504
