"""Every recipe runs on uvicorn in front of real upstreams and does what its docstring says."""

import asyncio
import json
from pathlib import Path

import pytest
import websockets
from fastapi import FastAPI, Request, Response
from starlette.middleware.gzip import GZipMiddleware

from tests.examples.upstreams import closed_port, connect, named
from tests.servers import raw_upstream

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


def answering(head: str, body: bytes = b"") -> bytes:
    """Return a whole response of a raw upstream."""
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def services(**answers) -> FastAPI:
    """Return an upstream that answers each path with its JSON, and what it was asked beside."""
    app = FastAPI()
    app.state.asked = []

    @app.get("/{path:path}")
    async def answer(request: Request, path: str) -> Response:
        app.state.asked.append(request.headers)
        found = answers.get(path.replace("/", "_"))
        return Response(
            json.dumps(found), 404 if found is None else 200, media_type="application/json"
        )

    return app


# strip_a_prefix


@pytest.mark.parametrize(
    ("asked", "target", "prefix"),
    [
        ("/shop/items/7?full=1", "/items/7", "/shop"),
        ("/shop/a%2Fb", "/a%2Fb", "/shop"),
        ("/files/a.txt", "/files/a.txt", None),
        ("/files/2019/en/caf%C3%A9/a.txt", "/files/caf%C3%A9/a.txt", None),
    ],
)
async def test_strip_a_prefix_cuts_the_path(load, running, client, asked, target, prefix):
    """The upstream gets the rest byte for byte, and is told the prefix that is missing."""
    upstream = await running(named("one"))
    gateway = await running(load("recipes.strip_a_prefix", UPSTREAM=upstream.url).app)
    answer = (await client.get(f"{gateway.url}{asked}")).json()
    assert (answer["target"], answer["headers"].get("x-forwarded-prefix")) == (target, prefix)


# redirects_and_cookies


async def test_redirects_and_cookies_are_public(load, running, client):
    """The client is sent to its own host, below the prefix, and so are its cookies."""

    async def redirect(_reader, writer):
        writer.write(
            answering(
                "HTTP/1.1 302 Found\r\n"
                f"Location: {upstream.url}/login?next=%2F\r\n"
                "Set-Cookie: sid=1; Path=/; Domain=shop.internal; HttpOnly\r\n"
                "Set-Cookie: theme=dark; Path=/look"
            )
        )
        await writer.drain()

    async with raw_upstream(redirect) as upstream:
        gateway = await running(load("recipes.redirects_and_cookies", UPSTREAM=upstream.url).app)
        answer = await client.get(f"{gateway.url}/shop/account")
    assert answer.headers["location"] == "/shop/login?next=%2F"
    sid, theme = (set(line.split("; ")) for line in answer.headers.get_list("set-cookie"))
    assert sid == {"sid=1", "Path=/shop", "HttpOnly", "Secure", "SameSite=Lax"}
    assert theme == {"theme=dark", "Path=/shop/look", "Secure", "SameSite=Lax"}


# inject_an_api_key


@pytest.fixture
def keyed(load):
    """Build the gateway over two upstreams, which want a key each."""

    def _keyed(eu: str, us: str) -> FastAPI:
        keys = {"EU_KEY": "e-1", "US_KEY": "u-1"}
        app: FastAPI = load("recipes.inject_an_api_key", EU=eu, US=us, **keys).app
        return app

    return _keyed


async def test_inject_an_api_key_for_requests(keyed, running, client):
    """Each upstream gets its own key and nothing of what the client sent under that name."""
    async with raw_upstream() as eu, raw_upstream() as us:
        gateway = await running(keyed(eu.url, us.url))
        for _ in range(8):
            sent = {"X-Api-Key": "mine", "X_Api_Key": "mine"}
            assert (await client.get(gateway.url, headers=sent)).status_code == 200
    for upstream, key in ((eu, b"e-1"), (us, b"u-1")):
        for request in upstream.requests:
            lines = [line for line in request.head.lower().split(b"\r\n") if b"api" in line]
            assert lines == [b"x-api-key: " + key]
    assert len(eu.requests) + len(us.requests) == 8


async def test_inject_an_api_key_of_the_upstream_that_is_tried_next(keyed, running, client):
    """A retry has the key of its upstream."""
    us = await running(named("us"))
    gateway = await running(keyed(await closed_port(), us.url))
    for _ in range(4):
        assert (await client.get(gateway.url)).json()["headers"]["x-api-key"] == "u-1"


