"""Declared overrides that cannot work: refused where they are built, all at once, by route."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from fastapi_proxy_router import ConfigurationError, ProxyRouter, ProxySettings, RouteOverride
from fastapi_proxy_router.overrides import compiled, duplicates

CONNECTIONS = ["Connection", "transfer-encoding", "Content-Length", "content_length", "TE", "Host"]
CONNECTIONS += ["Expect"]
CONNECTIONS += ["Upgrade", "Keep-Alive", "Trailer", "Proxy-Authorization", "Sec-WebSocket-Key"]

#: The fields besides the path, and what is said of them.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"nonsense": 1}, "nonsense: Extra inputs are not permitted"),
    ({"answer": {"nonsense": 1}}, "answer.nonsense: Extra inputs"),
    ({"request_headers": {"replace": {}}}, "request_headers.replace: Extra inputs"),
    ({"query": {"keep": []}}, "query.keep: Extra inputs"),
    ({"cookies": {"expires": 1}}, "cookies.expires: Extra inputs"),
    ({"error_pages": [{"statuses": [404], "transform": None}]}, "error_pages.0.transform: Extra"),
    ({"retry": {"atempts": 1}}, "retry: unknown: atempts"),
    ({"timeout": {"read": 1}}, "timeout: unknown: read"),
    ({"rewrite": "/v2/{name}"}, "rewrite names ['name'], which path lacks"),
    ({"rewrite": "v2"}, "rewrite 'v2' must be a path"),
    ({"rewrite": "/v2/{id"}, "rewrite '/v2/{id' must be a path"),
    ({"rewrite": "/v2?x=1"}, "rewrite '/v2?x=1' must be a path"),
    ({"methods": []}, "methods: List should have at least 1 item"),
    ({"methods": ["GET", "BAD METHOD"]}, "methods.1: 'BAD METHOD' is not a method"),
    ({"methods": ["CONNECT"]}, "methods.0: 'CONNECT' is not a method"),
    ({"method": "TRACE"}, "method: 'TRACE' is not a method"),
    ({"hosts": []}, "hosts: List should have at least 1 item"),
    ({"hosts": ["https://a.example"]}, "hosts.0: host 'https://a.example' must have no scheme"),
    ({"hosts": ["a.example:8000"]}, "hosts.0: host 'a.example:8000' must have no port"),
    ({"hosts": ["a.*.example"]}, "hosts.0: host 'a.*.example' may have a *"),
    ({"match_headers": {"bad name": True}}, "match_headers.bad name: 'bad name' is not a header"),
    ({"match_headers": {"x": []}}, "match_headers.x: List should have at least 1 item"),
    ({"match_headers": {"x": 1}}, "match_headers.x: Input should be a valid string"),
    ({"match_headers": {"x": "a\nb"}}, "match_headers.x: a header value has no control"),
    ({"match_headers": {"X": "1", "x": "2"}}, "match_headers: a name is there twice"),
    ({"match_query": {"x": []}}, "match_query.x: List should have at least 1 item"),
    ({"match_query": {"x": 1}}, "match_query.x: Input should be a valid string"),
    ({"query": {"set": {"a": "\udc80"}}}, "query.set.a: it has a surrogate"),
    ({"host": "http://a"}, "host 'http://a' must be a host"),
    ({"host": "a b"}, "host 'a b' must be a host"),
    ({"host": "a\r\nx: y"}, "must be a host"),
    ({"host": "a", "preserve_host": True}, "give host or preserve_host, not both"),
    ({"forwarded": "all"}, "forwarded must be true, false or 'none'"),
    ({"body_limit": -1}, "body_limit: Input should be greater than or equal to 0"),
    ({"timeout": 0}, "timeout: Input should be greater than 0"),
    ({"timeout": float("inf")}, "timeout: Input should be a finite number"),
    ({"timeout": "soon"}, "timeout: Input should be a valid number"),
    ({"timeout": {"connect": -1, "idle": 0}}, "timeout connect must be a number of seconds"),
    ({"timeout": []}, "timeout: Input should be a dictionary"),
    ({"retry": {"attempts": 0}}, "retry: attempts must be a whole number from 1"),
    ({"retry": 3}, "retry: Input should be a dictionary"),
    ({"pool": ""}, "pool: String should have at least 1 character"),
    ({"status": 199}, "status: Input should be greater than or equal to 200"),
    ({"status": {"404": 600}}, "status.404: Input should be less than or equal to 599"),
    ({"status": {"all": 200}}, "status.all: Input should be a valid integer"),
    ({"request_headers": {"set": {"x": "a\r\nb: c"}}}, "request_headers.set.x: a header value"),
    ({"request_headers": {"set": {"x": "a\0b"}}}, "request_headers.set.x: a header value"),
    ({"request_headers": {"set": {"x": "a\x7fb"}}}, "request_headers.set.x: a header value"),
    ({"request_headers": {"add": {"x": ["a", "b\n"]}}}, "request_headers.add.x.1: a header value"),
    ({"request_headers": {"set": {"x": " a"}}}, "request_headers.set.x: a header value"),
    ({"request_headers": {"set": {"x": "\udc80"}}}, "request_headers.set.x: it has a surrogate"),
    ({"request_headers": {"set": {"a b": "x"}}}, "request_headers.set.a b: 'a b' is not a header"),
    ({"request_headers": {"set": {"X": "1", "x": "2"}}}, "request_headers.set: a name is there tw"),
    ({"request_headers": {"when": "success"}}, "when is for the headers of responses"),
    ({"response_headers": {"when": "never"}}, "response_headers.when: Input should be 'always'"),
    ({"response_headers": [{}, {"add": {"x": "\n"}}]}, "response_headers.1.add.x: a header value"),
    ({"response_headers": "x"}, "response_headers: Input should be a valid dictionary"),
    ({"cookies": {"domain": "http://a"}}, "cookies.domain: 'http://a' is not a domain"),
    ({"cookies": {"domain": "a; Secure"}}, "cookies.domain: 'a; Secure' is not a domain"),
    ({"cookies": [{"domain": {"*": "*"}}]}, "cookies.0.domain.*: '*' is not a domain"),
    ({"cookies": {"domain": {"a b": ""}}}, "cookies.domain.a b: 'a b' is not a domain"),
    ({"cookies": {"path": "/app"}}, "cookies.path: it is true, or says which path"),
    ({"cookies": {"path": {"app": "/"}}}, "cookies.path.app: 'app' is not a path of a cookie"),
    ({"cookies": {"path": {"/": "/;x"}}}, "cookies.path./: '/;x' is not a path of a cookie"),
    ({"cookies": {"same_site": "never"}}, "cookies.same_site: Input should be 'lax'"),
    ({"cookies": {"same_site": "none", "secure": False}}, "browsers drop a cookie"),
    ({"cookies": {"names": ["a b"]}}, "cookies.names.0: 'a b' is not a name of a cookie"),
    ({"error_pages": [{"statuses": []}]}, "error_pages.0.statuses: Value should have at least 1"),
    ({"error_pages": [{"text": "x"}]}, "error_pages.0.statuses: Field required"),
    ({"error_pages": [{"statuses": [200]}]}, "error_pages.0.statuses: 200 cannot be used"),
    ({"error_pages": [{"statuses": [304]}]}, "error_pages.0.statuses: 304 cannot be used"),
    ({"error_pages": [{"statuses": ["500-600"]}]}, "'500-600' cannot be used"),
    ({"error_pages": [{"statuses": ["599-500"]}]}, "'599-500' cannot be used"),
    ({"error_pages": [{"statuses": ["5xx"]}]}, "'5xx' cannot be used"),
    ({"error_pages": [{"statuses": [404], "headers": {"keep": []}}]}, "none to remove"),
    ({"error_pages": [{"statuses": [404], "json": object()}]}, "Unable to serialize"),
    ({"body": "not base64"}, "body is not base64; if it is text, give it as text"),
    ({"body": "YQ"}, "body is not base64; if it is text, give it as text"),
    ({"body": b"a", "text": "a"}, "give body or text, not both"),
    ({"text": "a", "form": {"a": "b"}}, "give text or form, not both"),
    ({"form": {}, "json": {}}, "give form or json, not both"),
    ({"body": b"", "json": None}, "give body or json, not both"),
    ({"form": {"a": 1}}, "form.a: Input should be a valid string"),
    ({"json": object()}, "json: Unable to serialize"),
    ({"answer": {"body": b"a", "text": "a"}}, "answer.text: give body or text, not both"),
    ({"answer": {"status": 100}}, "answer.status: Input should be greater than or equal to 200"),
    ({"answer": {"status": 204, "text": "a"}}, "a response with status 204 has no body"),
    ({"answer": {"status": 304, "json": None}}, "a response with status 304 has no body"),
    ({"answer": {"media_type": "a\nb"}}, "answer.media_type: a header value"),
    ({"answer": {"headers": {"remove": ["x"]}}}, "none to remove"),
    ({"answer": {"headers": {"when": "failure"}}}, "none to remove"),
    ({"answer": {"transform": lambda chunks: chunks}}, "an answer has no upstream"),
    ({"answer": {"json": object()}}, "answer: Unable to serialize"),
    ({"answer": {}, "json": None}, "leaves json no use"),
]
WRONG += [
    ({field: {edit: value}}, f"{name!r} belongs to the connection")
    for name in CONNECTIONS
    for field in ("request_headers", "response_headers")
    for edit, value in (
        ("set", {name: "x"}),
        ("add", {name: "x"}),
        ("remove", [name]),
        ("keep", [name]),
    )
]
PATHS = [
    (5, "path: Input should be a valid string"),
    ("no-slash", "path 'no-slash' must begin with /"),
    ("/{x}/{x}", "path: Duplicated param name x"),
    ("/{x:nonsense}", "path: Unknown path convertor 'nonsense'"),
]
#: What has no meaning beside an answer.
UPSTREAMS: dict[str, Any] = {
    "rewrite": "/x",
    "method": "GET",
    "query": {"remove": ["a"]},
    "request_headers": {"remove": ["a"]},
    "host": "a",
    "preserve_host": False,
    "forwarded": False,
    "body_limit": 1,
    "timeout": 1,
    "retry": {},
    "pool": "a",
    "status": 200,
    "response_headers": {"remove": ["a"]},
    "rewrite_urls": True,
    "cookies": {"secure": True},
    "error_pages": [{"statuses": [404]}],
    "body": b"a",
    "text": "a",
    "form": {"a": "b"},
}


def messages(error: ValidationError) -> list[str]:
    return [mistake["msg"] for mistake in error.errors()]


@pytest.mark.parametrize(("fields", "words"), WRONG)
def test_a_field_that_cannot_work_is_refused_by_the_name_of_the_route(fields, words):
    """The message says which override, which field and what is wrong."""
    with pytest.raises(ValidationError) as raised:
        RouteOverride.model_validate({"path": "/legacy/{id}", **fields})

    (message,) = messages(raised.value)
    assert words in message
    methods = "".join(f"{method}, " for method in fields.get("methods", ()))[:-2]
    assert message.startswith(f"override of {methods} /legacy/{{id}}: ".replace("  ", " "))
    assert message in str(raised.value)


@pytest.mark.parametrize(("path", "words"), PATHS)
def test_a_path_that_is_none_is_refused(path, words):
    """The message names what was given, if that is text."""
    with pytest.raises(ValidationError) as raised:
        RouteOverride(path=path, methods=["get", "Post"])

    where = path if isinstance(path, str) else "no path"
    (message,) = messages(raised.value)
    assert message.startswith(f"override of GET, POST {where}: {words}")


def test_an_override_needs_a_path():
    """Without one it has no name, which the message says."""
    with pytest.raises(ValidationError) as raised:
        RouteOverride()  # type: ignore[call-arg]

    assert messages(raised.value) == ["override of no path: path: Field required"]


@pytest.mark.parametrize("field", UPSTREAMS)
def test_an_answer_leaves_no_use_for_what_needs_an_upstream(field):
    """Whatever changes a request, or the upstream's response to it."""
    fields = {"path": "/", "answer": {"text": "a"}, field: UPSTREAMS[field]}
    with pytest.raises(ValidationError, match=f"answer asks no upstream, .* leaves {field} no use"):
        RouteOverride.model_validate(fields)


