"""Settings from the environment: ``PROXY_*`` variables and a ``.env`` file."""

from .pools import MirrorSettings, PoolSettings, UpstreamSettings
from .proxy import ProxySettings
from .sections import TimeoutSettings, WebSocketSettings
from .splits import AffinitySettings, CanarySettings, SplitSettings

__all__ = [
    "AffinitySettings",
    "CanarySettings",
    "MirrorSettings",
    "PoolSettings",
    "ProxySettings",
    "SplitSettings",
    "TimeoutSettings",
    "UpstreamSettings",
    "WebSocketSettings",
]
