"""The page on which FastAPI documents the facade of the examples, in a real browser.

The page is as FastAPI serves it. What it loads from a CDN, Swagger UI, comes from a package.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import Chromium
from tests.browser.devtools import inspected
from tests.servers import serve

SCRIPT = Path(__file__).with_name("docs.js")
CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5"
#: Seconds for all that is done on the page.
PATIENCE = 40

JUNE = {"id": 7, "name": "June", "email": "june@example.com", "active": True}
MAY = {"id": 8, "name": "May", "email": "may@example.com", "active": True}


def swagger_ui() -> dict[str, Path]:
    """Return the files that the page loads from elsewhere, as a package brings them."""
    found = importlib.util.find_spec("fastapi_offline")
    assert found is not None
    assert found.origin is not None
    static = Path(found.origin).parent / "static"
    names = ("swagger-ui-bundle.js", "swagger-ui.css")
    icon = "https://fastapi.tiangolo.com/img/favicon.png"
    return {f"{CDN}/{name}": static / name for name in names} | {icon: static / "favicon.png"}


def facade(monkeypatch: pytest.MonkeyPatch, upstream: str) -> Any:
    monkeypatch.setenv("UPSTREAM", upstream)
    monkeypatch.delitem(sys.modules, "examples.facade", raising=False)
    return importlib.import_module("examples.facade")


async def read(browser: Chromium) -> dict[str, Any]:
    """Open the page, try the operations out, and return what is seen."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with asyncio.timeout(PATIENCE), serve(facade(monkeypatch, "http://x").legacy) as old:
            async with serve(facade(monkeypatch, old.url).app) as gateway:
                async with inspected(browser.devtools, swagger_ui()) as page:
                    await page.show(f"{gateway.url}/docs")
                    report: dict[str, Any] = await page.run(SCRIPT.read_text(encoding="utf-8"))
    return report


@pytest.fixture(scope="module")
def docs(browser):
    """Read the page once."""
    return asyncio.run(read(browser))


def test_the_page_lists_the_operations(docs):
    """Each hook is an operation with its name, below its tag, and there is nothing else."""
    summaries = {name: operation["summary"] for name, operation in docs["operations"].items()}
    assert summaries == {
        "GET /customers/{number}": "Read Customer",
        "POST /customers": "Create Customer",
    }
    assert (docs["title"], docs["tags"]) == ("Customers - Swagger UI", ["customers"])


def test_the_page_finds_no_mistake(docs):
    """Swagger UI resolves everything in the document."""
    assert docs["errors"] == []


def test_the_page_shows_what_is_sent(docs):
    """The parameter of the path has its type, and the body is the hook's model."""
    read, create = docs["operations"].values()
    assert (read["parameters"], read["body"]) == (["number * integer (path)"], None)
    assert (create["parameters"], create["body"]) == (
        [],
        {"name": "string", "email": "june@example.com"},
    )


def test_the_page_shows_what_is_answered(docs):
    """The response is what the hook for it returns, not what the legacy API says."""
    read, create = docs["operations"].values()
    shown = {"name": "string", "email": "june@example.com", "id": 0, "active": True}
    assert read["responses"]["200"] == create["responses"]["201"] == shown
    assert set(read["responses"]) == {"200", "404", "422"}
    assert set(create["responses"]) == {"201", "409", "422"}


def test_the_page_shows_the_models(docs):
    """Those of the facade are there, those of the legacy API are not."""
    schemas = set(docs["schemas"])
    assert schemas == {"Customer", "NewCustomer", "HTTPValidationError", "ValidationError"}


def test_an_operation_can_be_tried_out(docs):
    """What the page sends goes through the gateway, and it shows the typed answer."""
    assert docs["read"] == {"status": "200", "body": JUNE}
    assert docs["created"] == {"status": "201", "body": MAY}
