"""F30: upstreams that are restarted one after the other, while clients notice nothing of it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from fastapi_proxy_router import Ejection, Upstream
from tests.applications.process import free_port
from tests.retries.pools import Gateway

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pools")]

ROOT = Path(__file__).parent.parent.parent
CLIENTS = 6
#: Seconds in which anything should be done on a machine that is busy.
PATIENCE = 20


class Process:
    """One upstream, which comes back on the same port."""

    def __init__(self, record: Path) -> None:
        self.port = free_port()
        self.record = record
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        arguments = ("-m", "tests.retries.recording", str(self.port), str(self.record))
        self._process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
        async with asyncio.timeout(PATIENCE):
            while True:
                assert self._process.poll() is None, "it has ended"
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.02)

    async def stop(self, number: signal.Signals) -> None:
        """Send it a signal, and wait until it has ended."""
        assert self._process is not None
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait, PATIENCE)

    def kill(self) -> None:
        """End it if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def done(self) -> list[str]:
        """Return what it has done, in all its lives."""
        return self.record.read_text().splitlines() if self.record.exists() else []


class Load:
    """Clients that send one request after the other, each with a number of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self.gets: list[int] = []
        self.posts: dict[str, int] = {}

    async def client(self) -> None:
        while not self._stop.is_set():
            number = str(next(self._numbers))
            self.gets.append((await self._gateway.ask("GET", f"/{number}")).status)
            answer = await self._gateway.ask("POST", "/post", body=number.encode())
            self.posts[number] = answer.status

    def stop(self) -> None:
        self._stop.set()

    async def more(self, count: int) -> None:
        """Wait until *count* more requests were answered."""
        goal = len(self.posts) + count
        async with asyncio.timeout(PATIENCE):
            while len(self.posts) < goal:
                await asyncio.sleep(0.01)


async def _roll(processes: list[Process], gateway: Gateway, load: Load) -> None:
    """Restart each of them, first politely and then not."""
    await load.more(30)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process, upstream in zip(processes, gateway.pool.upstreams, strict=True):
            await process.stop(number)
            await load.more(15)
            await process.start()
            before = upstream.requests
            async with asyncio.timeout(PATIENCE):
                while upstream.health.state != "healthy" or upstream.requests < before + 5:
                    await asyncio.sleep(0.01)


async def test_clients_notice_nothing_of_a_rolling_restart(pools, tmp_path):
    """Every GET is answered, no POST is executed twice, and each that was answered, once."""
    processes = [Process(tmp_path / str(number)) for number in range(3)]
    options = {"balancer": "two_choices", "ejection": Ejection(base_time=0.2, max_time=1)}
    try:
        await asyncio.gather(*(process.start() for process in processes))
        upstreams = [Upstream(f"http://127.0.0.1:{process.port}") for process in processes]
        async with pools.gateway_to(*upstreams, **options) as gateway:
            load = Load(gateway)
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(load.client())
                try:
                    await _roll(processes, gateway, load)
                finally:
                    load.stop()
    finally:
        for process in processes:
            process.kill()

    executed = Counter(line.split()[-1] for p in processes for line in p.done() if "POST" in line)
    assert Counter(load.gets) == {200: len(load.gets)}
    assert {number: n for number, n in executed.items() if n > 1} == {}
    assert [n for n, status in load.posts.items() if status == 200 and not executed[n]] == []
    assert set(load.posts.values()) <= {200, 502}
