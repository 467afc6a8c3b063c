"""``HealthChecker``: asks every target how it is, at an interval."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..core.checks import HealthCheck
from ..core.upstream import Upstream
from ..log import logger
from ..prober import probe
from ..transport import HTTP1Transport
from .clients import ProbingClient, upstream_url
from .requests import quoted

__all__ = ["HealthChecker"]


class HealthChecker:
    """Ask every target how it is, at an interval: healthy is what answers with less than 400.

    The question is a ``HEAD``, or a ``GET`` for a target that answers it with 405 or 501. Use it
    as a context manager in the application's lifespan; it can be started again.

    Args:
        targets: URLs, or dictionaries with ``host`` and perhaps ``pingpath`` and ``maxrequests``
            (for ``LoadBalancer``); all of one kind.
        interval: Seconds between two rounds, at least 1.
        timeout: Seconds for one answer, at least 1.
        httpx_client: A client of your own that asks; you close it. Default: one of ours.
        ping_path: What every target is asked for, if they are URLs. It is not put below the path
            of a target. Default: ``/``.

    Attributes:
        targets: The targets: scheme, host, port and base path.
        target_configs: The dictionary of each, empty if it is a URL.
        status: Milliseconds that each took to answer, ``False`` if it is down, ``None`` before its
            first check.
        last_update: When the last round ended, by ``time.perf_counter``.
        interval: Seconds between two rounds.
        timeout: Seconds for one answer.
        is_personalized: The targets are dictionaries.

    Raises:
        ValueError: There is no target, or a number is below 1.
        TypeError: The targets are neither all URLs nor all dictionaries.
        KeyError: A dictionary has no ``host``.
        ConfigurationError: A target is no address of an upstream. It is a ``ValueError``.
        RuntimeError: There is a *ping_path*, but the targets are dictionaries.
    """

    def __init__(
        self,
        targets: Sequence[str] | Sequence[dict[str, Any]],
        interval: float = 10,
        timeout: float = 10,
        httpx_client: httpx.AsyncClient | None = None,
        ping_path: str | None = None,
    ) -> None:
        if not targets:
            raise ValueError("a HealthChecker needs at least one target")
        if interval < 1 or timeout < 1:
            raise ValueError("interval and timeout must be at least 1")
        self.interval = interval
        self.timeout = timeout
        self.is_personalized = isinstance(targets[0], dict)
        self.target_configs = _configs(targets, dict if self.is_personalized else str)
        self.targets = list(self.target_configs)
        self.status: dict[str, float | bool | None] = dict.fromkeys(self.targets)
        self.last_update = time.perf_counter()
        self._ping_path = "/"
        self._transport: Any = ProbingClient(httpx_client) if httpx_client else HTTP1Transport()
        self._upstreams = {
            target: Upstream(target, transport=self._transport) for target in self.targets
        }
        self._task: asyncio.Task[None] | None = None
        self._checked = asyncio.Event()
        if ping_path is not None:
            self.ping_path = ping_path

    @property
    def ping_path(self) -> str:
        """What every target is asked for; it may be changed at any time.

        Raises:
            RuntimeError: The targets are dictionaries, which have a ``pingpath`` each.
        """
        self._check_global()
        return self._ping_path

    @ping_path.setter
    def ping_path(self, value: str) -> None:
        self._check_global()
        self._ping_path = value

    def _check_global(self) -> None:
        if self.is_personalized:
            raise RuntimeError("the dictionaries of the targets say pingpath for each")

    async def start(self) -> None:
        """Check all targets, and go on doing so in the background. Idempotent."""
        loop = asyncio.get_running_loop()
        task = self._task
        if task is not None and not task.done() and task.get_loop() is loop:
            await self._checked.wait()
            return
        checked = self._checked = asyncio.Event()
        self._task = asyncio.create_task(self._run(checked), name="health checker")
        try:
            await checked.wait()
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def _run(self, checked: asyncio.Event) -> None:
        try:
            await self.check_all()
        finally:
            checked.set()
        while True:
            await asyncio.sleep(self.interval)
            await self.check_all()

    async def stop(self) -> None:
        """Stop checking. What is known stays. Idempotent."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])

    async def destroy(self) -> None:
        """Stop checking and close all connections. It may be started again."""
        await self.stop()
        await self._transport.aclose()

    async def __aenter__(self) -> HealthChecker:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.destroy()

    async def check_all(self) -> None:
        """Ask all targets at once, and take down what they answer."""
        await asyncio.gather(*map(self._check, self.targets))
        self.last_update = time.perf_counter()

    async def _check(self, target: str) -> None:
        path = self.target_configs[target].get("pingpath") or self._ping_path
        check = HealthCheck(path=f"/{quoted(path.lstrip('/')).decode()}", timeout=self.timeout)
        result = await probe(self._upstreams[target], check)
        before, after = self.status[target], result.seconds * 1000 if result.ok else False
        self.status[target] = after
        if after is False and before is not False:
            logger.warning("target %s is down: %s", target, result.reason)
        elif after is not False and before is False:
            logger.warning("target %s is up again", target)

    def get_healthy_targets(self) -> list[str]:
        """Return the targets that are not down, also those that were not checked yet."""
        return [target for target in self.targets if self.status[target] is not False]

    def get_response_times(self) -> dict[str, float]:
        """Return the milliseconds that each healthy target took to answer."""
        return {
            target: float(milliseconds)
            for target, milliseconds in self.status.items()
            if milliseconds is not None and milliseconds is not False
        }

    def get_fastest(self) -> str | None:
        """Return the healthy target that answered first; ``None`` if none has."""
        times = self.get_response_times()
        return min(times, key=times.__getitem__, default=None)

    def is_healthy(self, target: str) -> bool:
        """Tell whether *target*, or else a target on the same server, is not down."""
        healthy = self.get_healthy_targets()
        with contextlib.suppress(ValueError):
            name = _name(target)
            if name in self.status:
                return name in healthy
            return any(_origin(name) == _origin(known) for known in healthy)
        return False


def _configs(targets: Sequence[object], kind: type) -> dict[str, dict[str, Any]]:
    """Return the configuration of each target by its name."""
    configs: dict[str, dict[str, Any]] = {}
    for index, target in enumerate(targets):
        if not isinstance(target, kind):
            raise TypeError(f"targets are all URLs or all dictionaries; see number {index}")
        if isinstance(target, Mapping):
            if "host" not in target:
                raise KeyError(f"target number {index} has no 'host'")
            configs[_name(str(target["host"]))] = dict(target)
        else:
            configs[_name(str(target))] = {}
    return configs


def _name(target: str) -> str:
    parts = urlsplit(upstream_url(target))
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _origin(name: str) -> str:
    parts = urlsplit(name)
    return f"{parts.scheme}://{parts.netloc}"
