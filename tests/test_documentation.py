"""What the README and docs/ say is run: code, settings, commands, links and the tables of rules."""

from __future__ import annotations

import os
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values
from fastapi import FastAPI

import fastapi_proxy_router
from fastapi_proxy_router import (
    CookieEdits,
    ErrorPage,
    HeaderEdits,
    PoolSettings,
    ProxyRouter,
    ProxySettings,
    QueryEdits,
    RequestOverride,
    ResponseOverride,
    RouteOverride,
    TimeoutSettings,
    WebSocketOverride,
    WebSocketSettings,
)
from tests.servers import get_raw, raw_upstream, send_raw, serve, status

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
JOURNEY = ROOT / "docs" / "journey.md"
OVERRIDE_FIELDS = ROOT / "docs" / "override-fields.md"

_FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INCLUDE = re.compile(r'--8<-- "(.+)"')
_SETTING = re.compile(r"`(PROXY_\w+=[^`]+)`")


@dataclass
class Block:
    language: str
    text: str
    line: int


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page. Those that only include a file are its text."""
    source = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(source):
        text = textwrap.dedent(match[4])
        if include := _INCLUDE.fullmatch(text.strip()):
            text = (ROOT / include[1]).read_text(encoding="utf-8")
        found.append(Block(match[2], text, source.count("\n", 0, match.start()) + 2))
    return found


def having(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.language == language for block in blocks(page))]


def rows(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    section = page.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.fixture
def no_settings(monkeypatch):
    """Take away the settings of whoever runs the tests."""
    for variable in [variable for variable in os.environ if variable.startswith("PROXY_")]:
        monkeypatch.delenv(variable)


# Code


@pytest.mark.parametrize("page", having("python"), ids=name)
def test_every_block_of_python_runs(page, pytester, monkeypatch, no_settings):
    """The blocks of a page run in order in one module, and the tests among them pass."""
    # What the examples and the page on settings read from the environment.
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("PROXY_POOLS__SITE__UPSTREAMS", '["http://website:8000"]')
    code = [
        f"# line {block.line}\n{block.text}" for block in blocks(page) if block.language == "python"
    ]
    module = "\n\n".join([*code, 'def test_the_page_was_run_to_its_end():\n    """Pass."""\n'])

    pytester.makepyfile(module)
    # An old TestClient on a new anyio warns; that is between the two of them.
    warnings = ("-W", "error", "-W", "ignore::DeprecationWarning:starlette.testclient")
    result = pytester.runpytest_inprocess(*warnings, "-p", "no:cacheprovider")

    result.assert_outcomes(passed=len(re.findall(r"^def test_", module, re.MULTILINE)))


def test_no_block_is_in_a_language_that_nobody_checks():
    """Every block is Python, settings, commands, or output that says so."""
    languages = {block.language for page in ALL_PAGES for block in blocks(page)}
    assert languages <= {"python", "env", "bash", "text"}


def test_no_block_is_without_a_language():
    """A block without a language would escape the tests."""
    for page in ALL_PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert all(fences[::2]), name(page)
        assert not any(fences[1::2]), name(page)


# Settings


def parse(text: str) -> dict[str, str]:
    return {key: value or "" for key, value in dotenv_values(stream=StringIO(text)).items()}


def examples_of_settings() -> Iterator[str]:
    for page in PAGES:
        yield from (block.text for block in blocks(page) if block.language == "env")
        yield from _SETTING.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", list(examples_of_settings()))
def test_every_example_of_settings_is_accepted(text, monkeypatch, tmp_path, no_settings):
    """Each block of settings, and each variable in a text, makes a router."""
    monkeypatch.chdir(tmp_path)
    values = parse(text)
    assert values
    # An example of something else is lent a pool.
    if not any(
        variable.endswith("UPSTREAMS") or "upstreams" in values[variable] for variable in values
    ):
        pool = next((v.split("__")[1] for v in values if v.startswith("PROXY_POOLS__")), "SITE")
        values[f"PROXY_POOLS__{pool}__UPSTREAMS"] = '["http://website:8000"]'
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    assert ProxyRouter.from_settings().pools


def test_every_setting_is_documented():
    """The page on settings names the variable of every field."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    variables = {
        f"PROXY_{field.upper()}"
        for field in ProxySettings.model_fields
        if field not in ("pools", "timeout", "websocket")
    }
    variables |= {f"PROXY_POOLS__USERS__{field.upper()}" for field in PoolSettings.model_fields}
    variables |= {f"PROXY_TIMEOUT__{field.upper()}" for field in TimeoutSettings.model_fields}
    variables |= {f"PROXY_WEBSOCKET__{field.upper()}" for field in WebSocketSettings.model_fields}
    assert {variable for variable in variables if variable not in text} == set()


