"""What servers do with WebSockets by themselves, whatever the proxy does."""

from __future__ import annotations

SANSIO = ("uvicorn-httptools",)
WSPROTO = ("uvicorn-h11",)
UVICORN = (*SANSIO, *WSPROTO)
HYPERCORN = ("hypercorn",)
GRANIAN = ("granian",)

#: What the documentation of WebSockets lists. Each line is found out by a test, some in a browser.
KNOWN: dict[str, tuple[str, ...]] = {
    # The handshake.
    "A handshake with more than 128 headers or a line above 8 KiB is never answered": SANSIO,
    "A handshake with a header that is not ASCII may be dropped without an answer": (
        *WSPROTO,
        *HYPERCORN,
    ),
    "A subprotocol that is not ASCII is taken for none": GRANIAN,
    "Of several Sec-WebSocket-Protocol lines only the last counts": HYPERCORN,
    "A key that is none is accepted": (*WSPROTO, *HYPERCORN, *GRANIAN),
    "POST and HEAD open a WebSocket": GRANIAN,
    "HTTP/1.0 opens a WebSocket": (*UVICORN, *GRANIAN),
    "The headers of an accepted WebSocket, such as Set-Cookie, are dropped": GRANIAN,
    # The end.
    "The application is not told the code of a close frame": HYPERCORN,
    "The application is not told the reason of a close frame": (*HYPERCORN, *GRANIAN),
    "A close without a code, a lost connection and a bad frame are one": (*HYPERCORN, *GRANIAN),
    "1014 from a client is a bad frame": (*WSPROTO, *GRANIAN),
    "A bad frame ends the connection without a close frame": (*WSPROTO, *HYPERCORN),
    "A bad frame is answered by a close frame without a code": GRANIAN,
    "Too large a message is not told to the application": HYPERCORN,
    "The connection ends right behind the close frame": (*HYPERCORN, *GRANIAN),
    # Floods.
    "A deflate bomb is inflated beyond the limit for messages": (*WSPROTO, *HYPERCORN),
    "Compression is not offered to clients": GRANIAN,
    "Pongs that a client does not read pile up": (*UVICORN, *GRANIAN),
}


def known(server: str, limit: str) -> bool:
    """Tell whether *server* has this limit."""
    return server in KNOWN[limit]
