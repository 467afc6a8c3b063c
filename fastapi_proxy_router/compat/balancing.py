"""``LoadBalancer``: in turn, or the fastest that is healthy."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response, WebSocket
from fastapi.responses import PlainTextResponse

from ..core.policy import Timeout
from ..log import logger
from .forwarding import proxy_pass, proxy_pass_websocket
from .health import HealthChecker
from .requests import GivenHeaders

__all__ = ["LoadBalancer"]

_UNAVAILABLE = 1011


class LoadBalancer:
    """Choose one of several servers for every request.

    Args:
        servers: A list of them, which take turns; or a ``HealthChecker``, of which the fastest
            healthy one is chosen that is below its limit of requests. The limits hold from one
            round of checks to the next.

    Attributes:
        servers: The same.
    """

    def __init__(self, servers: list[str] | HealthChecker) -> None:
        self.servers = servers
        self._index = 0
        self._max_requests: int | None = None
        self._requests: dict[str, int] = {}
        self._round = 0.0

    @property
    def max_requests(self) -> int | None:
        """The most requests for each server in one round of checks; ``None`` is no limit.

        Raises:
            RuntimeError: Every server has a limit of its own.
        """
        self._check_global()
        return self._max_requests

    @max_requests.setter
    def max_requests(self, value: int | None) -> None:
        self._check_global()
        if value is not None and not isinstance(self.servers, HealthChecker):
            logger.warning("max_requests has no effect without a HealthChecker and its rounds")
        self._max_requests = value

    def _check_global(self) -> None:
        if isinstance(self.servers, HealthChecker) and self.servers.is_personalized:
            raise RuntimeError("the dictionaries of the targets say maxrequests for each")

    def peek(self) -> str | None:
        """Return the server that ``get`` would return, without counting; ``None`` if none may."""
        if isinstance(self.servers, HealthChecker):
            return self._fastest(self.servers)
        return self.servers[self._index % len(self.servers)] if self.servers else None

    def get(self) -> str | None:
        """Return the server for the next request, and count it; ``None`` if none may be used."""
        chosen = self.peek()
        if chosen is None:
            return None
        if isinstance(self.servers, HealthChecker):
            self._requests[chosen] = self._requests.get(chosen, 0) + 1
        else:
            self._index = (self._index + 1) % len(self.servers)
        return chosen

    def get_all(self) -> list[str]:
        """Return all servers, whatever their health."""
        return self.servers.targets if isinstance(self.servers, HealthChecker) else self.servers

    def set_index(self, index: int) -> None:
        """Let the server at *index* be the next; the turns go on from there.

        Raises:
            RuntimeError: There are no turns, but a ``HealthChecker``.
            IndexError: There is no such server.
        """
        if isinstance(self.servers, HealthChecker):
            # Not a TypeError: it is what programs expect.
            raise RuntimeError("with a HealthChecker the servers take no turns")  # noqa: TRY004
        if index < 0 or (self.servers and index >= len(self.servers)):
            raise IndexError(f"no server has the index {index}")
        self._index = index

    def _fastest(self, checker: HealthChecker) -> str | None:
        """Return the fastest healthy server below its limit; before the first check, any."""
        if checker.last_update != self._round:
            self._round = checker.last_update
            self._requests = {}
        times = checker.get_response_times()
        allowed = [host for host in checker.get_healthy_targets() if self._is_below(checker, host)]
        known = [host for host in allowed if host in times]
        if known:
            return min(known, key=times.__getitem__)
        # Nothing is known of them, so they take turns.
        return min(allowed, key=lambda host: self._requests.get(host, 0), default=None)

    def _is_below(self, checker: HealthChecker, host: str) -> bool:
        limit = self._max_requests
        if checker.is_personalized:
            limit = checker.target_configs[host].get("maxrequests")
        return limit is None or self._requests.get(host, 0) < limit

    async def proxy_pass(
        self,
        req: Request,
        path: str | None = None,
        timeout: float | Timeout | None = 60.0,
        forward_query: bool = True,
        additional_headers: GivenHeaders | None = None,
        override_headers: GivenHeaders | None = None,
        override_body: bytes | str | list[Any] | dict[str, Any] | None = None,
        method: str | None = None,
        override_host: str | None = None,
    ) -> Response:
        """Forward *req* to the chosen server; the rest is as in ``proxy_pass``.

        A plain 503 is the response if no server may be used.
        """
        host = self.get()
        if host is None:
            return PlainTextResponse("Service Unavailable", 503, {"Retry-After": "1"})
        return await proxy_pass(
            req,
            host,
            path,
            timeout,
            forward_query,
            additional_headers,
            override_headers,
            override_body,
            method,
            override_host,
        )

    async def proxy_pass_websocket(
        self,
        websocket: WebSocket,
        path: str | None = None,
        subprotocols: list[str] | None = None,
        forward_query: bool = True,
        additional_headers: GivenHeaders | None = None,
        override_headers: GivenHeaders | None = None,
        timeout: float | Timeout | None = 10.0,
    ) -> None:
        """Relay *websocket* to the chosen server; the rest is as in ``proxy_pass_websocket``.

        It is closed with 1011 if no server may be used.
        """
        host = self.get()
        if host is None:
            await websocket.close(code=_UNAVAILABLE)
            return
        await proxy_pass_websocket(
            websocket,
            host,
            path,
            subprotocols,
            forward_query,
            additional_headers,
            override_headers,
            timeout,
        )