@pytest.mark.parametrize(
    "model",
    [
        RouteOverride,
        HeaderEdits,
        QueryEdits,
        CookieEdits,
        ErrorPage,
        RequestOverride,
        ResponseOverride,
        WebSocketOverride,
    ],
    ids=lambda model: model.__name__,
)
def test_every_field_of_an_override_is_in_the_tables(model):
    """The reference lists what can be said, by the name that it is said with, and nothing else."""
    listed = [name for row in rows(OVERRIDE_FIELDS, model.__name__) for name in code(row[0])]
    assert sorted(listed) == sorted(
        field.alias or name for name, field in model.model_fields.items()
    )


def test_every_public_name_is_in_the_reference():
    """What can be imported is explained."""
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    explained = set(re.findall(r"^::: .*\.(\w+)$", pages, re.MULTILINE))
    assert set(fastapi_proxy_router.__all__) - explained == set()


# Commands and links


def commands() -> list[str]:
    return [
        line.split("  #")[0].strip()
        for page in ALL_PAGES
        for block in blocks(page)
        if block.language == "bash"
        for line in block.text.splitlines()
    ]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_is_one_that_works(command):
    """Targets are in the Makefile, apps are in the examples, and the package has its name."""
    match command.split():
        case ["make", target, *_]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        case ["pip", "install", package]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
            assert package == project["project"]["name"]
        case ["python", "-m", "http.server", *_]:
            pass
        case ["uvicorn" | "hypercorn" | "granian", *arguments]:
            assert "main:app" in arguments
        case _:
            pytest.fail(f"nobody checks {command!r}")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.stem
)
def test_every_command_in_an_example_names_an_app(path):
    """What an example's docstring tells to run is in that example."""
    source = path.read_text(encoding="utf-8")
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for module, app in re.findall(r"uvicorn .*?(examples[.\w]+):(\w+)", source):
        assert module == own
        assert re.search(rf"^{app} = ", source, re.MULTILINE)
    for file in re.findall(r"--env-file (\S+)", source):
        assert (ROOT / file).is_file()


@pytest.mark.parametrize("page", ALL_PAGES, ids=name)
def test_every_link_leads_to_a_file(page):
    """A link to a file of the repository has one at its end, and its heading if it names one."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path) if path else page
        assert file.exists(), target
        # mkdocs itself checks the anchors that docstrings make.
        if anchor and "." not in anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_the_readme_is_short():
    """Nobody reads more than 200 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


# The tables of rules


def gateway(upstream: str, prefix: str) -> FastAPI:
    app = FastAPI()
    app.include_router(ProxyRouter(upstream, prefix=prefix))
    return app


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize(
    ("prefix", "upstream", "asked", "sent"), [row[:4] for row in rows(JOURNEY, "The path")]
)
async def test_every_path_of_the_table_is_forwarded_as_it_says(prefix, upstream, asked, sent):
    """The upstream gets the target in the last column."""
    async with raw_upstream() as server:
        url = code(upstream)[0].replace("http://up", server.url)
        async with serve(gateway(url, "".join(code(prefix)))) as gw:
            assert status(await get_raw(gw, code(asked)[0])) == 200
    assert server.last.target.decode() == code(sent)[0]


def raw(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, *headers, "Connection: close", "", ""]).encode()


#: What the client sends in the rows of the table that are not examples of paths.
REFUSED = {
    "two `Host` headers": [raw("GET / HTTP/1.1", "Host: a", "Host: b")],
    "`Content-Length` with `Transfer-Encoding`": [
        raw("POST / HTTP/1.1", "Host: a", "Content-Length: 3", "Transfer-Encoding: chunked")
    ],
    "`Connection: host`": [raw("GET / HTTP/1.1", "Host: a", "Connection: host")],
    "`CONNECT` and `TRACE`": [
        raw("CONNECT / HTTP/1.1", "Host: a"),
        raw("TRACE / HTTP/1.1", "Host: a"),
    ],
    "a path or a query above 16 KiB": [
        raw(f"GET /{'x' * 17000} HTTP/1.1", "Host: a"),
        raw(f"GET /?{'x' * 17000} HTTP/1.1", "Host: a"),
    ],
    "more than 128 headers, or 64 KiB of them": [
        raw("GET / HTTP/1.1", "Host: a", *["X: y"] * 128),
        raw("GET / HTTP/1.1", "Host: a", f"X: {'y' * 65536}"),
    ],
}


@pytest.mark.parametrize("row", rows(JOURNEY, "What is refused"), ids=lambda row: row[0])
async def test_every_refusal_of_the_table_is_one(row):
    """The client gets the status in the table, and the upstream hears nothing."""
    sent, expected = row[:2]
    paths, _, prefix = sent.partition(" for the prefix ")
    requests = REFUSED.get(sent) or [raw(f"GET {path} HTTP/1.1", "Host: a") for path in code(paths)]
    async with (
        raw_upstream() as upstream,
        serve(gateway(upstream.url, "".join(code(prefix)))) as gw,
    ):
        answers = {status(await send_raw(gw, request)) for request in requests}
    assert answers == {int(expected)}
    assert upstream.connections == 0
