"""Turn a FastAPI app into a reverse proxy by including a router."""

from __future__ import annotations

from .core.balancer import Balancer, RoundRobin
from .core.policy import ForwardPolicy, Timeout
from .core.pool import UpstreamPool
from .core.upstream import Upstream
from .exceptions import (
    BadGateway,
    ConfigurationError,
    GatewayError,
    GatewayTimeout,
    NoUpstreamAvailable,
    ProxyError,
    RequestRefused,
    StreamAborted,
)
from .forwarder import ForwardedResponse, forward, proxy_pass
from .overrides import HeaderEdits, RequestOverride, RouteOverride
from .relay import proxy_pass_websocket
from .router import METHODS, ProxyRouter
from .settings import PoolSettings, ProxySettings, TimeoutSettings, UpstreamSettings
from .transport import ConnectionLimits, HTTP1Transport

__all__ = [
    "METHODS",
    "BadGateway",
    "Balancer",
    "ConfigurationError",
    "ConnectionLimits",
    "ForwardPolicy",
    "ForwardedResponse",
    "GatewayError",
    "GatewayTimeout",
    "HTTP1Transport",
    "HeaderEdits",
    "NoUpstreamAvailable",
    "PoolSettings",
    "ProxyError",
    "ProxyRouter",
    "ProxySettings",
    "RequestOverride",
    "RequestRefused",
    "RoundRobin",
    "RouteOverride",
    "StreamAborted",
    "Timeout",
    "TimeoutSettings",
    "Upstream",
    "UpstreamPool",
    "UpstreamSettings",
    "forward",
    "proxy_pass",
    "proxy_pass_websocket",
]
