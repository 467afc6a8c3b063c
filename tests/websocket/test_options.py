"""The options of WebSockets: as arguments, from the environment, and what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from fastapi_proxy_router import (
    ConfigurationError,
    ProxyRouter,
    ProxySettings,
    UpstreamPool,
    WebSocketOptions,
    WebSocketSettings,
)
from tests.servers import serve
from tests.test_relay import dialled, ended, ws_upstream
from tests.test_settings import environment, mistakes

__all__ = ["environment"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

ORIGINS = ("https://app.example", "http://localhost:3000")


def test_what_is_not_set_is_the_documented_default():
    """In code and in the environment alike."""
    expected = WebSocketOptions(
        max_message_size=16 * 1024 * 1024,
        compression=False,
        ping_interval=20,
        ping_timeout=20,
        idle=None,
        lifetime=None,
        allowed_origins=None,
    )
    assert WebSocketOptions() == expected
    assert WebSocketOptions(**WebSocketSettings().model_dump()) == expected
    assert UpstreamPool("http://a").policy.websocket == expected


def test_every_option_has_a_variable(environment):
    """All fields, for all pools and for one of them."""
    environment(
        WEBSOCKET__MAX_MESSAGE_SIZE="1000",
        WEBSOCKET__COMPRESSION="yes",
        WEBSOCKET__PING_INTERVAL="1.5",
        WEBSOCKET__PING_TIMEOUT="null",
        WEBSOCKET__IDLE="60",
        WEBSOCKET__LIFETIME="3600",
        WEBSOCKET__ALLOWED_ORIGINS=json.dumps(ORIGINS),
        POOLS__A__UPSTREAMS="http://a",
        POOLS__A__PREFIX="/a",
        POOLS__B__UPSTREAMS="http://b",
        POOLS__B__WEBSOCKET__IDLE="null",
        POOLS__B__WEBSOCKET__MAX_MESSAGE_SIZE="null",
        POOLS__B__WEBSOCKET__COMPRESSION="0",
        POOLS__B__WEBSOCKET__ALLOWED_ORIGINS="null",
    )
    pools: dict[str, Any] = ProxyRouter.from_settings().pools

    common: dict[str, Any] = {"ping_interval": 1.5, "ping_timeout": None, "lifetime": 3600}
    assert pools["/a"].policy.websocket == WebSocketOptions(
        max_message_size=1000, compression=True, idle=60, allowed_origins=ORIGINS, **common
    )
    assert pools[""].policy.websocket == WebSocketOptions(max_message_size=None, **common)


@pytest.mark.parametrize("variable", ["WEBSOCKET__{}", "POOLS__A__WEBSOCKET__{}"])
@pytest.mark.parametrize(
    "line", [",".join(ORIGINS), " , ".join(ORIGINS), json.dumps(ORIGINS), ORIGINS[0]]
)
def test_origins_are_comma_separated_or_json(environment, variable, line):
    """As upstreams are, and one is a list, too."""
    name = variable.format("ALLOWED_ORIGINS")
    environment(**{name: line, "POOLS__A__UPSTREAMS": "http://a"})

    pools: dict[str, Any] = ProxyRouter.from_settings().pools

    origins = pools[""].policy.websocket.allowed_origins
    assert origins == (ORIGINS if line != ORIGINS[0] else ORIGINS[:1])


async def test_a_limit_from_the_environment_holds(environment):
    """End to end."""
    async with ws_upstream() as upstream:
        environment(
            WEBSOCKET__MAX_MESSAGE_SIZE="1000",
            WEBSOCKET__IDLE="0.1",
            POOLS__A__UPSTREAMS=upstream.url,
            POOLS__A__WEBSOCKET__IDLE="null",
        )
        app = FastAPI()
        app.include_router(ProxyRouter.from_settings())
        async with serve(app) as gw, dialled(gw, "/") as client:
            await client.send("x" * 1000)
            assert len(await client.recv()) == 1000
            await client.send("x" * 1001)
            assert (await ended(client))[0] == 1009


def test_every_mistake_in_the_environment_is_reported_at_once(environment):
    """Wrong values and unknown variables, for all pools and for one."""
    environment(
        WEBSOCKET__MAX_MESSAGE_SIZE="0",
        WEBSOCKET__COMPRESSION="perhaps",
        WEBSOCKET__PING_INTERVAL="0",
        WEBSOCKET__PING_TIMEOUT="soon",
        WEBSOCKET__IDLE="-1",
        WEBSOCKET__LIFETIME="inf",
        WEBSOCKET__ALLOWED_ORIGINS='["https://app.example/"]',
        WEBSOCKET__PING="1",
        POOLS__A__UPSTREAMS="http://a",
        POOLS__A__WEBSOCKET__IDLE="never",
        POOLS__A__WEBSOCKET__MAX_SIZE="1",
        POOLS__A__WEBSOCKET__ALLOWED_ORIGINS='["app.example"]',
    )
    with pytest.raises(ValidationError) as raised:
        ProxySettings()

    common = "max_message_size compression ping_interval ping_timeout idle lifetime ping"
    found = {name.removesuffix(".tuple[str, ...]") for name in mistakes(raised.value)}
    assert {name.partition(".function")[0] for name in found} == {
        *(f"websocket.{name}" for name in common.split()),
        "websocket.allowed_origins",
        *(f"pools.a.websocket.{name}" for name in ("idle", "max_size", "allowed_origins")),
    }


WRONG = {
    "max_message_size": [0, -1, 1.5, "1000", True],
    "ping_interval": [0, -1, "20", float("nan"), True],
    "ping_timeout": [0, "20"],
    "idle": [0, "60"],
    "lifetime": [0, "60"],
    "compression": ["no", 1, None],
    "allowed_origins": [
        "https://app.example",
        5,
        [5],
        ["app.example"],
        ["https://app.example/"],
        ["https://App.example"],
        ["https://app.example:"],
        ["https://"],
        ["*"],
        [""],
        ["https://caf\xe9.example"],
        ["https://app.example:443"],
        ["https://app.exampleE"],
        ["https://app.example?"],
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_an_option_that_cannot_work_is_refused(name, value):
    """Where it is built, and the report names it."""
    with pytest.raises(ConfigurationError) as raised:
        WebSocketOptions(**{name: value})
    assert len(raised.value.mistakes) == 1
    assert f"websocket {name}" in raised.value.mistakes[0]


def test_every_mistake_is_reported_at_once():
    """Also each of several origins."""
    with pytest.raises(ConfigurationError) as raised:
        WebSocketOptions(
            max_message_size=0,
            ping_interval=0,
            ping_timeout=0,
            idle=0,
            lifetime=0,
            allowed_origins=["a", "https://app.example", "b"],
        )
    assert len(raised.value.mistakes) == 7


@pytest.mark.parametrize("origin", ["https://app.example", "null", "app://x", "http://[::1]:8080"])
def test_what_browsers_call_an_origin_is_one(origin):
    """Scheme, host and port, or the word null."""
    assert WebSocketOptions(allowed_origins=[origin]).allowed_origins == (origin,)


def test_options_do_not_change():
    """They are frozen, and given by name."""
    options = WebSocketOptions()
    with pytest.raises(AttributeError):
        options.idle = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        WebSocketOptions(1000)  # type: ignore[call-arg]


@pytest.mark.parametrize("given", [{"idle": 5}, None, 5])
def test_a_pool_takes_options_and_nothing_else(given):
    """A mapping is not unpacked, and the report says what is wanted, along with the rest."""
    with pytest.raises(ConfigurationError, match="websocket must be WebSocketOptions") as raised:
        UpstreamPool("ftp://a", websocket=given)
    assert len(raised.value.mistakes) == 2
