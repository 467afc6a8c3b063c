"""A page of the browser that is looked into: its DevTools load it, and run code in it."""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection


class Page:
    """A page, which asks nobody for files but those that are given."""

    def __init__(self, connection: ClientConnection, files: Mapping[str, Path]) -> None:
        self._connection = connection
        self._files = files
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._calls = 0

    async def show(self, url: str) -> None:
        """Load *url*; requests for the URLs of files are answered with them."""
        patterns = [{"urlPattern": f"{url}*"} for url in self._files]
        await self._call("Fetch.enable", patterns=patterns)
        await self._call("Page.navigate", url=url)

    async def run(self, code: str) -> Any:
        """Return what the JavaScript *code* does, when its promise is kept."""
        told = await self._call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def listen(self) -> None:
        """Take what the browser tells, until the connection ends."""
        async for text in self._connection:
            told = json.loads(text)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Fetch.requestPaused":
                await self._serve(told["params"])

    async def _serve(self, paused: dict[str, Any]) -> None:
        url = paused["request"]["url"]
        file = next(file for prefix, file in self._files.items() if url.startswith(prefix))
        kind, _ = mimetypes.guess_type(file.name)
        assert kind is not None
        await self._send(
            "Fetch.fulfillRequest",
            requestId=paused["requestId"],
            responseCode=200,
            responseHeaders=[{"name": "Content-Type", "value": kind}],
            body=base64.b64encode(file.read_bytes()).decode(),
        )

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        answer = await self._send(method, **params)
        told = await answer
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def _send(self, method: str, **params: Any) -> asyncio.Future[Any]:
        self._calls += 1
        answer = self._answers[self._calls] = asyncio.get_running_loop().create_future()
        call = {"id": self._calls, "method": method, "params": params}
        await self._connection.send(json.dumps(call))
        return answer


@asynccontextmanager
async def inspected(devtools: str, files: Mapping[str, Path]) -> AsyncIterator[Page]:
    """Open an empty page of the browser behind *devtools* until the block ends."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        opened = (await client.put(f"{devtools}/json/new?about:blank")).raise_for_status().json()
        url = opened["webSocketDebuggerUrl"]
        try:
            async with websockets.connect(url, proxy=None, max_size=None) as connection:
                page = Page(connection, files)
                listening = asyncio.create_task(page.listen(), name="listen to DevTools")
                yield page
                await connection.close()
                await listening
        finally:
            await client.get(f"{devtools}/json/close/{opened['id']}")
