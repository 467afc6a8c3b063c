"""Which way a request went: straight to the forwarder or through FastAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import HTTPConnection

from fastapi_proxy_router import ProxyRouter, Upstream

STRAIGHT, FASTAPI = "straight", "through FastAPI"


class Ways:
    """A balancer that notes which way each request came.

    FastAPI's own way leaves an exit stack in the scope, for dependencies that yield, before any
    dependency runs.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, upstreams: Sequence[Upstream], connection: HTTPConnection) -> Upstream:
        self.seen.append(FASTAPI if "fastapi_inner_astack" in connection.scope else STRAIGHT)
        return upstreams[0]


def included(proxy: ProxyRouter, prefixes: Sequence[str] = ("",), **including: Any) -> FastAPI:
    """Include *proxy* in an app, through a router for each prefix but the last."""
    router: APIRouter = proxy
    for prefix in reversed(prefixes[1:]):
        parent = APIRouter()
        parent.include_router(router, prefix=prefix)
        router = parent
    app = FastAPI()
    app.include_router(router, prefix=prefixes[0], **including)
    return app


def text(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def header(answer: bytes, name: str) -> str:
    """Return all values of a header, joined."""
    lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return ", ".join(value.strip() for key, _, value in pairs if key.lower() == name)
