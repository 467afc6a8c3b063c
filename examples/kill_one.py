"""A gateway over three upstreams, to kill by hand and watch.

Run it with ``make kill-one``. It prints the process ids of the upstreams, keeps calling the gateway
itself, and says every second who answers and what fails. Kill an upstream in another terminal: its
calls go to the others, and it is back a few seconds after it was started again, which happens by
itself. ``GET /pool`` on the gateway has all figures.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from examples.demo import HOST, listen, serving
from fastapi_proxy_router import (
    Ejection,
    HealthCheck,
    PoolSnapshot,
    ProxyRouter,
    Upstream,
    UpstreamPool,
)

NAMES = ("alpha", "beta", "gamma")
#: Seconds until a killed upstream is started again.
PAUSE = float(os.environ.get("PAUSE", "5"))


def upstream_app(name: str) -> FastAPI:
    """Return an upstream, whose answers say its name."""
    app = FastAPI()

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"upstream": name}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "fine"}

    return app


def gateway_app(ports: dict[str, int]) -> FastAPI:
    """Return the gateway: this is all that it takes."""
    names = {port: name for name, port in ports.items()}

    def say(upstream: Upstream, before: str, after: str) -> None:
        print(f"  {names[upstream.port]}: {before} -> {after}", flush=True)

    pool = UpstreamPool(
        [f"http://{HOST}:{port}" for port in ports.values()],
        name="three",
        health=HealthCheck(path="/healthz", interval=1),
        ejection=Ejection(base_time=2),
        on_state_change=say,
    )
    app = FastAPI()

    @app.get("/pool")
    async def state() -> PoolSnapshot:
        return pool.snapshot()

    app.include_router(ProxyRouter(pool))
    return app


async def keep_running(name: str, port: int) -> None:
    """Run an upstream in a process of its own, and again whenever it is gone."""
    process: Process | None = None
    try:
        while True:
            command = (sys.executable, "-m", "examples.kill_one", name, str(port))
            process = await asyncio.create_subprocess_exec(*command)
            print(f"  {name}: kill {process.pid}", flush=True)
            await process.wait()
            print(f"  {name}: gone; it is started again in {PAUSE:g} s", flush=True)
            await asyncio.sleep(PAUSE)
    finally:
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()


async def keep_calling(address: str) -> None:
    """Call the gateway 50 times a second, and say every second what came of it."""
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        while True:
            answers: Counter[str] = Counter()
            for _ in range(50):
                answer = await client.get("/hello")
                answers[answer.json()["upstream"] if answer.is_success else "failed"] += 1
                await asyncio.sleep(0.02)
            shares = "  ".join(f"{name} {answers[name]:2}" for name in (*NAMES, "failed"))
            print(shares, flush=True)


async def run() -> None:
    """Run everything until SIGINT (Ctrl-C) or SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    ports = {name: free_port() for name in NAMES}
    async with AsyncExitStack() as stack:
        for name, port in ports.items():
            await stack.enter_async_context(running(keep_running(name, port)))
        for port in ports.values():
            await answering(port)
        listener = listen(int(os.environ.get("PORT", "8000")))
        address = await stack.enter_async_context(serving(gateway_app(ports), listener))
        print(f"The gateway is http://{address}/hello, its figures http://{address}/pool")
        print("Kill an upstream in another terminal, as printed. Ctrl-C stops all.", flush=True)
        await stack.enter_async_context(running(keep_calling(address)))
        await stop.wait()


@asynccontextmanager
async def running(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine beside the block."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def answering(port: int) -> None:
    """Wait until somebody listens on *port*."""
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def free_port() -> int:
    """Return a port that nobody listens on."""
    with listen() as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    if len(sys.argv) == 3:
        uvicorn.run(upstream_app(sys.argv[1]), host=HOST, port=int(sys.argv[2]), log_level="error")
    else:
        asyncio.run(run())