def test_what_an_answer_leaves_no_use_for_is_every_field_but_those_that_match():
    """A field that is new is thought of."""
    matching = {"path", "methods", "hosts", "match_headers", "match_query"}

    assert RouteOverride.model_fields.keys() - matching == {*UPSTREAMS, "json_body", "answer"}


def test_an_answer_goes_with_every_condition():
    """It may be for some hosts, headers and queries only."""
    RouteOverride(
        path="/",
        methods=["GET"],
        hosts=["a"],
        match_headers={"x": True},
        match_query={"x": True},
        answer={"text": "a"},  # type: ignore[arg-type]
    )


def test_every_mistake_of_an_override_is_told_at_once():
    """In one report, in the order of the fields, each with its place."""
    with pytest.raises(ValidationError) as raised:
        RouteOverride.model_validate(
            {
                "path": "/a/{id}",
                "methods": ["GET"],
                "rewrite": "/{name}",
                "request_headers": {"set": {"x": "a\r\nb", "Host": "x"}, "remove": ["te"]},
                "timeout": -1,
                "status": 99,
                "error_pages": [{"statuses": [100]}, {"statuses": [404], "status": 600}],
                "body": "?",
                "text": "a",
                "json": 1,
                "nonsense": 1,
            }
        )

    assert all(each.startswith("override of GET /a/{id}: ") for each in messages(raised.value))
    assert [".".join(map(str, mistake["loc"])) for mistake in raised.value.errors()] == [
        "rewrite",
        "request_headers.set.x",
        "request_headers.set.Host",
        "request_headers.remove.0",
        "timeout",
        "status",
        "error_pages.0.statuses",
        "error_pages.1.status",
        "body",
        "json",
        "nonsense",
    ]


