"""Every field of a declared override, in Python and in JSON."""

from __future__ import annotations

import base64
from typing import Any

from fastapi_proxy_router import HeaderEdits, Retry, Timeout
from fastapi_proxy_router.overrides import (
    CookieEdits,
    ErrorPage,
    QueryEdits,
    ResponseOverride,
)

PATH = "/legacy/{id}"

HEADERS = HeaderEdits(
    set={"X-Api": "2"},
    add={"x-tag": ["1", "2"], "x-one": "1"},
    remove=["cookie"],
    keep=["Accept"],
)
HEADERS_JSON = {
    "set": {"X-Api": "2"},
    "add": {"x-tag": ["1", "2"], "x-one": "1"},
    "remove": ["cookie"],
    "keep": ["Accept"],
}
RAW = b"\x00\xff raw"
RAW_JSON = base64.b64encode(RAW).decode()

#: By field as Python spells it: values in Python, and the same in JSON.
FIELDS: dict[str, list[tuple[Any, Any]]] = {
    "path": [("/old/{rest:path}", "/old/{rest:path}")],
    "methods": [(["GET", "post"], ["GET", "post"])],
    "hosts": [(["Old.example.com", "*.example.org"], ["Old.example.com", "*.example.org"])],
    "match_headers": [
        (
            {"x-version": ["1", "2"], "X-Tier": "gold", "x-debug": True, "x-internal": False},
            {"x-version": ["1", "2"], "X-Tier": "gold", "x-debug": True, "x-internal": False},
        )
    ],
    "match_query": [
        (
            {"v": ["1", "2"], "tier": "gold", "beta": True, "internal": False},
            {"v": ["1", "2"], "tier": "gold", "beta": True, "internal": False},
        )
    ],
    "rewrite": [("/v2/{id}", "/v2/{id}")],
    "method": [("post", "post")],
    "query": [
        (
            QueryEdits(set={"a": "1"}, add={"b": ["2", "3"]}, remove=["c"]),
            {"set": {"a": "1"}, "add": {"b": ["2", "3"]}, "remove": ["c"]},
        )
    ],
    "request_headers": [(HEADERS, HEADERS_JSON)],
    "host": [("legacy.internal:8080", "legacy.internal:8080")],
    "preserve_host": [(True, True), (False, False)],
    "forwarded": [(True, True), (False, False), ("none", "none")],
    "body_limit": [(65536, 65536)],
    "timeout": [
        (5, 5),
        (
            Timeout(connect=1, response=None, idle=3, pool=4, total=5),
            {"connect": 1, "response": None, "idle": 3, "pool": 4, "total": 5},
        ),
        ({"connect": 1}, {"connect": 1}),
    ],
    "retry": [
        (
            Retry(
                attempts=4,
                per_try=1.5,
                statuses={502, 503, 504},
                methods={"POST"},
                idempotency_key=True,
                body_limit=10,
                same_upstream=True,
                backoff=0.5,
                max_backoff=2,
                budget=0.5,
                budget_floor=3,
            ),
            {
                "attempts": 4,
                "per_try": 1.5,
                "statuses": ["502-504"],
                "methods": ["POST"],
                "idempotency_key": True,
                "body_limit": 10,
                "same_upstream": True,
                "backoff": 0.5,
                "max_backoff": 2,
                "budget": 0.5,
                "budget_floor": 3,
            },
        )
    ],
    "pool": [("canary", "canary")],
    "status": [(202, 202), ({404: 410, 500: 503}, {"404": 410, "500": 503})],
    "response_headers": [
        (HeaderEdits(set={"x": "1"}, when="failure"), {"set": {"x": "1"}, "when": "failure"}),
        (
            [HEADERS, HeaderEdits(remove=["x"], when="success")],
            [HEADERS_JSON, {"remove": ["x"], "when": "success"}],
        ),
    ],
    "rewrite_urls": [(True, True)],
    "cookies": [
        (
            CookieEdits(
                domain={"upstream.internal": "example.com", "*": ""},
                path=True,
                secure=True,
                http_only=False,
                same_site="lax",
                names=["sid"],
            ),
            {
                "domain": {"upstream.internal": "example.com", "*": ""},
                "path": True,
                "secure": True,
                "http_only": False,
                "same_site": "lax",
                "names": ["sid"],
            },
        ),
        (
            [CookieEdits(domain="example.com"), CookieEdits(path={"/app": "/public"})],
            [{"domain": "example.com"}, {"path": {"/app": "/public"}}],
        ),
    ],
    "error_pages": [
        (ErrorPage(statuses=[502], text="Sorry"), {"statuses": [502], "text": "Sorry"}),
        (
            [
                ErrorPage(
                    statuses=["500-599", 404],
                    status=503,
                    headers=HeaderEdits(set={"retry-after": "60"}),
                    media_type="text/html",
                    text="<h1>Sorry</h1>",
                ),
                ErrorPage(statuses=[403], body=RAW),
                ErrorPage(statuses=["401"], json={"error": "who are you?"}),
            ],
            [
                {
                    "statuses": ["500-599", 404],
                    "status": 503,
                    "headers": {"set": {"retry-after": "60"}},
                    "media_type": "text/html",
                    "text": "<h1>Sorry</h1>",
                },
                {"statuses": [403], "body": RAW_JSON},
                {"statuses": ["401"], "json": {"error": "who are you?"}},
            ],
        ),
    ],
    "body": [(RAW, RAW_JSON)],
    "text": [("Grüße", "Grüße")],
    "form": [({"a": "b", "c": ["d", "e"]}, {"a": "b", "c": ["d", "e"]})],
    "json": [
        ({"a": [1, None, "ü"]}, {"a": [1, None, "ü"]}),
        (None, None),
        ("text", "text"),
    ],
    "answer": [
        (
            ResponseOverride(
                status=503,
                text="Back soon",
                media_type="text/plain",
                headers=HeaderEdits(set={"retry-after": "60"}, add={"x": ["1", "2"]}),
            ),
            {
                "status": 503,
                "text": "Back soon",
                "media_type": "text/plain",
                "headers": {"set": {"retry-after": "60"}, "add": {"x": ["1", "2"]}},
            },
        ),
        (ResponseOverride(body=RAW), {"body": RAW_JSON}),
        (ResponseOverride(json=None), {"json": None}),
    ],
}

CASES = [(name, *case) for name, cases in FIELDS.items() for case in cases]
IDS = [f"{name}-{index}" for name, cases in FIELDS.items() for index in range(len(cases))]
