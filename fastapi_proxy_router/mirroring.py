"""Sends copies of requests to shadow pools."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from starlette.requests import HTTPConnection
from starlette.types import Message

from .client import ClientStream
from .core.mirror import Mirror
from .core.pool import UpstreamPool
from .exceptions import ProxyError
from .failover import Forwarding
from .log import logger

__all__ = ["end_copies", "send_copy"]

_running: WeakKeyDictionary[UpstreamPool, set[asyncio.Task[None]]] = WeakKeyDictionary()


def send_copy(forwarding: Forwarding) -> None:
    """Send a copy of a request that was answered, if one is wanted and its body is at hand.

    It is sent in the background.
    """
    if (mirror := forwarding.mirror) is None:
        return
    body = forwarding.body
    running = _running.setdefault(mirror.pool, set())
    if body is None or len(body) > mirror.body_limit or len(running) >= mirror.max_concurrent:
        return
    task = asyncio.create_task(_send(forwarding, mirror, body), name="proxy send copy")
    running.add(task)
    task.add_done_callback(running.discard)


async def end_copies(pools: Iterable[UpstreamPool]) -> None:
    """End the copies that are on their way to *pools*; those of other event loops are not ours."""
    loop = asyncio.get_running_loop()
    tasks = [task for pool in pools for task in _running.get(pool, ()) if task.get_loop() is loop]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def _send(forwarding: Forwarding, mirror: Mirror, body: bytes) -> None:
    scope = forwarding.client.scope
    client = ClientStream(scope, _stay, kept=body)
    try:
        async with asyncio.timeout(mirror.timeout):
            upstream = mirror.pool.choose(HTTPConnection(scope))
            exchange = await forwarding.copy(client, upstream).open()
            await exchange.relay(_drop, exchange.status, exchange.headers)
    except (ProxyError, TimeoutError):
        # What there is to say of it is in the log, and nobody waits for it.
        pass
    except Exception:  # noqa: BLE001 - a mistake of the shadow's, such as of its balancer
        logger.exception("a copy of a request failed")
    finally:
        await client.aclose()


async def _stay() -> Message:
    """Receive as from a client that has said everything and does not leave."""
    never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await never


async def _drop(_message: Message) -> None:
    """Send to nobody."""
