"""Jupyter Server: an API, cookies, checks of Origin and Host, and a WebSocket to every kernel."""

from __future__ import annotations

import itertools
import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection

from tests.applications.process import free_port, running
from tests.servers import Served

TOKEN = "token-of-this-test"
AUTHORIZED = {"Authorization": f"token {TOKEN}"}
#: The subprotocol whose messages are binary; without it they are text.
V1 = "v1.kernel.websocket.jupyter.org"

_PARTS = ("header", "parent_header", "metadata", "content")


@dataclass
class Jupyter(Served):
    """A Jupyter Server that is listening, and the directory whose files it shows."""

    root: Path = field(default_factory=Path)


@contextmanager
def jupyter(directory: Path) -> Iterator[Jupyter]:
    """Run Jupyter Server under ``/jupyter/``, with all that it writes in *directory*."""
    served = Jupyter(free_port(), root=directory / "root")
    served.root.mkdir()
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": served.port,
        "ServerApp.port_retries": 0,
        "ServerApp.base_url": "/jupyter/",
        "ServerApp.root_dir": served.root,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": TOKEN,
    }
    command = [sys.executable, "-m", "jupyter_server"]
    command += [f"--{name}={value}" for name, value in options.items()]
    env = {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "JUPYTER_NO_CONFIG": "1"}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        env[name] = str(directory / name.lower())
    with running(command, served.port, log=directory / "log", env=env):
        yield served


class Kernel:
    """A kernel at the other end of an open WebSocket."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._numbers = itertools.count()

    async def execute(self, code: str) -> str:
        """Send *code* and return the request's id."""
        request = f"{self._websocket.id}-{next(self._numbers)}"
        message: dict[str, Any] = {
            "header": {
                "msg_id": request,
                "msg_type": "execute_request",
                "session": str(self._websocket.id),
                "username": "test",
                "date": "2020-01-01T00:00:00Z",
                "version": "5.3",
            },
            "parent_header": {},
            "metadata": {},
            "content": {"code": code, "silent": False, "allow_stdin": False},
        }
        await self._websocket.send(
            _binary("shell", message)
            if self._websocket.subprotocol == V1
            else json.dumps({**message, "channel": "shell"})
        )
        return request

    async def answer(self, request: str, kind: str) -> Any:
        """Return the content of the first message of *kind* that answers *request*."""
        async for data in self._websocket:
            message = _parsed(data) if isinstance(data, bytes) else json.loads(data)
            answers = message["parent_header"].get("msg_id") == request
            if answers and message["header"]["msg_type"] == kind:
                return message["content"]
        raise EOFError(f"the WebSocket ended before {kind}")


def _binary(channel: str, message: dict[str, Any]) -> bytes:
    """Return a message of V1: how many offsets there are, the offsets, and what they point to."""
    parts = [channel.encode(), *(json.dumps(message[name]).encode() for name in _PARTS)]
    count = len(parts) + 1
    offsets = itertools.accumulate(map(len, parts), initial=8 * (count + 1))
    return struct.pack(f"<{count + 1}Q", count, *offsets) + b"".join(parts)


def _parsed(data: bytes) -> dict[str, Any]:
    (count,) = struct.unpack_from("<Q", data)
    # The channel comes first, and buffers may follow the four parts.
    offsets = struct.unpack_from(f"<{count}Q", data, 8)[1:6]
    slices = itertools.starmap(slice, itertools.pairwise(offsets))
    return {name: json.loads(data[part]) for name, part in zip(_PARTS, slices, strict=True)}
