"""Every name of fastapi-reverse-proxy is there, and takes every call that it takes."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import metadata
from typing import Any

import fastapi_reverse_proxy as theirs
import pytest

from fastapi_proxy_router import compat as ours

CLASSES = [name for name in theirs.__all__ if isinstance(getattr(theirs, name), type)]
METHODS = [
    (name, member)
    for name in CLASSES
    for member, value in vars(getattr(theirs, name)).items()
    if (not member.startswith("_") or member in ("__aenter__", "__aexit__"))
    and inspect.isfunction(value)
]
PROPERTIES = [
    (name, member)
    for name in CLASSES
    for member, value in vars(getattr(theirs, name)).items()
    if isinstance(value, property)
]


def parameters(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def assert_takes_every_call(our: Any, their: Any) -> None:
    """The parameters are theirs in name, order and default, and more may follow."""
    wanted, given = parameters(their), parameters(our)
    assert [p.name for p in given[: len(wanted)] if p.kind is not p.VAR_KEYWORD] == [
        p.name for p in wanted
    ]
    for ours_, theirs_ in zip(given, wanted, strict=False):
        assert ours_.kind is theirs_.kind
        assert ours_.default == theirs_.default or theirs_.default is theirs_.empty
    for added in given[len(wanted) :]:
        assert added.default is not added.empty or added.kind is added.VAR_KEYWORD


def test_every_name_is_exported():
    """Nothing is missing, and nothing else is there."""
    assert sorted(ours.__all__) == sorted(theirs.__all__)


@pytest.mark.parametrize("name", theirs.__all__)
def test_every_name_takes_every_call(name):
    """What the package accepts, positional or by name, is accepted here."""
    assert_takes_every_call(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("name", theirs.__all__)
def test_what_is_awaited_there_is_awaited_here(name):
    """A coroutine function stays one."""
    assert inspect.iscoroutinefunction(getattr(ours, name)) == inspect.iscoroutinefunction(
        getattr(theirs, name)
    )


@pytest.mark.parametrize(
    ("name", "member"),
    [(name, member) for name, member in METHODS if member != "__aexit__"],
)
def test_every_method_takes_every_call(name, member):
    """So do the methods, which are awaited or not as there."""
    our, their = getattr(getattr(ours, name), member), getattr(getattr(theirs, name), member)
    assert_takes_every_call(our, their)
    assert inspect.iscoroutinefunction(our) == inspect.iscoroutinefunction(their)


@pytest.mark.parametrize(("name", "member"), PROPERTIES)
def test_every_property_can_be_read_and_set_as_there(name, member):
    """A property that can be set there can be set here."""
    our, their = vars(getattr(ours, name))[member], vars(getattr(theirs, name))[member]
    assert (our.fset is None) == (their.fset is None)


def test_every_attribute_of_a_health_checker_is_there():
    """All that is public of an instance."""
    targets = ["http://a:1", "http://b:2"]
    checker = theirs.HealthChecker(targets)
    wanted = {name for name in vars(checker) if not name.startswith("_")}
    # Else it says so when it is collected.
    checker._client = None

    assert wanted <= set(vars(ours.HealthChecker(targets)))


def test_every_parameter_that_the_readme_documents_is_taken():
    """By proxy_pass and by LoadBalancer.proxy_pass, of which it says the same."""
    readme = str(metadata("fastapi-reverse-proxy").json["description"])
    documented = re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)

    assert len(documented) >= 7
    for function in (ours.proxy_pass, ours.LoadBalancer.proxy_pass):
        assert set(documented) <= {parameter.name for parameter in parameters(function)}
