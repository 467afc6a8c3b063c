"""Every example runs on uvicorn in front of real upstreams and does what its docstring says."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import socketio  # type: ignore[import-untyped]
import websockets
from dotenv import dotenv_values

from fastapi_proxy_router import Upstream
from tests.examples.upstreams import closed_port, connect, named
from tests.servers import Served, raw_upstream

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"


# single_upstream


async def test_single_upstream_forwards_http(load, running, client):
    """A request for any path is answered by the upstream."""
    upstream = await running(named("one"))
    gateway = await running(load("single_upstream", UPSTREAM=upstream.url).app)
    answer = await client.post(f"{gateway.url}/any/path", content=b"hello")
    assert answer.json().items() >= {"name": "one", "target": "/any/path", "body": "hello"}.items()


async def test_single_upstream_relays_websockets(load, running):
    """A WebSocket talks to the upstream."""
    upstream = await running(named("one"))
    gateway = await running(load("single_upstream", UPSTREAM=upstream.url).app)
    async with connect(gateway, "/chat") as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "one: hello"


async def test_single_upstream_keeps_its_own_route(load, running, client):
    """The route of the app itself answers, although the upstream would too."""
    upstream = await running(named("one"))
    gateway = await running(load("single_upstream", UPSTREAM=upstream.url).app)
    assert (await client.get(f"{gateway.url}/healthz")).json() == {"status": "ok"}


# several_pools


@pytest.fixture
async def several_pools(load, running):
    """Run the example over four upstreams."""
    upstreams = {
        variable: (await running(named(variable.lower()))).url
        for variable in ("USERS", "ORDERS_1", "ORDERS_2", "WEBSITE")
    }
    return await running(load("several_pools", **upstreams).app)


async def test_several_pools_strip_the_prefix_and_announce_it(several_pools, client):
    """The users service sees the path below its prefix, and is told the prefix."""
    answer = (await client.get(f"{several_pools.url}/users/7")).json()
    assert (answer["name"], answer["target"]) == ("users", "/7")
    assert answer["headers"]["x-forwarded-prefix"] == "/users"


async def test_several_pools_take_turns_by_weight(several_pools, client):
    """Of eight orders, six go to the upstream of weight 3 and two to the one of weight 1."""
    answers = [await client.get(f"{several_pools.url}/orders/1") for _ in range(8)]
    assert Counter(answer.json()["name"] for answer in answers) == {"orders_1": 6, "orders_2": 2}


async def test_several_pools_send_the_rest_to_the_website(several_pools, client):
    """A path with no other prefix goes to the website, with the client's Host."""
    answer = (await client.get(f"{several_pools.url}/about")).json()
    assert (answer["name"], answer["target"]) == ("website", "/about")
    assert answer["headers"]["host"] == several_pools.authority


# auth_in_front