async def test_inject_an_api_key_for_websockets(keyed, running):
    """A handshake has the key, too."""
    asked = []

    async def upstream(scope, receive, send):
        if scope["type"] == "websocket":
            asked.append(dict(scope["headers"])[b"x-api-key"])
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})

    served = await running(upstream)
    gateway = await running(keyed(served.url, served.url.replace("127.0.0.1", "localhost")))
    async with connect(gateway, additional_headers={"X-Api-Key": "mine"}) as websocket:
        await websocket.wait_closed()
    assert asked in ([b"e-1"], [b"u-1"])


# mask_a_field

CUSTOMER = {"id": 7, "name": "June", "email": "june@example.com", "iban": "DE02"}


async def test_mask_a_field_for_guests(load, running, client):
    """Guests read a masked address, and nothing that the model does not have."""
    upstream = await running(services(customers_7=CUSTOMER))
    gateway = await running(load("recipes.mask_a_field", UPSTREAM=upstream.url).app)
    answer = await client.get(f"{gateway.url}/customers/7")
    assert answer.json() == {"id": 7, "name": "June", "email": "***"}


async def test_mask_a_field_for_nobody_else(load, running, client):
    """Who may see all gets the answer as it came."""
    upstream = await running(services(customers_7=CUSTOMER))
    gateway = await running(load("recipes.mask_a_field", UPSTREAM=upstream.url).app)
    headers = {"Authorization": "Bearer support"}
    answer = await client.get(f"{gateway.url}/customers/7", headers=headers)
    assert answer.json() == CUSTOMER


async def test_mask_a_field_shows_nothing_that_does_not_fit(load, running, client):
    """An answer that is no customer is a 502 without a word of it."""
    upstream = await running(services(customers_7={"iban": "DE02"}))
    gateway = await running(load("recipes.mask_a_field", UPSTREAM=upstream.url).app)
    answer = await client.get(f"{gateway.url}/customers/7")
    assert (answer.status_code, "DE02" in answer.text) == (502, False)


# version_an_api


async def test_version_an_api_in_its_old_shape(load, running, client):
    """Version 1 answers as it always did, and says that it is deprecated."""
    user = {"id": 7, "first_name": "June", "last_name": "May"}
    upstream = await running(services(v2_users_7=user))
    gateway = await running(load("recipes.version_an_api", UPSTREAM=upstream.url).app)
    answer = await client.get(f"{gateway.url}/v1/users/7")
    assert answer.json() == {"id": 7, "name": "June May"}
    assert answer.headers["deprecation"].startswith("@")


async def test_version_an_api_rewrites_all_else(load, running, client):
    """Where the versions do not differ, the answer of version 2 is that of version 1."""
    upstream = await running(named("api"))
    gateway = await running(load("recipes.version_an_api", UPSTREAM=upstream.url).app)
    old = await client.get(f"{gateway.url}/v1/orders/7")
    new = await client.get(f"{gateway.url}/v2/orders/7")
    assert old.json()["target"] == new.json()["target"] == "/v2/orders/7"
    assert ("deprecation" in old.headers, "deprecation" in new.headers) == (True, False)


async def test_version_an_api_documents_the_old_one(load):
    """OpenAPI shows the old route, its model, and that it is deprecated."""
    app = load("recipes.version_an_api").app
    operation = app.openapi()["paths"]["/v1/users/{id}"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert (operation["deprecated"], schema["$ref"].split("/")[-1]) == (True, "UserV1")


# canary_by_header


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({}, "stable"),
        ({"X-Canary": "whatever"}, "canary"),
        ({"Host": "office.example.com:8000"}, "canary"),
    ],
)
async def test_canary_by_header_is_for_those_who_ask(load, running, client, headers, name):
    """By the header, whatever it says, and by the host; the answer tells."""
    stable, canary = await running(named("stable")), await running(named("canary"))
    example = load("recipes.canary_by_header", STABLE=stable.url, CANARY=canary.url)
    gateway = await running(example.app)
    answer = await client.get(gateway.url, headers=headers)
    assert answer.json()["name"] == name
    assert answer.headers.get("x-served-by", "stable") == name


# maintenance_page


@pytest.fixture
def flag(tmp_path):
    """Return the path of the file that says that it is maintenance time."""
    return tmp_path / "maintenance"


async def test_maintenance_page_when_nobody_is_there(load, running, client, flag):
    """An upstream that cannot be reached is a 502 with the page."""
    example = load("recipes.maintenance_page", UPSTREAM=await closed_port(), FLAG=str(flag))
    gateway = await running(example.app)
    answer = await client.get(gateway.url)
    assert (answer.status_code, answer.headers["retry-after"]) == (502, "60")
    assert (answer.text, answer.headers["content-type"]) == (
        example.PAGE,
        "text/html; charset=utf-8",
    )


