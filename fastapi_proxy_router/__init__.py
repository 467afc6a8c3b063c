"""Turn a FastAPI app into a reverse proxy by including a router."""

from __future__ import annotations

from .core.balancer import Balancer, RoundRobin
from .core.messages import Reply
from .core.policy import ForwardPolicy, Timeout
from .core.pool import UpstreamPool
from .core.upstream import Upstream
from .core.websocket import WebSocketOptions
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
from .overrides import HeaderEdits, RequestOverride, RouteOverride, WebSocketOverride
from .route import METHODS
from .router import ProxyRouter
from .settings import (
    PoolSettings,
    ProxySettings,
    TimeoutSettings,
    UpstreamSettings,
    WebSocketSettings,
)
from .transport import ConnectionLimits, HTTP1Transport
from .upgrade import proxy_pass_websocket

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
    "Reply",
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
    "WebSocketOptions",
    "WebSocketOverride",
    "WebSocketSettings",
    "forward",
    "proxy_pass",
    "proxy_pass_websocket",
]