def test_mistakes_are_told_in_the_report_of_what_holds_the_overrides():
    """A list of overrides is reported as a whole, with their places in it."""
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(list[RouteOverride]).validate_python(
            [{"path": "/a", "timeout": 0}, {"path": "/b"}, {"path": "/c", "x": 1, "pool": ""}]
        )

    assert [(each["loc"], each["msg"].split(": ")[0]) for each in raised.value.errors()] == [
        ((0, "timeout"), "override of /a"),
        ((2, "pool"), "override of /c"),
        ((2, "x"), "override of /c"),
    ]


def test_a_report_does_not_show_a_value_that_may_be_a_key():
    """Headers hold secrets, and reports end up in logs; there is no chain that shows more."""
    headers = {"set": {"authorization": "Bearer SECRET\n"}}

    with pytest.raises(ValidationError) as raised:
        RouteOverride.model_validate({"path": "/", "request_headers": headers})

    assert "SECRET" not in "".join(traceback.format_exception(raised.value, chain=True))


# --- Together ----------------------------------------------------------------------------------

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"path": "/a"}, {"path": "/a"}),
    ({"path": "/a"}, {"path": "/a", "methods": ["GET"]}),
    ({"path": "/a", "methods": ["GET", "POST"]}, {"path": "/a", "methods": ["post", "PUT"]}),
    ({"path": "/a/{x}"}, {"path": "/a/{y:str}"}),
    ({"path": "/{x:path}/{y:int}"}, {"path": "/{y:path}/{x:int}"}),
    ({"path": "/a", "hosts": ["a", "B"]}, {"path": "/a", "hosts": ["b", "A", "a"]}),
    (
        {"path": "/a", "match_headers": {"X": ["1", "2"], "y": True}},
        {"path": "/a", "match_headers": {"y": True, "x": ["2", "1"]}},
    ),
    (
        {"path": "/a", "match_query": {"x": "1", "y": True}},
        {"path": "/a", "match_query": {"y": True, "x": ["1"]}},
    ),
]
APART: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"path": "/a"}, {"path": "/b"}),
    ({"path": "/a"}, {"path": "/a/"}),
    ({"path": "/a/{x}"}, {"path": "/a/{x:int}"}),
    ({"path": "/a/{x}"}, {"path": "/a/x"}),
    ({"path": "/a", "methods": ["GET"]}, {"path": "/a", "methods": ["POST"]}),
    ({"path": "/a", "methods": ["GET"]}, {"path": "/a"}),
    ({"path": "/a", "hosts": ["a"]}, {"path": "/a"}),
    ({"path": "/a", "match_headers": {"x": True}}, {"path": "/a", "match_headers": {"x": False}}),
    ({"path": "/a", "match_headers": {"x": "A"}}, {"path": "/a", "match_headers": {"x": "a"}}),
    ({"path": "/a", "match_query": {"x": "1"}}, {"path": "/a", "match_query": {"X": "1"}}),
]


