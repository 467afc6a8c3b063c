"""The house keeps its walls: floors, names, sizes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import fastapi_proxy_router

PACKAGE = Path(fastapi_proxy_router.__file__).parent
NAME = PACKAGE.name

#: Every module has a floor and imports only from its own or a lower one.
FLOORS = {
    "core": 0,
    "exceptions": 0,
    "settings": 1,
    "messages": 1,
    "mistakes": 1,
    "overrides": 1,
    "hooks": 1,
    "outgoing": 1,
    "reading": 1,
    "log": 0,
    "sources": 0,
    "body": 2,
    "lifetime": 2,
    "measure": 2,
    "transforming": 2,
    "client": 2,
    "incoming": 2,
    "watch": 2,
    "transport": 2,
    "websocket": 2,
    "admission": 3,
    "tries": 3,
    "content": 3,
    "exchange": 3,
    "reply": 3,
    "timing": 3,
    "dialling": 3,
    "mirroring": 3,
    "failover": 3,
    "forwarder": 3,
    "prober": 3,
    "relay": 3,
    "resolver": 3,
    "rounds": 3,
    "serving": 3,
    "upgrade": 3,
    "plan": 3,
    "planner": 3,
    "answering": 3,
    "prefixes": 3,
    "picking": 4,
    "operations": 4,
    "routehooks": 4,
    "registry": 4,
    "route": 4,
    "router": 4,
    "compat": 4,
    "__init__": 5,
}
#: What each floor may know besides the standard library and the package.
KNOWN = {
    0: {"starlette"},
    1: {"starlette", "pydantic", "pydantic_core", "pydantic_settings"},
    2: {"starlette", "httptools", "httpx", "websockets"},
    3: {"starlette", "websockets"},
    4: {"starlette", "fastapi"},
    5: set(),
}
#: exceptions derives from FastAPI's HTTPException, so that users catch ours by it.
#: compat gives its users an httpx client. What pool.snapshot() returns is a pydantic model, so that
#: an endpoint can return it; it decides nothing, and the method belongs on the pool.
EXTRA = {
    "compat": {"httpx"},
    "core.snapshot": {"pydantic"},
    "hooks": {"anyio"},
    "exceptions": {"fastapi"},
    "relay": {"anyio"},
    "resolver": {"dns"},
}
#: The one thing that the pure floor may take from starlette besides path patterns.
PURE = {"starlette.requests", "starlette.routing"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Return what a module imports, relative ones as absolute names; not for type checkers only."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checking = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    parts = [NAME, *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: -node.level] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


def floor_of(dotted: str) -> int:
    return FLOORS[dotted.removeprefix(f"{NAME}.").partition(".")[0]]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_its_floor_downwards(path):
    """And from outside only what its floor knows."""
    import sys

    own = module_name(path).partition(".")[0]
    for imported in imports(path):
        top = imported.partition(".")[0]
        if top == NAME:
            assert floor_of(imported) <= FLOORS[own], f"{path.name} imports {imported}"
        elif top not in sys.stdlib_module_names:
            extra = EXTRA.get(own, set()) | EXTRA.get(module_name(path), set())
            assert top in KNOWN[FLOORS[own]] | extra, f"{path.name} imports {top}"
            if own == "core" and top not in extra:
                assert imported in PURE


def test_no_two_modules_import_each_other():
    """The graph of imports has no cycle."""
    graph = {
        f"{NAME}.{module_name(path)}": {
            name for name in imports(path) if name.startswith(f"{NAME}.")
        }
        for path in MODULES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for imported in graph.get(module, ()):
                visit(imported, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.stem
)
def test_the_pure_floor_is_pure(path):
    """It never awaits, sleeps or reads a clock."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    awaits = (ast.Await, ast.AsyncFor, ast.AsyncWith)

    assert not [node for node in ast.walk(tree) if isinstance(node, awaits)]
    assert {"time", "asyncio", "socket", "datetime", "random"}.isdisjoint(imports(path))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_files_stay_one_idea_long(path):
    """At most 350 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_the_public_names_are_complete_sorted_and_documented():
    """__all__ is what is exported, and everything in it says what it is."""
    names = fastapi_proxy_router.__all__

    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    for name in names:
        exported = getattr(fastapi_proxy_router, name)
        assert name in ("METHODS", "Balancer") or exported.__doc__
    assert (PACKAGE / "py.typed").exists()


def test_the_package_says_nothing_on_import():
    """The logger has no handler and no level of its own."""
    from fastapi_proxy_router.log import logger

    assert (logger.handlers, logger.level) == ([], 0)