async def test_auth_in_front_refuses_http(load, running, client):
    """Without the token the answer is 401, and the upstream hears nothing."""
    async with raw_upstream() as upstream:
        gateway = await running(
            load("auth_in_front", API_TOKEN="secret", UPSTREAM=upstream.url).app
        )
        answer = await client.get(gateway.url, headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert upstream.connections == 0


async def test_auth_in_front_refuses_websockets(load, running):
    """Without the token the handshake is answered with 401, and the upstream hears nothing."""
    async with raw_upstream() as upstream:
        gateway = await running(
            load("auth_in_front", API_TOKEN="secret", UPSTREAM=upstream.url).app
        )
        with pytest.raises(websockets.InvalidStatus) as refusal:
            async with connect(gateway):
                pass
    assert refusal.value.response.status_code == 401
    assert upstream.connections == 0


async def test_auth_in_front_lets_the_token_in(load, running, client):
    """With the token both HTTP and WebSocket reach the upstream."""
    upstream = await running(named("one"))
    gateway = await running(load("auth_in_front", API_TOKEN="secret", UPSTREAM=upstream.url).app)
    headers = {"Authorization": "Bearer secret"}
    assert (await client.get(gateway.url, headers=headers)).json()["name"] == "one"
    async with connect(gateway, additional_headers=headers) as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "one: hello"


# retries


@pytest.fixture
def retries(load, running):
    """Run the example over the upstreams of a test."""

    async def _run(first: str, second: str, spare: str) -> Served:
        example = load("retries", UPSTREAMS=f"{first},{second}", SPARE=spare)
        served: Served = await running(example.app)
        return served

    return _run


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_retries_go_to_an_upstream_that_is_there(retries, running, client, method):
    """With two that are gone, the spare one has every request with its body."""
    spare = await running(named("spare"))
    gateway = await retries(await closed_port(), await closed_port(), spare.url)
    for _ in range(4):
        answer = await client.request(method, f"{gateway.url}/orders", content=b"two apples")
        assert answer.json().items() >= {"name": "spare", "body": "two apples"}.items()


@pytest.mark.parametrize(("headers", "expected"), [({}, 503), ({"Idempotency-Key": "7"}, 200)])
async def test_retries_repeat_a_post_that_has_a_key(retries, running, client, headers, expected):
    """An upstream that is about to stop is made good for it, and for no other POST."""
    stopping = b"HTTP/1.1 503 Stopping\r\nContent-Length: 0\r\n\r\n"
    spare = await running(named("spare"))
    async with raw_upstream(stopping) as first, raw_upstream(stopping) as second:
        gateway = await retries(first.url, second.url, spare.url)
        answer = await client.post(gateway.url, content=b"two apples", headers=headers)
    assert answer.status_code == expected


# failover_by_hand


async def test_failover_by_hand_uses_the_first(load, running, client):
    """While the first upstream answers, it gets the requests."""
    first, second = await running(named("first")), await running(named("second"))
    gateway = await running(load("failover_by_hand", FIRST=first.url, SECOND=second.url).app)
    assert (await client.get(gateway.url)).json()["name"] == "first"


async def test_failover_by_hand_sends_the_body_to_the_second(load, running, client):
    """When nobody listens at the first, the second gets the request with its whole body."""
    second = await running(named("second"))
    example = load("failover_by_hand", FIRST=await closed_port(), SECOND=second.url)
    gateway = await running(example.app)
    answer = (await client.post(f"{gateway.url}/orders", content=b"two apples")).json()
    assert (answer["name"], answer["body"]) == ("second", "two apples")


async def test_failover_by_hand_does_not_repeat_what_was_sent(load, running, client):
    """When the first closes after it has read the request, the second is not asked."""

    async def hang_up(_reader, _writer):
        return

    async with raw_upstream(hang_up) as first, raw_upstream() as second:
        gateway = await running(load("failover_by_hand", FIRST=first.url, SECOND=second.url).app)
        answer = await client.post(gateway.url, content=b"two apples")
    assert answer.status_code == 502
    assert (len(first.requests), second.connections) == (1, 0)


async def test_failover_by_hand_words_its_own_error(load, running, client):
    """When both are gone, the answer is that of the app's exception handler."""
    example = load("failover_by_hand", FIRST=await closed_port(), SECOND=await closed_port())
    gateway = await running(example.app)
    answer = await client.get(gateway.url)
    assert (answer.status_code, answer.headers["retry-after"]) == (502, "60")
    assert answer.json() == {"detail": "We will be back in a minute"}


# socket_io


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
@pytest.mark.parametrize("transports", [["polling"], ["websocket"], ["polling", "websocket"]])
async def test_socket_io_works_on_every_transport(load, running, transports):
    """A Socket.IO client gets its answer over polling, over a WebSocket, and over both in turn."""
    example = load("socket_io")
    server = await running(example.server)
    gateway = await running(load("socket_io", UPSTREAM=server.url).app)
    async with socketio.AsyncSimpleClient() as chat:
        await chat.connect(gateway.url, transports=transports)
        assert await chat.call("shout", "hello", timeout=10) == "HELLO"
        assert chat.transport == transports[-1]
        # A client that says goodbye itself waits for its last poll, which nothing answers.
        await example.sio.disconnect(chat.sid)
    # Its client does not release the connection of a WebSocket that the server has ended.
    gc.collect()


# settings_from_environment


async def test_settings_from_environment_build_the_gateway(load, running, client):
    """The file beside the example, with addresses of real upstreams, makes a working gateway."""
    environment = {k: v for k, v in dotenv_values(EXAMPLES / "gateway.env").items() if v}
    one, two = await running(named("one")), await running(named("two"))
    site = await running(named("site"))
    environment["PROXY_POOLS__USERS__UPSTREAMS"] = f"{one.url},{two.url}"
    environment["PROXY_POOLS__USERS__BALANCER"] = "round_robin"
    environment["PROXY_POOLS__SITE__UPSTREAMS"] = site.url
    gateway = await running(load("settings_from_environment", **environment).app)

    answers = [(await client.get(f"{gateway.url}/users/7")).json() for _ in range(2)]
    assert [answer["name"] for answer in answers] == ["one", "two"]
    assert answers[0]["target"] == "/7"
    assert (await client.get(f"{gateway.url}/about")).json()["name"] == "site"
    legacy = (await client.get(f"{gateway.url}/users/legacy/a%20b")).json()
    assert legacy["target"] == "/v2/a%20b"
    assert Upstream(one.url).authority.decode() == legacy["headers"]["host"]


# moderated_chat


async def test_moderated_chat_looks_into_messages(load, running):
    """Blanks go, empty messages are dropped, the fourth is answered, and nonsense ends it."""
    upstream = await running(named("chat"))
    gateway = await running(load("moderated_chat", UPSTREAM=upstream.url).app)
    async with connect(gateway, "/rooms/1") as websocket:
        for text in ("one", "  ", " two ", "three", "four"):
            await websocket.send(json.dumps({"text": text}))
        received = [await websocket.recv() for _ in range(4)]
        assert sorted(received) == [
            'chat: {"text":"one"}',
            'chat: {"text":"three"}',
            'chat: {"text":"two"}',
            '{"error":"Three messages are enough."}',
        ]
        await websocket.send("hello")
        await websocket.wait_closed()
        assert websocket.close_code == 1008


async def test_moderated_chat_refuses_a_room_that_is_no_number(load, running):
    """The upstream hears nothing of it."""
    gateway = await running(load("moderated_chat", UPSTREAM=await closed_port()).app)
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(gateway, "/rooms/lobby"):
            pass
    assert refused.value.response.status_code == 403


# watched_upstreams


async def test_watched_upstreams_are_left_alone_while_they_are_down(load, running, client, capsys):
    """One that is not there is known from the start, and gets no request."""
    sites = {"SITE_1": await closed_port()}
    sites |= {f"SITE_{n}": (await running(named(f"site {n}"))).url for n in (2, 3)}
    gateway = await running(load("watched_upstreams", INTERVAL="60", **sites).app)

    states = (await client.get(f"{gateway.url}/upstreams")).json()
    assert states == {
        sites["SITE_1"]: "unhealthy",
        sites["SITE_2"]: "healthy",
        sites["SITE_3"]: "healthy",
    }
    names = {(await client.get(gateway.url)).json()["name"] for _ in range(20)}
    assert names == {"site 2", "site 3"}
    assert f"{sites['SITE_1']} was unknown and is unhealthy" in capsys.readouterr().out


# sticky_sessions


async def test_sticky_sessions_keep_a_client_where_it_is(load, running, client):
    """Also when its upstream is drained; who is new goes to the other one then."""
    shops = {f"SHOP_{n}": (await running(named(f"shop {n}"))).url for n in (1, 2)}
    gateway = await running(load("sticky_sessions", AFFINITY_SECRET="x" * 32, **shops).app)

    first = await client.get(gateway.url)
    number = int(first.json()["name"][-1])
    assert list(client.cookies) == ["shop"]
    assert (await client.post(f"{gateway.url}/drain/{number - 1}")).status_code == 200
    assert [(await client.get(gateway.url)).json()["name"] for _ in range(5)] == [
        f"shop {number}"
    ] * 5
    client.cookies.clear()
    assert (await client.get(gateway.url)).json()["name"] == f"shop {3 - number}"


async def test_sticky_sessions_mean_the_same_in_every_worker(load, running, client):
    """Two processes with one secret understand each other's cookies."""
    shops = {f"SHOP_{n}": (await running(named(f"shop {n}"))).url for n in (1, 2)}
    workers = [
        await running(load("sticky_sessions", AFFINITY_SECRET="x" * 32, **shops).app)
        for _ in range(2)
    ]
    names = {(await client.get(workers[n % 2].url)).json()["name"] for n in range(10)}
    assert len(names) == 1


# canary


async def test_canary_is_for_those_who_ask(load, running, client):
    """By a header, and for its part of the others, who then stay."""
    stable, canary = await running(named("stable")), await running(named("canary"))
    gateway = await running(load("canary", STABLE=stable.url, CANARY=canary.url).app)

    asked = await client.get(gateway.url, headers={"X-Canary": "always"})
    assert asked.json()["name"] == "canary"
    assert (
        await client.put(f"{gateway.url}/weight/0")
    ).json() == "<Split '' 100 'stable', 0 'canary'>"
    assert (await client.get(gateway.url)).json()["name"] == "canary"
    client.cookies.clear()
    assert (await client.get(gateway.url)).json()["name"] == "stable"
    assert (await client.put(f"{gateway.url}/weight/100")).status_code == 200
    assert (await client.get(gateway.url)).json()["name"] == "stable"
    client.cookies.clear()
    assert (await client.get(gateway.url)).json()["name"] == "canary"


async def test_kill_one_shows_that_nobody_notices():
    """An upstream is killed: no call fails, its state is told, and it comes back."""
    command = (sys.executable, "-m", "examples.kill_one")
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PORT": "0", "PAUSE": "2", "no_proxy": "127.0.0.1"},
        start_new_session=True,
    )
    output, seen = process.stdout, list[str]()
    assert output is not None

    async def printed(pattern: str) -> str:
        while True:
            line = (await output.readline()).decode()
            assert line, f"it ended without {pattern!r}: {seen}"
            seen.append(line)
            if found := re.search(pattern, line):
                return found[1]

    try:
        async with asyncio.timeout(40):
            victim = int(await printed(r"beta: kill (\d+)"))
            await printed(r"beta +([1-9]\d*)  gamma +[1-9]")
            os.kill(victim, signal.SIGKILL)
            await printed(r"beta: healthy -> (unhealthy|ejected)")
            await printed(r"beta: \S+ -> (healthy)")
            await printed(r"beta +([1-9]\d*)  gamma")
            process.send_signal(signal.SIGTERM)
            await process.communicate()
            assert process.returncode == 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
    assert {found[1] for line in seen if (found := re.search(r"failed +(\d+)", line))} == {"0"}


