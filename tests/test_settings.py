"""Settings from the environment and from .env."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from fastapi_proxy_router import ProxyRouter, ProxySettings, Timeout
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = pytest.mark.anyio

OVERRIDE = {"path": "/old/{id}", "rewrite": "/new/{id}"}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Set PROXY_ variables, in a directory without a .env file."""
    monkeypatch.chdir(tmp_path)

    def set_variables(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"PROXY_{name}", value)

    return set_variables


def mistakes(error: ValidationError) -> list[str]:
    return [".".join(map(str, mistake["loc"])) for mistake in error.errors()]


async def test_a_gateway_comes_from_the_environment(environment):
    """Pools, prefixes, forwarding, timeouts and overrides, end to end."""
    async with raw_upstream() as upstream:
        environment(
            PREFIX="/api",
            POOLS__USERS__UPSTREAMS=f"{upstream.url}/base, {upstream.url}/base",
            POOLS__USERS__PREFIX="/users",
            POOLS__USERS__PRESERVE_HOST="true",
            TRUSTED_PROXIES="127.0.0.0/8",
            OVERRIDES=json.dumps([{"path": "/users/old/{id}", "rewrite": "/new/{id}"}]),
        )
        app = FastAPI()
        app.include_router(ProxyRouter.from_settings())
        async with serve(app) as gw:
            got = await get_raw(gw, "/api/users/old/7?x=1", "X-Forwarded-For: 9.9.9.9")

        assert status(got) == 200
        assert upstream.last.target == b"/base/new/7?x=1"
        assert upstream.last.values(b"host") == [gw.authority.encode()]
        assert upstream.last.values(b"x-forwarded-for") == [b"9.9.9.9, 127.0.0.1"]
        assert upstream.last.values(b"x-forwarded-prefix") == [b"/api/users"]


def test_every_setting_has_a_variable(environment):
    """All fields, nested ones with two underscores, lists as JSON or comma-separated."""
    environment(
        PREFIX="/api",
        STRIP_PREFIX="no",
        TRUSTED_PROXIES='["10.0.0.0/8", "unix"]',
        TIMEOUT__CONNECT="1",
        TIMEOUT__RESPONSE="2.5",
        TIMEOUT__IDLE="null",
        OVERRIDES=json.dumps([OVERRIDE]),
        POOLS__A__UPSTREAMS='["http://a1", {"url": "http://a2", "weight": 3}]',
        POOLS__A__PREFIX="/a",
        POOLS__A__FORWARDED="1",
        POOLS__A__VIA="gateway",
        POOLS__A__TIMEOUT__RESPONSE="9",
        POOLS__B__UPSTREAMS="http://b",
    )
    settings = ProxySettings()
    router = ProxyRouter.from_settings(settings, tags=["t"])
    a, b = router.pools["/a"], router.pools[""]

    assert (router.prefix, router.tags, settings.strip_prefix) == ("/api", ["t"], False)
    assert [(upstream.url, upstream.weight) for upstream in a.upstreams] == [
        ("http://a1", 1),
        ("http://a2", 3),
    ]
    assert (a.name, b.name) == ("a", "b")
    assert (a.policy.forwarded, a.policy.via) == (True, b"gateway")
    assert a.policy.timeout == Timeout(1, 9, None)
    assert b.policy.timeout == Timeout(1, 2.5, None)
    assert b.policy.trusted_proxies.unix
    assert settings.overrides[0].rewrite == "/new/{id}"


def test_every_mistake_is_reported_at_once(environment):
    """Wrong values and unknown variables, on every level, in one report."""
    environment(
        PREFIX="no-slash",
        TIMEOUT__CONNECT="never",
        TIMEOUT__READ="1",
        UPSTREAM="http://a",
        STRIPPREFIX="1",
        POOLS__A__UPSTREAMS="ftp://a",
        POOLS__A__WEIGHT="1",
        POOLS__B__PREFIX="/b/",
        OVERRIDES='[{"path": "x"}]',
        TRUSTED_PROXIES="10.0.0.0/99",
        POOLS__C__UPSTREAMS="http://user:SECRET@c",
        POOLS__C__VIA="a b",
    )
    with pytest.raises(ValidationError) as raised:
        ProxySettings()

    assert set(mistakes(raised.value)) == {
        "prefix",
        "timeout.connect",
        "timeout.read",
        "PROXY_UPSTREAM",
        "PROXY_STRIPPREFIX",
        "pools.a.upstreams.0",
        "pools.a.weight",
        "pools.b.upstreams",
        "pools.b.prefix",
        "overrides.0.path",
        "trusted_proxies",
        "pools.c.upstreams.0",
        "pools.c.via",
    }
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "PROXY_POOLS__<name>__UPSTREAMS"),
        ({"POOLS__A__UPSTREAMS": ""}, "at least 1"),
        ({"POOLS__A__UPSTREAMS": "http://a", "POOLS__B__UPSTREAMS": "http://b"}, "several pools"),
        ({"POOLS__A__UPSTREAMS": "http://a", "TRUSTED_PROXIES": "10.0.0.0/99"}, "10.0.0.0/99"),
        ({"POOLS__A__UPSTREAMS": "http://a", "POOLS__A__VIA": "a b"}, "pseudonym"),
        ({"POOLS__A__UPSTREAMS": '["http://a"'}, "JSON"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(environment, variables, words):
    """The report says what to do."""
    environment(**variables)

    with pytest.raises(ValueError, match=words):
        ProxySettings()


def test_a_file_is_read_and_the_environment_wins(environment, tmp_path):
    """.env may hold other programs' variables; an unknown PROXY_ one is an error there too."""
    lines = ["DATABASE_URL=x", "PROXY_PREFIX=/file", "PROXY_POOLS__A__UPSTREAMS=http://file"]
    (tmp_path / ".env").write_text("\n".join(lines))
    environment(PREFIX="/environment")

    settings = ProxySettings()

    assert settings.prefix == "/environment"
    assert settings.pools["a"].upstreams[0].url == "http://file"

    (tmp_path / ".env").write_text("\n".join([*lines, "PROXY_PREFX=/x"]))
    with pytest.raises(ValidationError) as raised:
        ProxySettings()
    assert mistakes(raised.value) == ["PROXY_PREFX"]
