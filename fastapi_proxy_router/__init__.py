"""Turn a FastAPI app into a reverse proxy by including a router."""

from __future__ import annotations

from .core.affinity import CookieAffinity, HeaderAffinity
from .core.balancer import Balancer, FirstAvailable, LeastRequests, RoundRobin
from .core.checks import Ejection, HealthCheck, ProbeResult
from .core.discovery import Endpoint, Resolve
from .core.drawing import LeastLatency, Random, TwoChoices
from .core.hashing import ConsistentHash
from .core.limits import Queue, RateLimit
from .core.messages import Reply
from .core.mirror import Mirror
from .core.policy import ForwardPolicy, Timeout
from .core.pool import UpstreamPool
from .core.retry import Retry
from .core.snapshot import PoolSnapshot, UpstreamSnapshot
from .core.split import Canary, Split
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
from .outgoing import OutboundRequest
from .overrides import (
    CookieEdits,
    ErrorPage,
    HeaderEdits,
    QueryEdits,
    RequestOverride,
    ResponseOverride,
    RouteOverride,
    WebSocketOverride,
)
from .route import METHODS
from .router import ProxyRouter
from .serving import serving
from .settings import (
    AffinitySettings,
    CanarySettings,
    MirrorSettings,
    PoolSettings,
    ProxySettings,
    SplitSettings,
    TimeoutSettings,
    UpstreamSettings,
    WebSocketSettings,
)
from .transport import ConnectionLimits, HTTP1Transport
from .upgrade import proxy_pass_websocket

__all__ = [
    "METHODS",
    "AffinitySettings",
    "BadGateway",
    "Balancer",
    "Canary",
    "CanarySettings",
    "ConfigurationError",
    "ConnectionLimits",
    "ConsistentHash",
    "CookieAffinity",
    "CookieEdits",
    "Ejection",
    "Endpoint",
    "ErrorPage",
    "FirstAvailable",
    "ForwardPolicy",
    "ForwardedResponse",
    "GatewayError",
    "GatewayTimeout",
    "HTTP1Transport",
    "HeaderAffinity",
    "HeaderEdits",
    "HealthCheck",
    "LeastLatency",
    "LeastRequests",
    "Mirror",
    "MirrorSettings",
    "NoUpstreamAvailable",
    "OutboundRequest",
    "PoolSettings",
    "PoolSnapshot",
    "ProbeResult",
    "ProxyError",
    "ProxyRouter",
    "ProxySettings",
    "QueryEdits",
    "Queue",
    "Random",
    "RateLimit",
    "Reply",
    "RequestOverride",
    "RequestRefused",
    "Resolve",
    "ResponseOverride",
    "Retry",
    "RoundRobin",
    "RouteOverride",
    "Split",
    "SplitSettings",
    "StreamAborted",
    "Timeout",
    "TimeoutSettings",
    "TwoChoices",
    "Upstream",
    "UpstreamPool",
    "UpstreamSettings",
    "UpstreamSnapshot",
    "WebSocketOptions",
    "WebSocketOverride",
    "WebSocketSettings",
    "forward",
    "proxy_pass",
    "proxy_pass_websocket",
    "serving",
]
