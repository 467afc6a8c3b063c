"""One headless Chromium, without a driver: its DevTools open pages, and the pages report."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.applications.process import free_port, running

#: Root may not run it with a sandbox, and it shall do nothing of its own accord.
_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
    "--no-default-browser-check --no-proxy-server --disable-background-networking "
    "--disable-component-update --disable-default-apps --disable-extensions --disable-sync "
    "--disable-background-timer-throttling --disable-renderer-backgrounding "
    "--password-store=basic --use-mock-keychain --mute-audio"
).split()


@dataclass
class Chromium:
    """A browser that is running."""

    devtools: str

    @asynccontextmanager
    async def page(self, url: str) -> AsyncIterator[None]:
        """Show *url* in a page of its own until the block ends."""
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            opened = await client.put(f"{self.devtools}/json/new?{url}")
            page = opened.raise_for_status().json()
            try:
                yield
            finally:
                await client.get(f"{self.devtools}/json/close/{page['id']}")


@contextmanager
def chromium(directory: Path) -> Iterator[Chromium]:
    """Run Chromium until the block ends; every name below localhost is this machine."""
    program = shutil.which("chromium")
    if program is None:
        # `make test` needs nothing but Python; CI installs Chromium and must not do without it.
        missing = pytest.fail if "CI" in os.environ else pytest.skip
        missing("chromium is not installed: apt-get install chromium")
    port = free_port()
    command: list[str | Path] = [
        program,
        *_FLAGS,
        f"--remote-debugging-port={port}",
        f"--user-data-dir={directory / 'profile'}",
        "--host-resolver-rules=MAP *.localhost 127.0.0.1",
        "about:blank",
    ]
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory)}
    with running(command, port, log=directory / "log", env=env):
        yield Chromium(f"http://127.0.0.1:{port}")
