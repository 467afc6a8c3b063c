"""Hooks in OpenAPI: parameters, bodies, security and responses."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import json
import warnings
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Form, Header, Path, Response, Security, UploadFile
from fastapi.security import APIKeyHeader, OAuth2PasswordBearer
from pydantic import BaseModel, RootModel

from fastapi_proxy_router import (
    ForwardedResponse,
    GatewayError,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
    Upstream,
    UpstreamPool,
)
from tests.hooks.helping import app_of


class User(BaseModel):
    """A user."""

    name: str


class Trace:
    """A context."""


def schema(proxy: ProxyRouter, **including: Any) -> dict[str, Any]:
    """Return what is documented; nothing may be warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return app_of(proxy, **including).openapi()


def proxy() -> ProxyRouter:
    return ProxyRouter("http://127.0.0.1:1", context=Trace)


def test_what_a_hook_asks_for_is_documented_and_nothing_of_ours():
    """Parameters of both hooks, each once, and none for the upstream, the context or the plan."""
    router = proxy()

    @router.override("/users/{id}", methods=["PUT"])
    async def send(
        id: int,
        user: User,
        x_tenant: Annotated[str, Header()],
        upstream: Annotated[Upstream, Depends(UpstreamPool("http://127.0.0.1:1"))],
        trace: Trace,
        response: Response,
    ) -> None:
        """Change a user."""

    @router.override_response("/users/{id}", methods=["PUT"])
    async def seen(
        user: User | None,
        id: int,
        upstream: Upstream | None,
        response: ForwardedResponse | None,
        error: GatewayError | None,
        trace: Trace,
        page: int = 1,
    ) -> User | ResponseOverride | None:
        """See a user."""

    document = schema(router)
    (path,) = document["paths"]
    operation = document["paths"][path]["put"]
    assert path == "/users/{id}"
    named = sorted(one["name"] for one in operation["parameters"])
    assert named == ["id", "page", "x-tenant"]
    assert _model(operation["requestBody"]["content"]) == "User"
    assert _model(operation["responses"]["200"]["content"]) == "User"
    assert operation["summary"] == "Send"
    assert operation["description"] == "Change a user."
    text = json.dumps(document)
    for ours in ("proxy_plan", "pool_0", "Trace", "ResponseOverride", "values", "choice"):
        assert ours not in text


def _model(content: dict[str, Any]) -> str:
    return str(content["application/json"]["schema"]["$ref"].rpartition("/")[2])


def test_the_response_model_is_that_of_the_options_or_of_the_annotation():
    """Options win."""
    router = proxy()

    @router.override("/a", response_model=User)
    async def a() -> None:
        """A."""

    @router.override_response("/b")
    async def b(user: User) -> User | None:
        """B."""

    @router.override_response("/c", response_model=list[User])
    async def c(users: list[User]) -> ResponseOverride:
        return ResponseOverride(json=users)

    @router.override_response("/d")
    async def d(users: list[User]) -> RootModel[list[User]]:
        return RootModel[list[User]](users)

    @router.override_response("/e")
    async def e(user: User) -> Any:
        """E."""

    paths = schema(router)["paths"]
    found = {
        path: operation["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        for path, operation in paths.items()
    }
    ref = {"$ref": "#/components/schemas/User"}
    assert found["/a"] == found["/b"] == ref
    assert found["/c"]["items"] == ref
    assert found["/d"]["$ref"].startswith("#/components/schemas/RootModel")
    assert found["/e"] == {}


def test_security_schemes_are_documented():
    """Those of the hook and of its dependencies."""
    router = proxy()

    @router.override("/a")
    async def hook(
        token: Annotated[str, Security(OAuth2PasswordBearer("t"), scopes=["read"])],
        key: Annotated[str, Depends(APIKeyHeader(name="x-key"))],
    ) -> None:
        """A."""

    document = schema(router)
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"OAuth2PasswordBearer", "APIKeyHeader"}
    names = {name for one in document["paths"]["/a"]["get"]["security"] for name in one}
    assert names == set(schemes)


def test_forms_and_files_are_documented():
    """As multipart."""
    router = proxy()

    @router.override("/a", methods=["POST"])
    async def hook(note: Annotated[str, Form()], upload: UploadFile) -> None:
        """A."""

    operation = schema(router)["paths"]["/a"]["post"]
    assert list(operation["requestBody"]["content"]) == ["multipart/form-data"]


def test_several_methods_and_includes_have_operation_ids_of_their_own():
    """So that no generated client has two of a name, and FastAPI warns of none."""
    router = proxy()

    @router.override("/a", methods=["GET", "POST", "DELETE"])
    @router.override("/b")
    async def hook() -> None:
        """A."""

    @router.override_response("/a", methods=["GET"])
    async def other() -> None:
        """B."""

    app = FastAPI()
    app.include_router(router, prefix="/one")
    app.include_router(router, prefix="/two")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = app.openapi()["paths"]
    ids = [one["operationId"] for path in paths.values() for one in path.values()]
    assert len(ids) == len(set(ids)) == 8


def test_what_is_said_first_of_both_hooks_counts_and_the_rest_is_added():
    """Options of either are those of the one operation."""
    router = proxy()

    @router.override_response("/a", tags=["seen"], status_code=201)
    async def seen(user: User) -> User:
        """What is seen."""
        return user

    @router.override("/a", tags=["sent"], deprecated=True, operation_id="mine")
    async def send() -> RequestOverride | None:
        """What is sent."""

    operation = schema(router)["paths"]["/a"]["get"]
    assert operation["tags"] == ["seen"]
    assert operation["deprecated"] is True
    assert operation["operationId"] == "mine"
    assert operation["description"] == "What is seen."
    assert _model(operation["responses"]["201"]["content"]) == "User"


@pytest.mark.parametrize("included", [True, False])
def test_a_hook_can_be_left_out(included):
    """As any path operation; the catch-all always is."""
    router = proxy()

    @router.override("/a", include_in_schema=included)
    async def hook() -> None:
        """A."""

    assert list(schema(router)["paths"]) == (["/a"] if included else [])


def test_every_parameter_of_the_path_is_documented():
    """Also if no hook asks for it: a page could not be tried out without it."""
    router = proxy()
    path = "/{name}/{number:int}/{share:float}/{key:uuid}/{rest:path}"

    @router.override_response(path)
    async def seen(user: User) -> User:
        return user

    (operation,) = (one["get"] for one in schema(router)["paths"].values())
    found = {one["name"]: (one["in"], one["schema"]["type"]) for one in operation["parameters"]}
    assert found == {
        "name": ("path", "string"),
        "number": ("path", "integer"),
        "share": ("path", "number"),
        "key": ("path", "string"),
        "rest": ("path", "string"),
    }


def test_what_is_said_of_a_parameter_of_the_path_counts():
    """In a hook, under another name, or in a dependency."""
    router = proxy()

    async def of_dependency(b: Annotated[int, Path(description="B")]) -> int:
        return b

    @router.override("/{a}/{b}/{c}")
    async def send(
        other: Annotated[int, Path(alias="a", description="A")],
        b: Annotated[int, Depends(of_dependency)],
        c: Annotated[int, Path(description="C")],
    ) -> None:
        """Say it."""

    (operation,) = (one["get"] for one in schema(router)["paths"].values())
    said = {one["name"]: one["description"] for one in operation["parameters"]}
    assert said == {"a": "A", "b": "B", "c": "C"}
    assert [one["schema"]["type"] for one in operation["parameters"]] == ["integer"] * 3