@pytest.mark.parametrize(("status", "is_page"), [(503, True), (500, False), (404, False)])
async def test_maintenance_page_for_some_statuses(load, running, client, flag, status, is_page):
    """The page stands in for the upstream's own 503; other errors are left alone."""
    async with raw_upstream(answering(f"HTTP/1.1 {status} Sorry", b"sorry")) as upstream:
        example = load("recipes.maintenance_page", UPSTREAM=upstream.url, FLAG=str(flag))
        gateway = await running(example.app)
        answer = await client.get(gateway.url)
    assert (answer.status_code, answer.text == example.PAGE) == (status, is_page)


async def test_maintenance_page_on_purpose(load, running, client, flag):
    """While the file is there nobody gets through, WebSockets neither; then everybody does."""
    upstream = await running(named("one"))
    example = load("recipes.maintenance_page", UPSTREAM=upstream.url, FLAG=str(flag))
    gateway = await running(example.app)
    flag.touch()
    answer = await client.get(gateway.url)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "600")
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(gateway):
            pass
    assert refused.value.response.status_code == 503
    flag.unlink()
    assert (await client.get(gateway.url)).json()["name"] == "one"
    async with connect(gateway) as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "one: hello"


# merge_two_upstreams

ORDERS = [{"id": 1, "total": 12}]


@pytest.fixture
def merging(load, running):
    """Run the gateway over two services."""

    async def _merging(users: str, orders: str):
        example = load("recipes.merge_two_upstreams", USERS=users, ORDERS=orders)
        return await running(example.app)

    return _merging


async def test_merge_two_upstreams_into_one_answer(merging, running, client):
    """One request has what two services know, each of which was told who asks."""
    users = services(users_7={"name": "June"})
    orders = services(users_7_orders=ORDERS)
    gateway = await merging((await running(users)).url, (await running(orders)).url)
    answer = await client.get(f"{gateway.url}/dashboard/7", headers={"Authorization": "Bearer 7"})
    assert answer.json() == {"name": "June", "orders": ORDERS}
    for service in (users, orders):
        assert [asked["authorization"] for asked in service.state.asked] == ["Bearer 7"]


async def test_merge_two_upstreams_asks_both_at_once(merging, client):
    """Neither answers before the other has been asked."""
    arrived, asked_both = [], asyncio.Event()

    def together(body: bytes):
        async def answer(_reader, writer):
            arrived.append(body)
            if len(arrived) == 2:
                asked_both.set()
            await asked_both.wait()
            writer.write(answering("HTTP/1.1 200 OK\r\nContent-Type: application/json", body))
            await writer.drain()

        return answer

    async with raw_upstream(together(b'{"name": "June"}')) as users:
        async with raw_upstream(together(b"[]")) as orders:
            gateway = await merging(users.url, orders.url)
            answer = await client.get(f"{gateway.url}/dashboard/7")
    assert answer.json() == {"name": "June", "orders": []}


async def test_merge_two_upstreams_reads_what_is_compressed(merging, running, client):
    """What a service compresses is read all the same."""
    users = GZipMiddleware(services(users_7={"name": "June " * 1000}), minimum_size=1)
    orders = GZipMiddleware(services(users_7_orders=ORDERS), minimum_size=1)
    gateway = await merging((await running(users)).url, (await running(orders)).url)
    answer = await client.get(f"{gateway.url}/dashboard/7", headers={"Accept-Encoding": "br, gzip"})
    assert answer.json() == {"name": "June " * 1000, "orders": ORDERS}


async def test_merge_two_upstreams_without_the_orders(merging, running, client):
    """Orders that cannot be had are null; a user that is not known is a 404."""
    users = await running(services(users_7={"name": "June"}))
    gateway = await merging(users.url, await closed_port())
    answer = await client.get(f"{gateway.url}/dashboard/7")
    assert answer.json() == {"name": "June", "orders": None}
    assert (await client.get(f"{gateway.url}/dashboard/8")).status_code == 404


async def test_merge_two_upstreams_without_the_user(merging, running, client):
    """Without the users there is no page."""
    orders = await running(services(users_7_orders=ORDERS))
    gateway = await merging(await closed_port(), orders.url)
    assert (await client.get(f"{gateway.url}/dashboard/7")).status_code == 502


def test_every_recipe_is_tested():
    """No recipe stands without a test in this file."""
    names = {path.stem for path in RECIPES.glob("*.py")} - {"__init__"}
    source = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in names if f"def test_{name}_" not in source} == set()