@pytest.mark.parametrize("pair", SAME)
def test_two_overrides_for_the_same_requests_are_refused(pair):
    """The second would never apply: however its parameters and conditions are spelled."""
    first, second = map(RouteOverride.model_validate, pair)

    (message,) = duplicates([first, RouteOverride(path="/between"), second])

    assert message.startswith(f"override of {', '.join(second.methods or [])}".rstrip())
    assert message.endswith(f" {first.path} before it takes its requests")


@pytest.mark.parametrize("pair", APART)
def test_overrides_for_other_requests_live_together(pair):
    """One for all methods may follow those for some: it is for the rest."""
    assert duplicates(map(RouteOverride.model_validate, pair)) == []


def test_a_router_is_told_of_every_mistake_of_every_override():
    """Those of mappings, of what is no override, and of two for the same."""
    with pytest.raises(ConfigurationError) as raised:
        compiled(
            [
                RouteOverride(path="/same", methods=["GET"]),
                {"path": "/wrong", "timeout": 0, "nonsense": 1},
                5,  # type: ignore[list-item]
                {"path": "/same", "methods": ["GET", "PUT"]},
            ]
        )

    assert raised.value.mistakes == [
        "override of /wrong: timeout: Input should be greater than 0",
        "override of /wrong: nonsense: Extra inputs are not permitted",
        "override of no path: Input should be a valid dictionary or instance of RouteOverride",
        "override of GET, PUT /same: the override of GET /same before it takes its requests",
    ]


