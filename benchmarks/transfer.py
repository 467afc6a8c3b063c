"""Move large bodies through a gateway in its own process and watch its memory.

    make bench-transfer            1 GiB each way, then with a slow reader and a slow upstream
    make bench-transfer MIB=64     a quick look

Client, gateway and upstream are three processes on 127.0.0.1. Memory is the gateway's peak resident
set (VmHWM) against what it was before the transfer, on Linux.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

CHUNK = bytes(65536)
MIB = 1024 * 1024
#: A slow side pauses this often; fast enough to finish, slow enough to be waited for.
PAUSE_EVERY = 4 * MIB
PAUSE = 0.02


async def send_body(writer: asyncio.StreamWriter, size: int) -> None:
    for _ in range(size // len(CHUNK)):
        writer.write(CHUNK)
        await writer.drain()


async def read_body(reader: asyncio.StreamReader, size: int, *, slow: bool) -> None:
    received, pause_at = 0, PAUSE_EVERY
    while received < size:
        chunk = await reader.read(len(CHUNK))
        if not chunk:
            raise SystemExit(f"the transfer broke off after {received} bytes")
        received += len(chunk)
        if slow and received >= pause_at:
            pause_at += PAUSE_EVERY
            await asyncio.sleep(PAUSE)


def length_of(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def upstream(port: int) -> None:
    """Serve GET /<bytes>, and take PUT /fast and PUT /slow."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target = head.split(b" ", 2)[:2]
        size = int(target[1:]) if method == b"GET" else 0
        if method == b"PUT":
            await read_body(reader, length_of(head), slow=target == b"/slow")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await send_body(writer, size)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def gateway(upstream_port: str) -> None:
    import uvicorn
    from fastapi import FastAPI

    from fastapi_proxy_router import ProxyRouter

    app = FastAPI()
    app.include_router(ProxyRouter(f"http://127.0.0.1:{upstream_port}"))
    config = uvicorn.Config(app, port=0, log_level="warning")
    server = uvicorn.Server(config)

    async def run() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await task

    asyncio.run(run())


def memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def start(role: str, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "benchmarks.transfer", role, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


async def transfer(port: int, method: str, target: str, size: int, *, slow: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=len(CHUNK))
    upload = size if method == "PUT" else 0
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    if upload:
        head += f"Content-Length: {upload}\r\n"
    writer.write(head.encode() + b"\r\n")
    await send_body(writer, upload)
    answer = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in answer:
        raise SystemExit(answer.decode())
    await read_body(reader, length_of(answer), slow=slow)
    writer.close()


def measure(mib: int) -> None:
    size = mib * MIB
    server, upstream_port = start("upstream")
    proxy, port = start("gateway", str(upstream_port))
    try:
        asyncio.run(transfer(port, "GET", f"/{MIB}", MIB, slow=False))
        cases = [
            ("download", "GET", f"/{size}", False),
            ("download, slow reader", "GET", f"/{size}", True),
            ("upload", "PUT", "/fast", False),
            ("upload, slow upstream", "PUT", "/slow", False),
        ]
        print(f"{'transfer':24} {'MiB':>6} {'seconds':>8} {'MiB/s':>7} {'growth, MiB':>12}")
        for name, method, target, slow in cases:
            Path(f"/proc/{proxy.pid}/clear_refs").write_text("5", encoding="ascii")
            before, began = memory(proxy.pid, "VmRSS"), time.perf_counter()
            asyncio.run(transfer(port, method, target, size, slow=slow))
            seconds = time.perf_counter() - began
            growth = (memory(proxy.pid, "VmHWM") - before) / MIB
            print(f"{name:24} {mib:6} {seconds:8.1f} {mib / seconds:7.0f} {growth:12.1f}")
    finally:
        for process in (proxy, server):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["upstream"]:
            asyncio.run(upstream(0))
        case ["gateway", port]:
            gateway(port)
        case _:
            measure(int(os.environ.get("MIB", "1024")))
