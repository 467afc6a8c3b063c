"""Version 1 of an API whose upstream only knows version 2.

Below ``/v1`` every request goes to ``/v2``, and every answer says that it is deprecated. Where the
two differ, a hook turns the new shape into the old one::

    uvicorn examples.recipes.version_an_api:app
"""

import os

from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_proxy_router import HeaderEdits, ProxyRouter, RouteOverride

deprecated = HeaderEdits(
    set={"deprecation": "@1767225600", "sunset": "Fri, 01 Jan 2027 00:00:00 GMT"}
)

proxy = ProxyRouter(
    os.getenv("UPSTREAM", "http://127.0.0.1:9000"),
    overrides=[
        RouteOverride(path="/v1/{rest:path}", rewrite="/v2/{rest}", response_headers=deprecated)
    ],
)


class User(BaseModel):
    """A user of version 2."""

    id: int
    first_name: str
    last_name: str


class UserV1(BaseModel):
    """A user of version 1."""

    id: int
    name: str


@proxy.override_response("/v1/users/{id}", deprecated=True)
async def read_user_v1(user: User) -> UserV1:
    """Read a user."""
    return UserV1(id=user.id, name=f"{user.first_name} {user.last_name}")


app = FastAPI()
app.include_router(proxy)