def test_mappings_and_overrides_are_compiled_in_their_order():
    """A router takes what JSON gives."""
    first, second = compiled([{"path": "/a", "pool": "x"}, RouteOverride(path="/b", pool="y")])

    assert (first.pool, second.pool) == ("x", "y")


def test_the_environment_is_told_of_mistakes_like_python(monkeypatch, tmp_path):
    """With the place in the list, the route, and no value."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROXY_POOLS__A__UPSTREAMS", "http://a")
    given = [{"path": "/x", "request_headers": {"set": {"x-key": "SECRET\n"}}}, {"path": "/y"}]
    monkeypatch.setenv("PROXY_OVERRIDES", json.dumps([*given, {"path": "y"}]))
    with pytest.raises(ValidationError) as raised:
        ProxySettings()

    first, second = raised.value.errors()
    assert first["loc"] == ("overrides", 0, "request_headers", "set", "x-key")
    assert first["msg"].startswith("override of /x: request_headers.set.x-key: a header value")
    assert second["loc"] == ("overrides", 2, "path")
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    "overrides", [RouteOverride(path="/"), {"path": "/"}, {"/": {"timeout": 1}}, "[]"]
)
def test_overrides_are_a_list(overrides):
    """One by itself would be read field by field."""
    with pytest.raises(ConfigurationError) as caught:
        ProxyRouter("http://127.0.0.1:1", overrides=overrides)
    assert caught.value.mistakes == ["overrides is a list of overrides, also where there is one"]


@pytest.mark.parametrize("path", ["/a/{id", "/a/id}", "/a/{1d}", "/a/{}", "/a/{{id}}"])
def test_a_brace_that_belongs_to_no_parameter_is_refused(path):
    """It is a parameter that was misspelled: Starlette would take it for a part of the path."""
    with pytest.raises(ValidationError, match="a brace that belongs to no parameter"):
        RouteOverride(path=path)


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("rewite", "; is it rewrite or rewrite_urls?"),
        ("headers", "; is it match_headers or request_headers or response_headers?"),
        ("zzz", ""),
    ],
)
def test_the_nearest_of_the_fields_is_named(field, hint):
    """For one that was misspelled."""
    with pytest.raises(ValidationError) as raised:
        RouteOverride.model_validate({"path": "/a", field: 1})
    (message,) = messages(raised.value)
    assert message == f"override of /a: {field}: Extra inputs are not permitted{hint}"


def test_one_path_for_cookies_is_refused_with_what_to_write():
    """A domain may be one text, but a path stands in the place of another."""
    with pytest.raises(ValidationError) as raised:
        RouteOverride.model_validate({"path": "/a", "cookies": {"path": "/shop"}})
    (message,) = messages(raised.value)
    assert message == (
        "override of /a: cookies.path: it is true, or says which path another replaces: "
        "{'/': '/shop'}"
    )