async def test_balancers_shows_who_got_how_much(load, running, client):
    """By weight, which holds from the next request on when it is changed."""
    urls = [(await running(named(str(number)))).url for number in range(3)]
    example = load("balancers", SITES=",".join(urls), BALANCER="round_robin")
    gateway = await running(example.app)

    async def shares(requests: int) -> list[int]:
        for _ in range(requests):
            assert (await client.get(f"{gateway.url}/x")).status_code == 200
        return list((await client.get(f"{gateway.url}/shares")).json().values())

    assert await shares(8) == [4, 2, 2]
    weights = (await client.put(f"{gateway.url}/weight/0/0")).json()
    assert list(weights.values()) == [0, 1, 1]
    assert await shares(4) == [4, 4, 4]
    assert (await client.put(f"{gateway.url}/weight/3/1")).status_code == 404


# facade


@pytest.fixture
async def facade(load, running):
    """Run the facade in front of its legacy API."""
    legacy = await running(load("facade").legacy)
    return await running(load("facade", UPSTREAM=legacy.url).app)


async def test_facade_reads_a_customer(facade, client):
    """What the legacy API shouts is what the model says."""
    answer = await client.get(f"{facade.url}/customers/7")
    assert answer.json() == {
        "id": 7,
        "name": "June",
        "email": "june@example.com",
        "active": True,
    }


