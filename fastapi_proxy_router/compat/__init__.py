"""The names of fastapi-reverse-proxy 0.4, on the parts of this library.

A program that was written for it runs with one changed import::

    from fastapi_proxy_router.compat import Proxy, proxy_pass

Names, parameters and results are that package's. Its faults are not: the guide "Coming from
fastapi-reverse-proxy" lists what differs.
"""

from __future__ import annotations

from .balancing import LoadBalancer
from .clients import Proxy, close_httpx_client, create_httpx_client, get_httpx_client
from .forwarding import proxy_pass, proxy_pass_websocket
from .health import HealthChecker

__all__ = [
    "HealthChecker",
    "LoadBalancer",
    "Proxy",
    "close_httpx_client",
    "create_httpx_client",
    "get_httpx_client",
    "proxy_pass",
    "proxy_pass_websocket",
]
