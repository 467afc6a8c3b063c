"""Settings that a pool may have of its own, or share with all others."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..core.websocket import WebSocketOptions
from ..overrides import Seconds
from ..reading import listed

__all__ = ["Section", "TimeoutSettings", "WebSocketSettings"]


class Section(BaseModel):
    """A group of settings, of which none is unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeoutSettings(Section):
    """The deadlines of ``Timeout``, in seconds; ``null`` is no limit."""

    connect: Seconds | None = 5.0
    response: Seconds | None = 60.0
    idle: Seconds | None = 300.0
    pool: Seconds | None = 5.0
    total: Seconds | None = None


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    WebSocketOptions(allowed_origins=value)
    return value


class WebSocketSettings(Section):
    """The fields of ``WebSocketOptions``; ``null`` is no limit, no pings, or any origin."""

    max_message_size: int | None = Field(default=16 * 1024 * 1024, gt=0)
    compression: bool = False
    ping_interval: Seconds | None = 20.0
    ping_timeout: Seconds | None = 20.0
    idle: Seconds | None = None
    lifetime: Seconds | None = None
    allowed_origins: (
        Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(_origins)] | None
    ) = None
