"""Every field of a declared override, through Python, through JSON and through the environment."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from fastapi_proxy_router import HeaderEdits, ProxySettings, Retry, RouteOverride, Timeout
from fastapi_proxy_router.overrides import (
    CookieEdits,
    ErrorPage,
    QueryEdits,
    ResponseOverride,
)
from tests.overrides.fields import CASES, FIELDS, IDS, PATH


def of(name: str, value: Any) -> dict[str, Any]:
    return {"path": PATH, name: value}


@pytest.fixture
def from_environment(monkeypatch, tmp_path):
    """Return overrides that are read from a variable, in a directory without a .env file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROXY_POOLS__MAIN__UPSTREAMS", "http://main")
    monkeypatch.setenv("PROXY_POOLS__CANARY__UPSTREAMS", "http://canary")
    monkeypatch.setenv("PROXY_POOLS__CANARY__PREFIX", "/canary")

    def read(overrides: list[Any]) -> list[RouteOverride]:
        monkeypatch.setenv("PROXY_OVERRIDES", json.dumps(overrides))
        return list(ProxySettings().overrides)

    return read


@pytest.mark.parametrize(("name", "value", "in_json"), CASES, ids=IDS)
def test_a_field_has_three_sources(name, value, in_json, from_environment):
    """Python, JSON and the environment are equal, and none is the default."""
    override = RouteOverride(**of(name, value))
    (from_settings,) = from_environment([of(name, in_json)])

    assert RouteOverride.model_validate_json(json.dumps(of(name, in_json))) == override
    assert from_settings == override
    assert override.new_body() == from_settings.new_body()
    assert override.compile().declared == from_settings.compile().declared
    if name == "json":
        assert override.new_body() is not None
    else:
        assert getattr(override, name) != getattr(RouteOverride(path=PATH), name)


@pytest.mark.parametrize("by_alias", [False, True])
@pytest.mark.parametrize(("name", "value", "in_json"), CASES, ids=IDS)
def test_a_dump_is_read_again(name, value, in_json, by_alias):
    """A dump as Python or as JSON, with every default in it, is the same override."""
    override = RouteOverride(**of(name, value))
    dumped = override.model_dump_json(by_alias=by_alias)

    for again in (
        RouteOverride.model_validate_json(dumped),
        RouteOverride.model_validate(override.model_dump(by_alias=by_alias)),
    ):
        assert again == override
        assert again.model_dump_json(by_alias=by_alias) == dumped
        assert again.new_body() == override.new_body()


def test_bytes_are_base64_only_where_there_are_none():
    """A dump in Python holds them as they are."""
    override = RouteOverride(path=PATH, body=b"\x00")

    assert override.model_dump()["body"] == b"\x00"
    assert override.model_dump(mode="json")["body"] == "AA=="


def models_in(value: Any) -> Iterator[Any]:
    if isinstance(value, BaseModel):
        yield value
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, list):
        for item in value:
            yield from models_in(item)


def test_the_table_has_every_field():
    """Also those of the models and settings inside, but for code, which JSON cannot hold."""
    shown: dict[type, set[str]] = {}
    for _, value, _ in CASES:
        for model in models_in(value):
            shown.setdefault(type(model), set()).update(model.model_fields_set)

    assert {"json_body" if name == "json" else name for name in FIELDS} == set(
        RouteOverride.model_fields
    )
    for kind in (HeaderEdits, QueryEdits, CookieEdits, ErrorPage, ResponseOverride):
        assert shown[kind] == kind.model_fields.keys() - {"transform"}
    for settings, name in ((Timeout, "timeout"), (Retry, "retry")):
        wanted = {field.name for field in dataclasses.fields(settings) if field.init}
        assert wanted in [given.keys() for _, given in FIELDS[name] if isinstance(given, dict)]


def test_all_that_goes_together_comes_from_one_variable(from_environment):
    """One override with every field but those that exclude each other, and one for each of them."""
    alone = ["preserve_host", "body", "text", "form", "json", "answer"]
    together = {name: cases[0][1] for name, cases in FIELDS.items() if name not in alone}
    given = [{**together, "path": PATH}]
    given += [{"path": f"/{name}", name: FIELDS[name][0][1]} for name in alone]

    assert from_environment(given) == TypeAdapter(list[RouteOverride]).validate_python(
        [
            {name: FIELDS[name][0][0] for name in together} | {"path": PATH},
            *({"path": f"/{name}", name: FIELDS[name][0][0]} for name in alone),
        ]
    )


def test_an_override_has_a_schema():
    """An endpoint may take one, or return it, and OpenAPI says what is in it."""
    schema = RouteOverride.model_json_schema()

    assert set(schema["properties"]) == set(FIELDS)
    assert "transform" not in schema["$defs"]["ResponseOverride"]["properties"]
    assert schema["properties"]["body"]["anyOf"][0] == {
        "type": "string",
        "contentEncoding": "base64",
    }
    RouteOverride.model_json_schema(mode="serialization")
