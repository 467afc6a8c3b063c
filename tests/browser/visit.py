"""One visit of the browser: the page runs every scenario through a gateway, and reports."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter
from tests.browser.chromium import Chromium
from tests.browser.upstreams import Pages, Seen, Sockets
from tests.servers import serve

#: No gateway at all: what the others are measured by.
DIRECT = "direct"
#: Seconds for a whole visit.
PATIENCE = 40


@dataclass
class Visit:
    """What the page and the upstreams saw."""

    server: str
    origin: str
    report: dict[str, Any] = field(repr=False)
    #: The connections that the sockets' upstream saw, for each scenario.
    sockets: dict[str, list[Seen]] = field(repr=False)
    #: The Last-Event-ID of each request for events.
    resumed: list[str | None] = field(repr=False)

    def __getitem__(self, scenario: str) -> Any:
        """Return what the page found out in *scenario*."""
        outcome = self.report[scenario]
        assert "error" not in outcome, f"{scenario}: {outcome['error']}"
        return outcome["result"]

    def seen(self, scenario: str) -> Seen:
        """Return the one connection of *scenario* that the upstream saw."""
        (seen,) = self.sockets[scenario]
        return seen


def visit(browser: Chromium, server: str) -> Visit:
    """Serve everything in an event loop of its own, until the page has reported."""
    return asyncio.run(_visit(browser, server))


async def _visit(browser: Chromium, server: str) -> Visit:
    pages, sockets = Pages(), Sockets()
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack:
        website = await stack.enter_async_context(serve(pages.app))
        talk = await stack.enter_async_context(sockets.serve())
        if server == DIRECT:
            front, query = website, f"?sockets={DIRECT}.localhost:{talk.port}"
        else:
            app = FastAPI(openapi_url=None)
            app.include_router(ProxyRouter({"/ws": talk.url, "/": website.url}))
            front, query = await stack.enter_async_context(serve(app, server)), ""
        # Cookies know no ports: each visit has a host of its own.
        origin = f"http://{server}.localhost:{front.port}"
        await stack.enter_async_context(browser.page(f"{origin}/{query}"))
        report = await pages.report
        await sockets.settled()
    return Visit(server, origin, report, dict(sockets.seen), pages.resumed)
