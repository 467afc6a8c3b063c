"""This library's gateway with overrides of each kind, one kind in each app.

python -m benchmarks.override_apps on_send http://127.0.0.1:9000      prints its port and serves
"""

# No "from __future__ import annotations" here: FastAPI reads the annotations of the hooks.

import sys
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request
from pydantic import BaseModel

from fastapi_proxy_router import (
    ForwardedResponse,
    HeaderEdits,
    OutboundRequest,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
    RouteOverride,
)

from .apps import serve
from .nginx import FILE, ITEMS

#: The header that hooks and overrides set; the upstream says what it got.
TAG = "x-tag"
TAGGED = HeaderEdits(set={TAG: "gateway"})
ITEM = f"{ITEMS}/{{id}}"
#: Overrides of other paths.
OTHERS = 10


class User(BaseModel):
    """What the upstream answers with, and what is posted to it."""

    id: int
    name: str
    email: str
    roles: list[str]


def _app(proxy: ProxyRouter) -> FastAPI:
    app = FastAPI()
    app.include_router(proxy)
    return app


def dependency(url: str) -> FastAPI:
    """Build a gateway without overrides that FastAPI has something to inject into."""

    def nothing() -> None:
        """Do nothing."""

    return _app(ProxyRouter(url, dependencies=[Depends(nothing)]))


def declared_others(url: str) -> FastAPI:
    """Declare overrides of which none matches."""
    others = [
        RouteOverride(path=f"/service-{number}/{{id}}", request_headers=TAGGED)
        for number in range(OTHERS)
    ]
    return _app(ProxyRouter(url, overrides=others))


def declared_header(url: str) -> FastAPI:
    """Declare one header."""
    return _app(ProxyRouter(url, overrides=[RouteOverride(path=ITEM, request_headers=TAGGED)]))


def declared_rewrite(url: str) -> FastAPI:
    """Declare another path, for requests that meet every kind of condition."""
    override = RouteOverride(
        path=ITEM,
        methods=["GET"],
        hosts=["127.0.0.1", "*.example.org"],
        match_headers={"x-internal": False},
        match_query={"version": ["2", "3"]},
        rewrite=f"{ITEMS}/v2/{{id}}",
    )
    return _app(ProxyRouter(url, overrides=[override]))


def on_request(url: str) -> FastAPI:
    """Look at every request."""
    proxy = ProxyRouter(url)

    @proxy.on_request
    async def look(request: Request) -> None:
        """Leave it as it is."""

    return _app(proxy)


def on_request_sync(url: str) -> FastAPI:
    """Look at every request, in a thread."""
    proxy = ProxyRouter(url)

    @proxy.on_request
    def look(request: Request) -> None:
        """Leave it as it is."""

    return _app(proxy)


def on_send(url: str) -> FastAPI:
    """Set a header of what is about to be sent."""
    proxy = ProxyRouter(url)

    @proxy.on_send
    async def tag(outbound: OutboundRequest) -> None:
        outbound.headers[TAG] = "gateway"

    return _app(proxy)


def on_response(url: str) -> FastAPI:
    """Look at every response."""
    proxy = ProxyRouter(url)

    @proxy.on_response
    async def look(response: ForwardedResponse) -> None:
        """Leave it as it is."""

    return _app(proxy)


def read_header(url: str) -> FastAPI:
    """Read a header in a path operation, and set another."""
    proxy = ProxyRouter(url)

    @proxy.override(ITEM)
    async def tag(host: Annotated[str, Header()]) -> RequestOverride:
        return RequestOverride(headers=TAGGED)

    return _app(proxy)


def read_response(url: str) -> FastAPI:
    """Read the upstream's JSON and mask a field of it."""
    proxy = ProxyRouter(url)

    @proxy.override_response(ITEM)
    async def mask(user: User) -> User:
        return user.model_copy(update={"email": "***"})

    return _app(proxy)


def read_body(url: str) -> FastAPI:
    """Read the client's JSON and change a field of it."""
    proxy = ProxyRouter(url)

    @proxy.override(ITEMS, methods=["POST"])
    async def create(user: User) -> RequestOverride:
        return RequestOverride(json=user.model_copy(update={"roles": ["member"]}))

    return _app(proxy)


async def _same(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk


def transform_request(url: str) -> FastAPI:
    """Pass every chunk of the client's body on."""
    proxy = ProxyRouter(url)

    @proxy.override(ITEMS, methods=["POST"])
    async def watch() -> RequestOverride:
        return RequestOverride(transform=_same)

    return _app(proxy)


def transform_response(url: str) -> FastAPI:
    """Pass every chunk of the upstream's body on."""
    proxy = ProxyRouter(url)

    @proxy.override_response(FILE)
    async def watch() -> ResponseOverride:
        return ResponseOverride(transform=_same)

    return _app(proxy)


APPS: dict[str, Callable[[str], FastAPI]] = {
    app.__name__: app
    for app in (
        dependency,
        declared_others,
        declared_header,
        declared_rewrite,
        on_request,
        on_request_sync,
        on_send,
        on_response,
        read_header,
        read_response,
        read_body,
        transform_request,
        transform_response,
    )
}

if __name__ == "__main__":
    serve(APPS[sys.argv[1]](sys.argv[2]))
