"""Active health checks: asks every upstream of a pool how it is."""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from .core.checks import HealthCheck, ProbeResult
from .core.policy import Timeout
from .core.pool import UpstreamPool
from .core.upstream import Upstream
from .exceptions import ProxyError
from .log import logger
from .rounds import Rounds
from .sources import CLOCK
from .transport import RawRequest, UpstreamResponse, crossing, exchange, open_transports

__all__ = ["Prober", "probe"]

#: How much of a body is read.
_BODY_LIMIT = 64 * 1024
#: What says that a server knows no HEAD (RFC 9110, 15.5.6 and 15.6.2).
_NO_HEAD = (405, 501)
_HEADERS = (
    (b"user-agent", b"fastapi-proxy-router (health check)"),
    (b"accept", b"*/*"),
    # A text in a body has to be found in it.
    (b"accept-encoding", b"identity"),
)

_without_head: WeakSet[Upstream] = WeakSet()


async def probe(upstream: Upstream, check: HealthCheck) -> ProbeResult:
    """Ask *upstream* how it is, once, through its own transport.

    Nothing of any client is in it, no redirect is followed, and it counts as no exchange. An
    upstream that answers HEAD with 405 or 501 is asked with GET, from then on at once.

    Returns:
        What came of it. It raises nothing: an upstream that cannot be asked is one that fails.
    """
    # That of an event loop may be as coarse as a millisecond.
    began = CLOCK()
    status, reason, ours = None, "", False
    try:
        async with asyncio.timeout(check.timeout):
            status, reason = await _ask(upstream, check)
    except TimeoutError:
        reason = f"no complete answer within {check.timeout} s"
    except ProxyError as error:
        reason, ours = error.reason, error.fault == "us"
    except Exception as error:  # noqa: BLE001 - whatever a transport raises
        reason = f"{type(error).__name__}: {ascii(str(error))[:200]}"
    return ProbeResult(not reason, CLOCK() - began, status, reason, ours)


async def _ask(upstream: Upstream, check: HealthCheck) -> tuple[int, str]:
    """Return the status of the answer, and what is wrong with it."""
    target = _place(upstream, check)
    wants_head = check.method == "HEAD" and check.body is None
    if wants_head and upstream not in _without_head:
        status, _ = await _exchange(target, check, "HEAD")
        if status not in _NO_HEAD or status in check.statuses:
            return status, _mistake(check, status, b"")
        _without_head.add(upstream)
    status, body = await _exchange(target, check, "GET")
    return status, _mistake(check, status, body)


def _mistake(check: HealthCheck, status: int, body: bytes) -> str:
    if status not in check.statuses:
        return f"status {status}"
    if check.body is not None and check.body.encode() not in body:
        return "the text is not in the body"
    return ""


def _place(upstream: Upstream, check: HealthCheck) -> Upstream:
    """Return where the check goes: to the upstream, or to another port beside it."""
    open_transports([upstream])
    if check.port is None or check.port == upstream.port:
        return upstream
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    return Upstream(
        f"{upstream.scheme}://{host}:{check.port}",
        address=upstream.address.host if upstream.server_hostname else None,
        transport=upstream.transport,
    )


async def _exchange(upstream: Upstream, check: HealthCheck, method: str) -> tuple[int, bytes]:
    given = [(name.encode(), value.encode()) for name, value in check.headers.items()]
    names = {name.lower() for name, _ in given}
    usual = [(b"host", upstream.authority), *_HEADERS]
    headers = [*(header for header in usual if header[0] not in names), *given]
    request = RawRequest(method, check.path.encode(), headers, b"")
    seconds = check.timeout
    # A shorter wait for a place among our own connections, so that we know whose fault it was.
    timeout = Timeout(connect=seconds, response=seconds, idle=seconds, pool=seconds / 2)
    with crossing(upstream, "head"):
        response = await exchange(upstream, request, timeout)
    try:
        with crossing(upstream, "body"):
            return response.status, b"" if method == "HEAD" else await _beginning(response)
    finally:
        # Which drops the connection if anything of the body is left.
        with crossing(upstream, "body"):
            await response.aclose()


async def _beginning(response: UpstreamResponse) -> bytes:
    body = b""
    while len(body) < _BODY_LIMIT and (chunk := await response.next_chunk()):
        body += chunk
    return body[:_BODY_LIMIT]


class Prober:
    """Probes all upstreams of a pool, each for itself, for as long as they are in it.

    Args:
        pool: The pool. Without a ``HealthCheck`` there is nothing to do.
    """

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._rounds: Rounds[Upstream] | None = None
        if (check := pool.health) is not None:
            self._rounds = Rounds(
                pool,
                lambda: pool.upstreams,
                lambda upstream: self._probe(upstream, check),
                check,
                lambda upstream: f"probe {upstream.origin}",
            )

    async def start(self) -> None:
        """Begin, and return when every upstream has been probed once. Idempotent."""
        if self._rounds is not None:
            await self._rounds.start()

    async def stop(self) -> None:
        """End, and return when nothing of it is left. It may be started again. Idempotent."""
        if self._rounds is not None:
            await self._rounds.stop()

    async def _probe(self, upstream: Upstream, check: HealthCheck) -> None:
        pool = self._pool
        result = await probe(upstream, check)
        # What it took stays there: a check is quicker than a request, so that an upstream of which
        # nothing else is known would seem to be the fastest.
        upstream.last_probe = result
        if not result.ok:
            logger.debug("probe of %s failed: %s", upstream.origin, result.reason)
        if not result.ours:
            now = pool.clock()
            upstream.health.probed(now, ok=result.ok)
            pool.settle(upstream, now)
