"""Settings from the environment and from .env."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.requests import HTTPConnection

from fastapi_proxy_router import (
    AffinitySettings,
    ConfigurationError,
    Ejection,
    HealthCheck,
    ProxyRouter,
    ProxySettings,
    Queue,
    RateLimit,
    Retry,
    Split,
    Timeout,
    UpstreamPool,
)
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
        POOLS__A__KEEP_SERVER_HEADERS="true",
        POOLS__A__TIMEOUT__RESPONSE="9",
        POOLS__B__UPSTREAMS="http://b",
    )
    settings = ProxySettings()
    router = ProxyRouter.from_settings(settings, tags=["t"])
    a, b = router.pools["/a"], router.pools[""]
    assert isinstance(a, UpstreamPool)
    assert isinstance(b, UpstreamPool)

    assert (router.prefix, router.tags, settings.strip_prefix) == ("/api", ["t"], False)
    assert [(upstream.url, upstream.weight) for upstream in a.upstreams] == [
        ("http://a1", 1),
        ("http://a2", 3),
    ]
    assert (a.name, b.name) == ("a", "b")
    assert (a.policy.forwarded, a.policy.via) == (True, b"gateway")
    assert (a.policy.keep_server_headers, b.policy.keep_server_headers) == (True, False)
    assert a.policy.timeout == Timeout(1, 9, None)
    assert b.policy.timeout == Timeout(1, 2.5, None)
    assert b.policy.trusted_proxies.unix
    assert settings.overrides[0].rewrite == "/new/{id}"


def test_every_setting_of_a_pool_has_a_variable(environment):
    """Balancing, health, retries, limits and affinity, as the pool takes them in Python."""
    environment(
        POOLS__A__UPSTREAMS=json.dumps(
            [
                {"url": "http://a1", "max_concurrent": 3, "rate_limit": {"requests": 9}},
                {"url": "http://a2", "backup": True, "address": "10.0.0.1"},
            ]
        ),
        POOLS__A__BALANCER="least_requests",
        POOLS__A__HEALTH__PATH="/healthz",
        POOLS__A__HEALTH__STATUSES="200-204,404",
        POOLS__A__HEALTH__HEADERS='{"x-probe": "1"}',
        POOLS__A__HEALTH__INTERVAL="2.5",
        POOLS__A__EJECTION__CONSECUTIVE="null",
        POOLS__A__EJECTION__STATUSES="503",
        POOLS__A__RETRY__ATTEMPTS="4",
        POOLS__A__RETRY__METHODS="POST, PATCH",
        POOLS__A__RETRY__IDEMPOTENCY_KEY="true",
        POOLS__A__PANIC="false",
        POOLS__A__MAX_CONCURRENT="50",
        POOLS__A__QUEUE__SIZE="7",
        POOLS__A__AFFINITY__COOKIE="sticky",
        POOLS__A__AFFINITY__SECRET="a" * 16,
        POOLS__B__UPSTREAMS="http://b",
        POOLS__B__PREFIX="/b",
        POOLS__B__EJECTION="null",
        POOLS__B__HEALTH="{}",
    )
    settings = ProxySettings()
    a, b = settings.pools["a"], settings.pools["b"]
    first, second = settings.build()[""].upstreams

    assert (first.max_concurrent, first.rate_limit) == (3, RateLimit(9))
    assert (second.backup, second.address.host) == (True, "10.0.0.1")
    assert a.balancer == "least_requests"
    assert a.health == HealthCheck(
        path="/healthz",
        statuses={200, 201, 202, 203, 204, 404},
        headers={"x-probe": "1"},
        interval=2.5,
    )
    assert a.ejection == Ejection(consecutive=None, statuses={503})
    assert a.retry == Retry(attempts=4, methods={"POST", "PATCH"}, idempotency_key=True)
    assert (a.panic, a.max_concurrent, a.queue) == (False, 50, Queue(7))
    assert isinstance(a.affinity, AffinitySettings)
    assert a.affinity.build().place == ("cookie", "sticky", "", "/")
    assert (b.ejection, b.health) == (None, HealthCheck())


@pytest.mark.parametrize("text", ["fine", "200", "true", '{"status": "ok"}', '"ok"'])
def test_a_text_to_look_for_is_not_read_as_json(environment, text):
    """A health check's body and its headers stay what they are in the variable."""
    environment(
        POOLS__A__UPSTREAMS="http://a",
        POOLS__A__HEALTH__BODY=text,
        POOLS__A__HEALTH__HEADERS__X="5",
    )
    health = ProxySettings().pools["a"].health

    assert health is not None
    assert (health.body, health.headers) == (text, {"x": "5"})


