"""What carries the requests of an application: a transport, and an ``Upstream`` for each host."""

# No "from __future__ import annotations" here: FastAPI reads the annotations of get_httpx_client.

from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Unpack
from weakref import WeakKeyDictionary, WeakSet

import httpx
from fastapi import FastAPI, Request
from starlette.requests import HTTPConnection

from ..core.policy import ForwardPolicy, PolicyOptions, policy_from
from ..core.upstream import Upstream
from ..transport import HTTP1Transport
from ..upgrade import close_relays

__all__ = [
    "Carrier",
    "ClientTransport",
    "ProbingClient",
    "Proxy",
    "carrier_of",
    "close_httpx_client",
    "create_httpx_client",
    "get_httpx_client",
    "upstream_url",
]

#: Where fastapi-reverse-proxy keeps its client, in ``app.state``.
_STATE = "http_proxy_client"
#: fastapi-reverse-proxy passes on what the server in front of it has said of the client. That one
#: is believed if it is on this machine (uvicorn's default), and not what anybody may send.
_NEIGHBOURS = ("127.0.0.0/8", "::1", "unix")
#: Hosts of which an application keeps the ``Upstream``; a program may make them up per request.
_MOST_UPSTREAMS = 1024


class ClientTransport(httpx.AsyncBaseTransport):
    """An httpx client of the program's own, as a transport that is not ours to close.

    Its TLS settings, its authentication and its hooks are used. It adds no header and no cookie,
    and follows no redirect.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises what the client raises."""
        return await self._client.send(request, stream=True, follow_redirects=False)


class ProbingClient(ClientTransport):
    """The same for probes: it asks as it would by itself, with its own headers and cookies."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises what the client raises."""
        own = self._client.build_request(request.method, request.url)
        return await self._client.send(own, stream=True)


class Carrier:
    """The transport of an application, its policy, and the upstreams that were asked for.

    Args:
        client: The client that the program sees, if there is one.
        transport: The transport. Default: the client.
        options: How to forward.
    """

    def __init__(
        self,
        client: httpx.AsyncClient | None,
        transport: Any = None,
        options: PolicyOptions | None = None,
    ) -> None:
        if transport is None:
            transport = HTTP1Transport() if client is None else ClientTransport(client)
        self.client = client
        self.transport = transport
        self.policy: ForwardPolicy = policy_from(
            {"trusted_proxies": _NEIGHBOURS, **(options or {})}
        )
        self._upstreams: dict[str, Upstream] = {}
        self._relaying: WeakSet[Upstream] = WeakSet()

    def upstream(self, host: str) -> Upstream:
        """Return the upstream for *host*, the same one every time.

        Raises:
            ConfigurationError: It is no address of an upstream.
        """
        upstream = self._upstreams.get(host)
        if upstream is None:
            upstream = Upstream(upstream_url(host), transport=self.transport)
            if len(self._upstreams) >= _MOST_UPSTREAMS:
                del self._upstreams[next(iter(self._upstreams))]
            self._upstreams[host] = upstream
            self._relaying.add(upstream)
        return upstream

    async def aclose(self) -> None:
        """End the WebSockets, and close the client and all connections. Idempotent."""
        await close_relays(list(self._relaying))
        if self.client is not None:
            await self.client.aclose()
        await self.transport.aclose()


class _NoApplication:
    """Stands for the application of a connection that has none."""


_NO_APPLICATION = _NoApplication()
_carriers: WeakKeyDictionary[Any, Carrier] = WeakKeyDictionary()


def upstream_url(host: str) -> str:
    """Return *host* with a scheme, ``http`` if it has none."""
    return host if "://" in host else f"http://{host.removeprefix('//')}"


def carrier_of(connection: HTTPConnection) -> Carrier:
    """Return what carries the requests of the connection's application.

    Without ``Proxy`` it is made on first use and kept, also for an application that is mounted
    in another, whose lifespan never runs. A client that the program put in its place is used.
    """
    app = connection.scope.get("app")
    client = getattr(getattr(app, "state", None), _STATE, None)
    key = _NO_APPLICATION if app is None else app
    carrier = _carriers.get(key)
    if carrier is None or carrier.client is not client:
        carrier = _carriers[key] = Carrier(client)
    return carrier


def _install(app: FastAPI, transport: Any, options: PolicyOptions) -> None:
    transport = transport or HTTP1Transport()
    client = httpx.AsyncClient(
        transport=transport,
        # Users must not share cookies, so it keeps none.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        trust_env=False,
    )
    carrier = Carrier(client, transport, options)
    app.state.http_proxy_client = client
    _carriers[app] = carrier


class Proxy:
    """Open what carries the requests of *app*; as a context manager, close it at the end.

    Args:
        app: The application. Its ``state.http_proxy_client`` is the client.
        transport: What carries the requests, such as an ``HTTP1Transport`` with TLS settings or
            limits of your own, or an ``httpx`` transport; it is closed with the rest. Default: an
            ``HTTP1Transport()``.
        options: How to forward; see ``PolicyOptions``. Unless you give
            ``trusted_proxies``, those on this machine are trusted with ``X-Forwarded-*``: what an
            nginx there has set is passed on. A ``timeout`` has no effect: every call has its own.

    Raises:
        ConfigurationError: An option cannot be used.
    """

    def __init__(
        self, app: FastAPI, *, transport: Any = None, **options: Unpack[PolicyOptions]
    ) -> None:
        self._app = app
        _install(app, transport, options)

    async def close(self) -> None:
        """End the WebSockets and close all connections. Idempotent."""
        await close_httpx_client(self._app)

    async def __aenter__(self) -> "Proxy":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


async def create_httpx_client(app: FastAPI) -> None:
    """Open what carries the requests of *app*, as ``Proxy(app)`` does."""
    _install(app, None, {})


async def close_httpx_client(app: FastAPI) -> None:
    """Close what carries the requests of *app*, if there is anything. Idempotent."""
    client = getattr(app.state, _STATE, None)
    carrier = _carriers.get(app)
    if carrier is not None:
        await carrier.aclose()
    if client is not None:
        await client.aclose()


async def get_httpx_client(req: Request) -> httpx.AsyncClient:
    """Return the client of the request's application, for requests of your own.

    It sends over the same connections, keeps no cookies and reads no environment variable.

    Raises:
        AttributeError: There is none: no ``Proxy(app)`` and no ``create_httpx_client(app)``.
    """
    client: httpx.AsyncClient = req.app.state.http_proxy_client
    return client
