"""Processes that are stopped, killed, restarted, or have run out of descriptors.

====  ==============================================  ============================================
F30   stopped                                         test_an_upstream_that_is_stopped_...
      killed in the middle of a response              test_an_upstream_that_is_killed_...
      restarted                                       test_an_upstream_that_restarts_...
EMFILE  (3.4)                                         test_a_gateway_without_descriptors_...
====  ==============================================  ============================================
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastapi_proxy_router import Timeout
from tests.faults.client import connected
from tests.faults.upstreams import faulty
from tests.servers import OK, RawUpstream, Served

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]

ROOT = Path(__file__).parent.parent.parent

_UPSTREAM = r"""
import socket, sys, threading

def serve(connection):
    with connection:
        head = b""
        while data := connection.recv(65536):
            head += data
            if head.startswith(b"GET /unfinished") and head.endswith(b"\r\n\r\n"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello")
            elif head.endswith(b"\r\n\r\n"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                head = b""

listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def listening(port: int = 0) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


class Process:
    """An upstream in a process of its own."""

    def __init__(self) -> None:
        self.upstream = RawUpstream(0)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, on the port that it had before."""
        with listening(self.upstream.port) as listener:
            self.upstream.port = listener.getsockname()[1]
            command = [sys.executable, "-I", "-S", "-c", _UPSTREAM, str(listener.fileno())]
            self._process = subprocess.Popen(
                command, stderr=subprocess.DEVNULL, pass_fds=[listener.fileno()]
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()
        elif number == signal.SIGSTOP:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)


@contextlib.asynccontextmanager
async def process():
    upstream = Process()
    await upstream.start()
    try:
        yield upstream
    finally:
        upstream.signal(signal.SIGKILL)


async def test_an_upstream_that_is_stopped_is_a_504_and_serves_again(settled):
    """F30: its kernel accepts connections for it, so only the response deadline tells."""
    async with process() as program:

        async def heal():
            program.signal(signal.SIGCONT)

        timeout = Timeout(response=0.5)
        async with settled.gateway(program.upstream, heal=heal, timeout=timeout) as gw:
            assert (await gw.ask()).status == 200
            program.signal(signal.SIGSTOP)

            assert (await gw.ask()).status == 504


async def test_an_upstream_that_is_killed_leaves_an_unfinished_response(settled):
    """F30: what has begun breaks off, what comes next is refused until it is up again."""
    async with process() as program:
        async with (
            settled.gateway(program.upstream, heal=program.start) as gw,
            gw.client() as client,
        ):
            await client.send(gw.head("GET", "/unfinished", "Connection: close"))
            await client.until(b"hello")
            program.signal(signal.SIGKILL)
            await client.end()

            assert not gw.note(await client.answer()).complete
            assert (await gw.ask()).status == 502


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_upstream_that_restarts_costs_nothing(settled, method):
    """F30: the connections to its last process are not used again."""
    async with process() as program, settled.gateway(program.upstream) as gw:
        assert (await gw.ask(method)).status == 200
        program.signal(signal.SIGKILL)
        await program.start()

        assert (await gw.ask(method)).status == 200


@contextlib.contextmanager
def starving(url: str, log: Path):
    """Run a gateway with few descriptors."""
    with listening() as listener, log.open("wb") as output:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "tests.faults.starving", str(listener.fileno()), url]
        program = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        yield Served(port)
    finally:
        program.terminate()
        program.wait()


async def test_a_gateway_without_descriptors_blames_itself_and_recovers(tmp_path):
    """EMFILE: a 503 whose line in the log says that the fault was ours; then it works again."""

    async def well(_reader, writer):
        writer.write(OK)
        await writer.drain()
        return True

    log = tmp_path / "log"
    async with faulty(well) as upstream:
        with starving(upstream.url, log) as served:
            async with connected(served) as client:

                async def ask(line: str) -> int:
                    client.received.clear()
                    await client.send(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    return (await client.answer()).status

                assert await ask("POST /starve") == 200
                for _ in range(3):
                    assert await ask("GET /x") == 503
                assert await ask("POST /feed") == 200
                for _ in range(3):
                    assert await ask("GET /x") == 200

    lines = [line for line in log.read_text().splitlines() if " failed at " in line]
    assert len(lines) == 3
    assert all("fault of us" in line for line in lines)