def test_pools_that_work_together_come_from_the_environment(environment):
    """A split by weight and by header, and a mirror; what they use is not routed by itself."""
    environment(
        POOLS__STABLE__UPSTREAMS="http://stable",
        POOLS__STABLE__MIRROR__POOL="shadow",
        POOLS__STABLE__MIRROR__SHARE="0.5",
        POOLS__SHADOW__UPSTREAMS="http://shadow",
        POOLS__NEW__UPSTREAMS="http://new",
        POOLS__NEW__PREFIX="/new",
        SPLITS__SITE__POOLS="stable:95, new:5",
        SPLITS__SITE__CANARIES='[{"pool": "new", "header": "x-canary", "value": "1"}]',
    )
    built = ProxyRouter.from_settings().pools
    split = built[""]

    assert list(built) == ["/new", ""]
    assert isinstance(split, Split)
    assert [pool.name for pool in split.pools] == ["stable", "new"]
    assert built["/new"] is split.pools[1]
    mirror = split.pools[0].mirror
    assert mirror is not None
    assert (mirror.pool.name, mirror.share) == ("shadow", 0.5)
    asks = HTTPConnection({"type": "http", "headers": [(b"x-canary", b"1")]})
    assert split.pool_for(asks).name == "new"


def test_pools_that_overrides_name_serve_no_prefix_by_themselves(environment):
    """They are built once, with the others; those that say so serve a prefix as well."""
    environment(
        POOLS__MAIN__UPSTREAMS="http://main",
        POOLS__MAIN__MIRROR__POOL="shadow",
        POOLS__SHADOW__UPSTREAMS="http://shadow",
        POOLS__CANARY__UPSTREAMS="http://canary",
        POOLS__NEW__UPSTREAMS="http://new",
        POOLS__NEW__PREFIX="/new",
        SPLITS__BOTH__POOLS="new:1",
        SPLITS__BOTH__PREFIX="/both",
        OVERRIDES=json.dumps(
            [
                {"path": f"/{index}", "pool": name}
                for index, name in enumerate(["shadow", "canary", "new", "canary", "both"])
            ]
        ),
    )
    built = ProxySettings().build_all()
    main = built.routed[""]
    assert isinstance(main, UpstreamPool)
    assert main.mirror is not None

    assert {prefix: pool.name for prefix, pool in built.routed.items()} == {
        "": "main",
        "/new": "new",
        "/both": "both",
    }
    assert [pool.name for pool in built.named] == ["canary", "shadow"]
    assert built.named[1] is main.mirror.pool


def test_what_is_given_besides_the_settings_is_added_to_them(environment):
    """Overrides behind those of the environment, of which the first applies, and pools."""
    environment(
        POOLS__MAIN__UPSTREAMS="http://main",
        POOLS__NEW__UPSTREAMS="http://new",
        OVERRIDES='[{"path": "/a", "pool": "new"}]',
    )
    spare = UpstreamPool("http://spare", name="spare")
    router = ProxyRouter.from_settings(
        overrides=[{"path": "/b", "pool": "spare"}], named_pools=[spare], strip_prefix=False
    )

    assert sorted(router.named_pools) == ["main", "new", "spare"]
    with pytest.raises(ConfigurationError, match="the override of /a before it takes its requests"):
        ProxyRouter.from_settings(overrides=[{"path": "/a"}])


