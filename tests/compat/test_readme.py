"""The programs in the README of fastapi-reverse-proxy run with their import changed."""

from __future__ import annotations

import ast
import re
import textwrap
from importlib.metadata import metadata
from typing import Any

import pytest

from fastapi_proxy_router import compat
from tests.compat.programs import client_of, named
from tests.servers import serve

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

README = str(metadata("fastapi-reverse-proxy").json["description"])
BLOCKS = [
    textwrap.dedent(text)
    for text in re.findall(r"^ *```python\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
]
#: What stands inside a line and is a call of one of the names.
CALLS = [
    text
    for text in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", README)
    if re.match(r"(HealthChecker|LoadBalancer)\(\[", text)
]
UPSTREAM = "http://127.0.0.1:8080"


def run(program: str) -> dict[str, Any]:
    """Run a program of the README and return its names; one without an import has them all."""
    names: dict[str, Any] = {name: getattr(compat, name) for name in compat.__all__}
    program = program.replace("from fastapi_reverse_proxy import", f"from {compat.__name__} import")
    assert "fastapi_reverse_proxy" not in program
    exec(compile(program, "README", "exec"), names)
    return names


def test_the_readme_has_the_programs_that_are_run_here():
    """One application and one configuration, both in Python that can be read."""
    assert [bool(re.search(r"^app = ", block, re.MULTILINE)) for block in BLOCKS] == [True, False]
    assert len(CALLS) == 1
    for program in [*BLOCKS, *CALLS]:
        ast.parse(program)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_the_application_forwards_what_it_says(method):
    """Every method of its route reaches the upstream, with the path that the client asked for."""
    async with serve(named("one")) as upstream:
        app = run(BLOCKS[0].replace(UPSTREAM, upstream.url))["app"]
        async with serve(app) as gw, client_of(gw.url) as client:
            answer = (await client.request(method, "/login")).json()
    assert (answer["name"], answer["method"], answer["target"]) == ("one", method, "/login")


def test_the_configuration_by_dictionaries_is_accepted():
    """Its targets, and its limits, are those of the dictionaries."""
    checker = run(BLOCKS[1])["checker"]
    assert checker.is_personalized
    assert checker.targets == ["http://api-1", "http://api-2"]
    assert checker.target_configs["http://api-1"]["maxrequests"] == 100


def test_the_call_inside_a_line_is_accepted():
    """The constructor takes ping_path, as the README says and the package does not."""
    checker = run(f"checker = {CALLS[0]}")["checker"]
    assert checker.ping_path == "/health"
