"""``proxy_pass`` and ``proxy_pass_websocket`` with the parameters of fastapi-reverse-proxy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import Request, Response, WebSocket, WebSocketException

from ..core.policy import Timeout
from ..exceptions import BadGateway, GatewayError, GatewayTimeout, NoUpstreamAvailable
from ..forwarder import left, send_request
from ..log import reported
from ..overrides import RequestOverride, WebSocketOverride
from ..upgrade import relay_websocket
from ..watch import ClientGone
from .clients import carrier_of
from .requests import GivenHeaders, body_of, deadlines, header_changes, target_of

__all__ = ["proxy_pass", "proxy_pass_websocket"]

#: "Internal Error" in the IANA registry.
_FAILED = 1011


async def proxy_pass(
    request: Request,
    host: str,
    path: str | None = None,
    timeout: float | Timeout | None = 60.0,
    forward_query: bool = True,
    additional_headers: GivenHeaders | None = None,
    override_headers: GivenHeaders | None = None,
    override_body: bytes | str | list[Any] | dict[str, Any] | None = None,
    method: str | None = None,
    override_host: str | None = None,
) -> Response:
    """Forward *request* to *host* and return the response to return.

    Args:
        request: The client's request.
        host: Scheme, host and port of the upstream, perhaps with a base path. Without a scheme it
            is ``http``.
        path: The path below it, perhaps with a query. Default: the request's below ``root_path``,
            byte for byte. A path parameter is taken as the client wrote it, too.
        timeout: Seconds until the connection stands, and until the head of the response is here.
            The body may pause for longer: 300 s at least. A ``Timeout`` says each.
        forward_query: Send the client's query, behind the one in *path*.
        additional_headers: Headers that replace the client's of the same name.
        override_headers: Headers that are sent instead of all of the client's.
        override_body: A body to send instead of the client's: bytes, text, or what becomes JSON.
        method: The method. ``GET`` and ``HEAD`` drop the client's body.
        override_host: The ``Host``. Default: the upstream's own.

    Raises:
        BadGateway: 502, the upstream could not be reached or broke the protocol.
        GatewayTimeout: 504, it did not connect or answer in time.
        NoUpstreamAvailable: 503, we are out of resources.
        RequestRefused: The request is not safe to forward.
        ConfigurationError: *host* is no address of an upstream.
        ValueError: A header or the method cannot be sent.
        RuntimeError: The body was sent to another upstream before; ``await request.body()``
            before the first attempt keeps it for a second.
    """
    carrier = carrier_of(request)
    upstream = carrier.upstream(host)
    body = body_of(override_body)
    headers = header_changes(
        request.scope["headers"], additional_headers, override_headers, json_body=body.is_json
    )
    override = RequestOverride(
        method=method,
        host=override_host or headers.host,
        body=body.content,
        timeout=deadlines(timeout),
    )
    with reported(request.scope):
        target, query = target_of(request, path, forward_query=forward_query)
    changes = replace(override.compile(), path=target, query=query, request=(headers.edits,))
    try:
        response = await send_request(request, upstream, policy=carrier.policy, changes=changes)
    except ClientGone:
        return left()
    # nginx in front shall not hold the chunks back, unless the upstream has said what it shall do.
    response.headers.setdefault("x-accel-buffering", "no")
    return response


async def proxy_pass_websocket(
    websocket: WebSocket,
    host: str,
    path: str | None = None,
    subprotocols: list[str] | None = None,
    forward_query: bool = True,
    additional_headers: GivenHeaders | None = None,
    override_headers: GivenHeaders | None = None,
    timeout: float | Timeout | None = 10.0,
) -> None:
    """Relay *websocket* to *host*, until one side ends.

    The upstream is asked first, so that its subprotocol, its headers or its refusal reach the
    client.

    Args:
        websocket: The client's WebSocket, not accepted yet.
        host: As in ``proxy_pass``; ``ws`` and ``wss`` are read as ``http`` and ``https``.
        path: As in ``proxy_pass``.
        subprotocols: What the upstream is offered. Default: what the client offers.
        forward_query: As in ``proxy_pass``.
        additional_headers: As in ``proxy_pass``.
        override_headers: As in ``proxy_pass``.
        timeout: Seconds until the connection stands, and until the handshake is answered.

    Raises:
        BadGateway: The upstream could not be reached or broke the protocol. This and the next two
            are also a ``fastapi.WebSocketException`` with code 1011.
        GatewayTimeout: It did not answer the handshake in time.
        NoUpstreamAvailable: We are out of resources.
        RequestRefused: The handshake is not safe to forward.
        ConfigurationError: *host* is no address of an upstream.
        ValueError: A header cannot be sent.
    """
    carrier = carrier_of(websocket)
    upstream = carrier.upstream(host)
    headers = header_changes(websocket.scope["headers"], additional_headers, override_headers)
    override = WebSocketOverride(host=headers.host, timeout=deadlines(timeout))
    with reported(websocket.scope):
        target, query = target_of(websocket, path, forward_query=forward_query)
    changes = replace(override.compile(), path=target, query=query, request=(headers.edits,))
    offers = websocket.scope.get("subprotocols", [])
    websocket.scope["subprotocols"] = subprotocols or offers
    try:
        await relay_websocket(websocket, upstream, policy=carrier.policy, changes=changes)
    except GatewayError as error:
        raise _as_both(error) from error
    finally:
        websocket.scope["subprotocols"] = offers


class _WebSocketBadGateway(BadGateway, WebSocketException):
    code = _FAILED


class _WebSocketGatewayTimeout(GatewayTimeout, WebSocketException):
    code = _FAILED


class _WebSocketUnavailable(NoUpstreamAvailable, WebSocketException):
    code = _FAILED


_BOTH: dict[type[GatewayError], type[GatewayError]] = {
    BadGateway: _WebSocketBadGateway,
    GatewayTimeout: _WebSocketGatewayTimeout,
    NoUpstreamAvailable: _WebSocketUnavailable,
}


def _as_both(error: GatewayError) -> GatewayError:
    """Return *error* as one that ``except WebSocketException`` catches, too.

    As an ``HTTPException`` it becomes the answer to the handshake, whose status the client sees.
    """
    kinds = (both for ours, both in _BOTH.items() if isinstance(error, ours))
    return next(kinds, _WebSocketBadGateway)(
        error.reason,
        upstream=error.upstream,
        stage=error.stage,
        fault=error.fault,
        request_sent=error.request_sent,
        retry_after=error.retry_after,
    )
