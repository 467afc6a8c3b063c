"""Fixtures that all tests share."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers import SERVERS

#: Tests that share something dear: a browser, a Jupyter, a demo.
_TOGETHER = ("tests/browser/", "tests/test_applications.py", "tests/test_demo.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let one worker run all the tests that share something dear, so that there is one of it.

    All else goes by functions, with all their parameters: who hands out the work takes a look at
    all that a worker has for each piece of it. pytest-xdist's own groups are lost on newer versions
    of pytest.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            alone = nodeid.partition("[")[0]
            return next((one for one in _TOGETHER if nodeid.startswith(one)), alone)

    return Together(config, log)


@pytest.fixture
def anyio_backend():
    """Run every async test on asyncio, which all the servers use."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _anyio(anyio_backend):
    """Let anyio's plugin run async tests without a mark on each."""


@pytest.fixture(params=SERVERS)
def server(request):
    """Run the test on each ASGI server."""
    return request.param


def _tasks():
    """Return the tasks that are running, without those of anyio's own test runner."""
    return {task for task in asyncio.all_tasks() if "TestRunner" not in repr(task.get_coro())}


@pytest.fixture
async def settled():
    """Fail a test that leaves a task behind."""
    before = _tasks()
    yield
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 3
    while left := _tasks() - before:
        assert loop.time() < deadline, f"left behind: {left}"
        await asyncio.wait(left, timeout=0.05)
