"""What a declared override compiles to, and which requests it is for."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_proxy_router import HeaderEdits, Retry, RouteOverride, Timeout
from fastapi_proxy_router.core.changes import NO_CHANGES, Answer, Changes, Page, ResponseChange
from fastapi_proxy_router.core.headers import Edits
from fastapi_proxy_router.core.query import QueryChange
from fastapi_proxy_router.core.setcookie import CookieRules
from fastapi_proxy_router.overrides import CookieEdits, Declared, ErrorPage, ResponseOverride

TEXT = b"text/plain; charset=utf-8"
#: What was said of the bytes that were there.
STALE = frozenset(
    {b"content-encoding", b"content-md5", b"content-digest", b"repr-digest", b"digest"}
)


def declared(**fields: Any) -> Declared:
    override = RouteOverride.model_validate({"path": "/{p:path}", **fields})
    found = override.compile().matches("GET", b"/x", [(b"host", b"gw")], b"")
    assert found is not None
    return found


def edits_of_response(*changes: Edits) -> Changes:
    return Changes(response=(ResponseChange(edits=changes),))


CHANGES: list[tuple[dict[str, Any], Changes]] = [
    ({"method": "put"}, Changes(method="PUT")),
    ({"rewrite": "/new/{p}"}, Changes(path=b"/new/x")),
    (
        {"query": {"set": {"a": "1"}, "add": {"b": ["2", "3"]}, "remove": ["c"]}},
        Changes(
            query_changes=(QueryChange((("a", "1"),), (("b", "2"), ("b", "3")), frozenset({"c"})),)
        ),
    ),
    (
        {"query": {"set": {"a": ["1", "2"]}}},
        Changes(query_changes=(QueryChange((("a", "1"), ("a", "2"))),)),
    ),
    (
        {"request_headers": {"set": {"A": "1"}, "add": {"B": ["2", "ü"]}, "remove": ["C"]}},
        Changes(
            request=(
                Edits(
                    ((b"a", b"1"),),
                    ((b"b", b"2"), (b"b", "ü".encode())),
                    frozenset({b"c"}),
                ),
            )
        ),
    ),
    ({"request_headers": {"keep": []}}, Changes(request=(Edits(keep=frozenset()),))),
    (
        {"request_headers": {"keep": ["Accept"]}},
        Changes(request=(Edits(keep=frozenset({b"accept"})),)),
    ),
    ({"host": "Legacy:80"}, Changes(host=b"Legacy:80")),
    ({"preserve_host": False}, Changes(preserve_host=False)),
    ({"forwarded": "none"}, Changes(forwarded="none")),
    ({"forwarded": False}, Changes(forwarded=False)),
    ({"body_limit": 0}, Changes(body_limit=0)),
    ({"timeout": 5}, Changes(timeout=Timeout(5, 5, 5, 5))),
    ({"timeout": {"connect": 1}}, Changes(timeout=Timeout(connect=1))),
    ({"retry": {"attempts": 1}}, Changes(retry=Retry(attempts=1))),
    ({"body": "AP8="}, Changes(body=b"\x00\xff")),
    ({"body": b""}, Changes(body=b"")),
    (
        {"text": "ü"},
        Changes(
            body="ü".encode(), request=(Edits(((b"content-type", TEXT),), (), STALE, of_body=True),)
        ),
    ),
    (
        {"text": "<a/>", "request_headers": {"set": {"Content-Type": "text/xml"}}},
        Changes(
            body=b"<a/>",
            request=(
                Edits(((b"content-type", TEXT),), (), STALE, of_body=True),
                Edits(((b"content-type", b"text/xml"),)),
            ),
        ),
    ),
    (
        {"form": {"a b": "c&d", "e": ["1", "ü"]}},
        Changes(
            body=b"a+b=c%26d&e=1&e=%C3%BC",
            request=(
                Edits(
                    ((b"content-type", b"application/x-www-form-urlencoded"),),
                    (),
                    STALE,
                    of_body=True,
                ),
            ),
        ),
    ),
    (
        {"json": {"a": [1, None, "ü"]}},
        Changes(
            body='{"a":[1,null,"ü"]}'.encode(),
            request=(Edits(((b"content-type", b"application/json"),), (), STALE, of_body=True),),
        ),
    ),
    (
        {"json": None},
        Changes(
            body=b"null",
            request=(Edits(((b"content-type", b"application/json"),), (), STALE, of_body=True),),
        ),
    ),
    ({"status": 201}, Changes(response=(ResponseChange(status=201),))),
    ({"status": {"404": 410}}, Changes(response=(ResponseChange(status={404: 410}),))),
    (
        {"response_headers": {"set": {"A": "1"}, "when": "failure"}},
        edits_of_response(Edits(((b"a", b"1"),), when="failure")),
    ),
    (
        {"response_headers": [{"remove": ["a"]}, {}, {"remove": ["b"], "when": "success"}]},
        edits_of_response(
            Edits(remove=frozenset({b"a"})), Edits(remove=frozenset({b"b"}), when="success")
        ),
    ),
    ({"rewrite_urls": True}, Changes(response=(ResponseChange(public=True),))),
    (
        {
            "cookies": {
                "domain": {"Up.internal": "Example.com", "*": ""},
                "path": {"/app": "/public"},
                "secure": True,
                "http_only": False,
                "same_site": "strict",
                "names": ["sid"],
            }
        },
        Changes(
            response=(
                ResponseChange(
                    cookies=(
                        CookieRules(
                            (("up.internal", "example.com"), ("*", "")),
                            ((b"/app", b"/public"),),
                            secure=True,
                            http_only=False,
                            same_site="strict",
                            names=frozenset({b"sid"}),
                        ),
                    )
                ),
            )
        ),
    ),
    (
        {"cookies": [{"domain": "example.com"}, {}, {"path": True}]},
        Changes(
            response=(
                ResponseChange(
                    cookies=(CookieRules((("*", "example.com"),)), CookieRules(path=True))
                ),
            )
        ),
    ),
    (
        {"error_pages": [{"statuses": [404, "500-502"], "status": 503, "text": "Sorry"}]},
        Changes(
            pages=(
                Page(
                    frozenset({404, 500, 501, 502}),
                    Answer(503, ((b"content-type", TEXT),), b"Sorry"),
                ),
            )
        ),
    ),
]


@pytest.mark.parametrize(("fields", "changes"), CHANGES)
def test_a_field_becomes_changes(fields, changes):
    """These and no others."""
    assert declared(**fields) == Declared(changes)


NOTHING: list[dict[str, Any]] = [
    {},
    {"methods": ["GET"], "hosts": ["gw"], "match_query": {"x": False}},
    {"request_headers": HeaderEdits(), "response_headers": [HeaderEdits()], "query": {}},
    {"cookies": [CookieEdits(), CookieEdits(names=["a"])], "error_pages": [], "status": None},
    {"pool": "canary"},
]


@pytest.mark.parametrize("fields", NOTHING)
def test_an_override_that_changes_nothing_is_no_changes_itself(fields):
    """The fast path asks for that object."""
    assert declared(**fields).changes is NO_CHANGES


def test_the_pool_is_handed_on_by_its_name():
    """Whoever routes looks it up."""
    assert declared(pool="canary", method="GET") == Declared(Changes(method="GET"), "canary")


def test_rewritten_urls_go_through_the_inverse_of_the_rewrite():
    """So that a redirect to /v2/7 leads the client to /legacy/7."""
    override = RouteOverride(path="/legacy/{id:int}", rewrite="/v2/{id}", rewrite_urls=True)
    found = override.compile().matches("GET", b"/legacy/7", [], b"")
    assert found is not None
    (change,) = found.changes.response

    assert change.inverse is not None
    assert change.inverse(b"/v2/8") == b"/legacy/8"
    assert change.inverse(b"/v2/x") is None


@pytest.mark.parametrize("fields", [{"rewrite": "/v2/{p}"}, {"rewrite": "/v2", "status": 200}])
def test_nothing_is_inverted_unless_it_is_asked_for(fields):
    """The upstream's URLs cross as they are."""
    assert all(change.inverse is None for change in declared(**fields).changes.response)