def test_what_an_upstream_is_told_of_the_client_is_a_setting(environment):
    """RFC 7239 too, or nothing at all."""
    environment(
        POOLS__A__UPSTREAMS="http://a",
        POOLS__A__FORWARDED="none",
        POOLS__B__UPSTREAMS="http://b",
        POOLS__B__PREFIX="/b",
        POOLS__B__FORWARDED="true",
    )
    pools = ProxySettings().build().values()

    assert [pool.policy.forwarded for pool in pools if isinstance(pool, UpstreamPool)] == [
        "none",
        True,
    ]


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
        ({"POOLS__A__BALANCER": "best"}, "least_requests"),
        ({"POOLS__A__RETRY__ATEMPTS": "2"}, "unknown: atempts"),
        ({"POOLS__A__RETRY__ATTEMPTS": "0"}, "attempts must be a whole number"),
        ({"POOLS__A__HEALTH": "/healthz"}, "JSON"),
        ({"POOLS__A__HEALTH__STATUSES": "fine"}, "integer"),
        (
            {"POOLS__A__UPSTREAMS": '[{"url": "http://a", "rate_limit": {"rps": 1}}]'},
            "unknown: rps",
        ),
        ({"POOLS__A__AFFINITY__SECRET": "SHORT"}, "at least 16 bytes"),
        ({"POOLS__A__AFFINITY": '{"header": "x-a", "domain": "b"}'}, "no meaning"),
        ({"POOLS__A__MIRROR__POOL": "b"}, "no other pool"),
        (
            {
                "POOLS__A__AFFINITY": "{}",
                "POOLS__B__AFFINITY": "{}",
                "POOLS__B__UPSTREAMS": "http://b",
                "POOLS__B__PREFIX": "/b",
            },
            "'/' and '/b' take each other's clients",
        ),
        ({"SPLITS__S__POOLS": '{"b": 1}', "SPLITS__S__PREFIX": "/s"}, "'b'.*which is no pool"),
        ({"SPLITS__S__POOLS": '{"a": 0}'}, "above 0"),
        ({"SPLITS__S__POOLS": "a"}, "'a' is no name and weight"),
        ({"SPLITS__S__POOLS": "a:many"}, "valid integer"),
        ({"SPLITS__S__POOLS": '{"a": 1'}, "not valid JSON"),
        ({"SPLITS__S__POOLS": "a:1", "SPLITS__S__CANARIES": "x-canary"}, "canaries"),
        ({"SPLITS__S__POOLS": '{"a": 1}', "POOLS__A__PREFIX": ""}, "several pools"),
        ({"POOLS__A__FORWARDED": "all"}, "forwarded must be true, false or 'none'"),
        ({"OVERRIDES": '{"path": "/"}'}, "valid tuple"),
        (
            {"OVERRIDES": '[{"path": "/x", "methods": ["GET"], "pool": "b"}]'},
            "override of GET /x: pool 'b' is not the name of one pool or split",
        ),
        (
            {
                "OVERRIDES": '[{"path": "/x", "pool": "s"}]',
                "POOLS__S__UPSTREAMS": "http://s",
                "SPLITS__S__POOLS": "a:1",
            },
            "pool 's' is not the name of one pool or split",
        ),
        ({"OVERRIDES": '[{"path": "/x", "pool": "a"}]'}, "PROXY_POOLS__<name>__PREFIX"),
        (
            {"OVERRIDES": '[{"path": "/{a}"}, {"path": "/{b}"}]'},
            "the override of /{a} before it takes its requests",
        ),
    ],
)
def test_settings_that_cannot_work_together_are_refused(environment, variables, words):
    """The report says what to do."""
    if variables:
        environment(**{"POOLS__A__UPSTREAMS": "http://a", **variables})

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
