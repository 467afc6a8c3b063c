"""A backend for a frontend: one page needs two services, and asks once.

Both are asked at the same time, with the headers of the client. If the orders cannot be had, the
page is shown without them; without the user there is no page, and the client gets the 502, 503 or
504::

    uvicorn examples.recipes.merge_two_upstreams:app
"""

import asyncio
import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from fastapi_proxy_router import (
    ProxyRouter,
    Upstream,
    UpstreamPool,
    proxy_pass,
)

users = UpstreamPool(os.getenv("USERS", "http://127.0.0.1:9001"), name="users")
orders = UpstreamPool(os.getenv("ORDERS", "http://127.0.0.1:9002"), name="orders")

app = FastAPI()


class Dashboard(BaseModel):
    """All that the page shows."""

    name: str
    orders: list[dict[str, Any]] | None


@app.get("/dashboard/{user}")
async def dashboard(
    request: Request,
    user: int,
    users: Annotated[Upstream, Depends(users)],
    orders: Annotated[Upstream, Depends(orders)],
) -> Dashboard:
    """Read what the page of a user shows."""
    both: tuple[Any, Any] = await asyncio.gather(
        asked(request, users, f"/users/{user}"),
        asked(request, orders, f"/users/{user}/orders"),
        return_exceptions=True,
    )
    profile, recent = both
    if isinstance(profile, BaseException):
        raise profile
    # A GatewayError is an HTTPException.
    known = None if isinstance(recent, HTTPException) else recent
    return Dashboard(name=profile["name"], orders=known)


async def asked(request: Request, upstream: Upstream, path: str) -> Any:
    """Return the JSON that an upstream has below *path*."""
    response = await proxy_pass(request, upstream, path=path, query="", reads_response=True)
    if response.status_code != 200:
        raise HTTPException(response.status_code)
    return await response.json()


app.include_router(ProxyRouter({"/users": users, "/orders": orders}))