async def test_facade_creates_a_customer(facade, client):
    """JSON becomes a form, the answer a 201, and the customer can be read and made only once."""
    new = {"name": "May", "email": "may@example.com"}
    answer = await client.post(f"{facade.url}/customers", json=new)
    assert (answer.status_code, answer.headers["location"]) == (201, "/customers/8")
    assert answer.json() == {"id": 8, "active": True, **new}
    assert (await client.get(f"{facade.url}/customers/8")).json() == answer.json()
    assert (await client.post(f"{facade.url}/customers", json=new)).status_code == 409


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/customers/9", None, 404),
        ("GET", "/customers/june", None, 422),
        ("POST", "/customers", {"name": "", "email": "may@example.com"}, 422),
    ],
)
async def test_facade_refuses_what_it_does_not_know(facade, client, method, path, body, status):
    """Errors are those of HTTP."""
    answer = await client.request(method, f"{facade.url}{path}", json=body)
    assert answer.status_code == status


async def test_facade_lets_nobody_past(load, running, client):
    """Whatever it does not have is not forwarded, in any spelling."""
    async with raw_upstream() as upstream:
        gateway = await running(load("facade", UPSTREAM=upstream.url).app)
        for path in ("/cgi/customer.do", "/%63gi;x/customer.do", "/customers/7/"):
            for method in ("GET", "HEAD", "PUT"):
                answer = await client.request(method, f"{gateway.url}{path}")
                # FastAPI leads from a trailing slash to the hook.
                assert answer.status_code in (307, 404, 405), (method, path)
        with pytest.raises(websockets.InvalidStatus) as refusal:
            async with connect(gateway, "/cgi/customer.do"):
                pass
    assert refusal.value.response.status_code == 403
    assert upstream.connections == 0


async def test_facade_documents_itself(load):
    """OpenAPI has the routes with their models, and nothing of the legacy API."""
    document = load("facade").app.openapi()
    assert set(document["paths"]) == {"/customers/{number}", "/customers"}
    read, create = (
        document["paths"]["/customers/{number}"]["get"],
        document["paths"]["/customers"]["post"],
    )
    assert [parameter["name"] for parameter in read["parameters"]] == ["number"]
    assert _model(read["responses"]["200"]) == _model(create["responses"]["201"]) == "Customer"
    assert _model(create["requestBody"]) == "NewCustomer"
    assert "Legacy" not in json.dumps(document)


def _model(content: dict[str, Any]) -> str:
    """Return the name of the model that is documented for a body."""
    reference: str = content["content"]["application/json"]["schema"]["$ref"]
    return reference.rpartition("/")[2]


def test_every_example_is_tested():
    """No example stands without a test in this file."""
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"}
    names = {name for name in names if not name.startswith("demo")}
    source = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in names if f"def test_{name}_" not in source} == set()
