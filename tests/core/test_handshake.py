"""core.handshake: headers that cross, and close codes that may be sent."""

from __future__ import annotations

import pytest

from fastapi_proxy_router.core.handshake import accept_headers, close_frame, handshake_headers

PER_HOP = [
    (b"Sec-WebSocket-Key", b"x"),
    (b"sec-websocket-accept", b"x"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"sec-websocket-extensions", b"permessage-deflate"),
    (b"Sec-WebSocket-Protocol", b"chat"),
    (b"Connection", b"Upgrade, X-Hop"),
    (b"Upgrade", b"websocket"),
    (b"X-Hop", b"x"),
]


def test_the_handshakes_own_headers_belong_to_one_hop():
    """The rest crosses, up and down."""
    assert handshake_headers([*PER_HOP, (b"host", b"x"), (b"Origin", b"y")]) == [(b"origin", b"y")]
    assert accept_headers([*PER_HOP, (b"Date", b"x"), (b"Set-Cookie", b"y")]) == [
        (b"set-cookie", b"y")
    ]


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
)
def test_codes_that_may_be_sent_cross(code):
    """With their reason (RFC 6455, 7.4)."""
    assert close_frame(code, "why", lost=1014) == (code, "why")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1005, None),
        (1006, 1014),
        (1015, 1014),
        (0, 1002),
        (999, 1002),
        (1004, 1002),
        (1016, 1002),
        (2999, 1002),
        (5000, 1002),
    ],
)
def test_codes_that_may_not_be_sent_are_replaced(code, expected):
    """Without their reason."""
    assert close_frame(code, "why", lost=1014) == (expected, "")


def test_a_reason_that_cannot_be_sent_is_mended():
    """A surrogate stands for no bytes."""
    assert close_frame(4000, "bad \ud800", lost=1014) == (4000, "bad ?")


def test_a_reason_is_cut_to_what_a_frame_holds():
    """123 bytes, and never half a character."""
    code, reason = close_frame(1000, "\xe9" * 100, lost=1014)

    assert (code, reason) == (1000, "\xe9" * 61)