def test_only_the_path_is_made_for_each_request():
    """All else is compiled once."""
    override = RouteOverride(path="/a/{id}", rewrite="/b/{id}", status=201, pool="x").compile()
    first = override.matches("GET", b"/a/%C3%BC", [], b"")
    second = override.matches("POST", b"/a/2", [], b"")
    assert first is not None
    assert second is not None

    assert (first.changes.path, second.changes.path) == (b"/b/%C3%BC", b"/b/2")
    assert first.changes.response is second.changes.response
    assert (first.pool, second.pool) == ("x", "x")


# --- Which requests ----------------------------------------------------------------------------

HEADERS = [(b"host", b"Old.Example.com:80"), (b"x-version", b"2"), (b"x-version", b"3")]
MATCHES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"path": "/a/{id:int}"}, True),
    ({"path": "/a"}, False),
    ({"path": "/a/{x}/y"}, False),
    ({"methods": ["put", "POST"]}, True),
    ({"methods": ["GET"]}, False),
    ({"hosts": ["OLD.example.com"]}, True),
    ({"hosts": ["new.example.com", "*.example.com"]}, True),
    ({"hosts": ["example.com"]}, False),
    ({"match_headers": {"X-Version": "3"}}, True),
    ({"match_headers": {"x-version": ["1", "2"]}}, True),
    ({"match_headers": {"x-version": "1"}}, False),
    ({"match_headers": {"x-version": True, "x-debug": False}}, True),
    ({"match_headers": {"x-version": False}}, False),
    ({"match_headers": {"x-version": "2", "x-debug": True}}, False),
    ({"match_query": {"a": "ü"}}, True),
    ({"match_query": {"a": ["1", "2"]}}, False),
    ({"match_query": {"b": True, "c": False}}, True),
    ({"match_query": {"b": ""}}, True),
    ({"match_query": {"c": True}}, False),
    ({"hosts": ["old.example.com"], "match_query": {"c": True}}, False),
]


@pytest.mark.parametrize(("fields", "does"), MATCHES)
def test_an_override_is_for_requests_that_meet_all_its_conditions(fields, does):
    """Path, method, host, headers and query, all as the client sent them."""
    override = RouteOverride.model_validate({"path": "/a/{id}", **fields}).compile()

    assert (override.matches("POST", b"/a/7", HEADERS, b"a=%C3%BC&b") is not None) == does


def test_the_root_is_a_path_like_any_other():
    """The bare prefix has an empty path below it."""
    assert RouteOverride(path="/").compile().matches("GET", b"", [], b"") is not None


# --- Answers -----------------------------------------------------------------------------------

ANSWERS: list[tuple[dict[str, Any], Answer]] = [
    ({}, Answer(200, (), b"")),
    ({"status": 204}, Answer(204, (), b"")),
    ({"text": "ü"}, Answer(200, ((b"content-type", TEXT),), "ü".encode())),
    (
        {"text": "<p>", "media_type": "text/html"},
        Answer(200, ((b"content-type", b"text/html; charset=utf-8"),), b"<p>"),
    ),
    (
        {"text": "<p>", "media_type": "text/html; Charset=ascii"},
        Answer(200, ((b"content-type", b"text/html; Charset=ascii"),), b"<p>"),
    ),
    (
        {"text": "{}", "media_type": "application/ld+json"},
        Answer(200, ((b"content-type", b"application/ld+json"),), b"{}"),
    ),
    (
        {"json": {"a": 1}, "status": 503, "headers": {"add": {"Retry-After": "60"}}},
        Answer(503, ((b"content-type", b"application/json"), (b"retry-after", b"60")), b'{"a":1}'),
    ),
    ({"json": None}, Answer(200, ((b"content-type", b"application/json"),), b"null")),
    (
        {"body": "AP8="},
        Answer(200, ((b"content-type", b"application/octet-stream"),), b"\x00\xff"),
    ),
    (
        {"body": b"", "media_type": "image/png"},
        Answer(200, ((b"content-type", b"image/png"),), b""),
    ),
    (
        {"text": "x", "media_type": "a/b", "headers": {"set": {"Content-Type": "c/d"}}},
        Answer(200, ((b"content-type", b"c/d"),), b"x"),
    ),
    (
        {"headers": {"set": {"x": "1"}, "add": {"x": ["2", "3"]}}},
        Answer(200, ((b"x", b"1"), (b"x", b"2"), (b"x", b"3")), b""),
    ),
]


@pytest.mark.parametrize(("fields", "answer"), ANSWERS)
def test_an_answer_is_a_whole_response(fields, answer):
    """Its status, its headers and its body, of which the type is known."""
    assert declared(answer=fields) == Declared(NO_CHANGES, None, answer)


@pytest.mark.parametrize(("status", "has"), [(None, 502), (503, 503)])
def test_an_answer_has_the_status_that_it_stands_for(status, has):
    """Unless it has one of its own."""
    assert ResponseOverride(status=status, text="x").answer(502).status == has


def test_a_page_keeps_the_status_that_it_replaces():
    """0 is for whoever serves it to replace; and there is never a page for a 304."""
    page = ErrorPage(statuses=["300-310", "404"], text="x").compile()

    assert page.answer.status == 0
    assert page.statuses == {300, 301, 302, 303, 305, 306, 307, 308, 309, 310, 404}
