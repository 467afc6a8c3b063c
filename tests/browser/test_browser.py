"""A page in Chromium cannot tell the gateway's WebSockets from a direct connection.

The page runs once on each server; each test reads what the page and the upstream saw. Most run on
``direct`` too, which has no gateway: what they expect is what a browser gets without one.
"""

from __future__ import annotations

import pytest

from tests.browser.upstreams import SUBPROTOCOL
from tests.browser.visit import DIRECT
from tests.threats.websocket.known import known

_COMPRESSION = "Compression is not offered to clients"
_HEADERS = "The headers of an accepted WebSocket, such as Set-Cookie, are dropped"
_CODE = "The application is not told the code of a close frame"
_NO_CODE = "A close without a code, a lost connection and a bad frame are one"
_REASON = "The application is not told the reason of a close frame"
_CLEAN = "The connection ends right behind the close frame"

#: What belongs to one connection, and what differs because the host does.
_OWN = {"host", "origin", "connection", "upgrade"}


def closed(code: int, reason: str = "", *, clean: bool = True, errors: int = 0):
    """Return what a page is told of an end."""
    return {"code": code, "reason": reason, "wasClean": clean, "errors": errors}


def by_upstream(visited, code: int, reason: str = ""):
    """Return what a page may be told when the upstream closes so."""
    clean = [True, False] if known(visited.server, _CLEAN) else [True]
    return [closed(code, reason, clean=how) for how in clean]


def told(visited, code: int, reason: str = ""):
    """Return what the upstream is told when the page closes so."""
    if known(visited.server, _CODE) or (code == 1005 and known(visited.server, _NO_CODE)):
        code = 1001
    return code, "" if known(visited.server, _REASON) else reason


# The handshake


def test_the_subprotocol_is_the_upstreams_choice(visited):
    """All offers reach the upstream, and the page sees the one that it chose."""
    assert visited["chosen"] == SUBPROTOCOL
    (offers,) = visited.seen("chosen").headers.get_all("Sec-WebSocket-Protocol")
    assert offers.split(", ") == ["superchat", "chat", "v2.chat-x"]


def test_no_subprotocol_is_none(visited):
    """A page that offers none gets none, and the upstream sees no empty offer."""
    assert visited["no_offer"] == ""
    assert "Sec-WebSocket-Protocol" not in visited.seen("no_offer").headers


def test_an_upstream_that_chooses_none_fails_the_offer(visited):
    """The browser refuses a 101 without one of its subprotocols, as it must."""
    assert visited["none_chosen"] == closed(1006, clean=False, errors=1)


def test_path_and_query_arrive_as_the_browser_wrote_them(visited):
    """No escape in the query is decoded or added."""
    assert visited["query"] == closed(1000)
    assert visited.seen("query").target == "/echo/query?a=%2F&a=b%20c&empty=&%C3%BC"


def test_the_origin_arrives_unchanged(visited):
    """The upstream can check the page's Origin."""
    assert visited.seen("chosen").headers.get_all("Origin") == [visited.origin]


def test_the_browsers_headers_arrive(proxied, direct):
    """All that is not of one connection reaches the upstream, in order and unchanged."""

    def own(visit):
        return [
            (name.lower(), value)
            for name, value in visit.seen("chosen").headers.raw_items()
            if name.lower() not in _OWN and not name.lower().startswith(("sec-", "x-forwarded-"))
        ]

    assert own(proxied) == own(direct)
    assert "user-agent" in dict(own(proxied))


def test_the_upstream_learns_the_host_of_the_page(proxied):
    """X-Forwarded-Host is what the browser sent as Host."""
    headers = proxied.seen("chosen").headers
    assert f"http://{headers['X-Forwarded-Host']}" == proxied.origin


def test_a_cookie_of_the_page_is_sent_with_the_handshake(visited):
    """An HttpOnly cookie of an HTTP answer, which the page cannot read, opens its sockets."""
    assert visited["cookie_of_the_page"] == ""
    assert visited.seen("cookie_of_the_page").cookies == {"session=s3cret"}


def test_cookies_of_the_handshake_are_kept(visited):
    """Both Set-Cookie lines of a 101 are sent with the next handshake."""
    kept = set() if known(visited.server, _HEADERS) else {"seen=1", "theme=dark"}
    visited["cookies_of_the_handshake"]
    assert visited.seen("cookies_of_the_handshake-next").cookies == {"session=s3cret"} | kept


def test_the_page_reads_the_cookie_that_is_not_http_only(visited):
    """The attributes of a cookie of the 101 hold."""
    readable = "" if known(visited.server, _HEADERS) else "theme=dark"
    assert visited["cookies_of_the_handshake"] == readable


def test_the_browser_and_the_server_compress(proxied):
    """The browser's offer of permessage-deflate is taken, although the upstream takes none."""
    compressed = proxied["extensions"].startswith("permessage-deflate")
    assert compressed is not known(proxied.server, _COMPRESSION)


def test_the_upstream_is_offered_no_compression(proxied):
    """The browser's offer is for its own connection."""
    assert "Sec-WebSocket-Extensions" not in proxied.seen("extensions").headers


# Messages


@pytest.mark.parametrize(
    "scenario",
    ["text", "array_buffers", "views", "blobs", "a_mebibyte_of_text", "a_mebibyte_of_bytes"],
)
def test_messages_come_back_as_they_were(visited, scenario):
    """Each message keeps its type and its bytes, the empty and the compressed ones too."""
    assert set(visited[scenario]) == {True}


def test_a_large_message_passes(visited):
    """A message of 8 MiB comes back whole."""
    assert visited["large"] == [True]


def test_fragments_are_one_message(visited):
    """What the upstream sends in fragments is one message for the page."""
    assert visited["fragments"] == ["aüc", "1,2,3"]


def test_a_thousand_messages_keep_their_order(visited):
    """The page gets the echoes in the order it sent them."""
    assert visited["order"] is True


def test_twenty_sockets_do_not_mix(visited):
    """Twenty open sockets of one page each get their own answer."""
    assert visited["many"] == [f"I am {number}" for number in range(20)]


# Ending


def test_code_and_reason_of_the_upstream_reach_the_page(visited):
    """A close with a code is the page's CloseEvent, whatever is in its reason."""
    *ends, _ = visited["closes"]
    assert len(ends) == 7
    for (code, reason), end in ends:
        assert end in by_upstream(visited, code, reason)


def test_a_close_of_the_upstream_without_a_code(visited):
    """ASGI cannot close without a code: the page is told 1000 in place of 1005."""
    _, end = visited["closes"][-1]
    assert end in by_upstream(visited, 1005 if visited.server == DIRECT else 1000)


def test_messages_before_a_close_are_delivered(visited):
    """All that the upstream sent at once before it closed is there before the page's event."""
    assert visited["last_words"] == [1000, "999", 4000]


def test_code_and_reason_of_the_page_reach_the_upstream(visited):
    """The upstream is told how the page closed, and the page that it was clean."""
    assert visited["page_closes"] == closed(4002, "bye ü")
    assert visited.seen("page_closes").end == told(visited, 4002, "bye ü")


def test_a_close_of_the_page_without_a_code_has_none(visited):
    """No code stays no code."""
    assert visited["page_closes_without_code"] == closed(1005)
    assert visited.seen("page_closes_without_code").end == told(visited, 1005)


def test_messages_before_a_close_of_the_page_are_delivered(visited):
    """What the page sent before it closed reaches the upstream before the close."""
    assert visited["page_closes_behind_messages"] == closed(1000)
    seen = visited.seen("page_closes_behind_messages")
    assert seen.messages == [str(number) for number in range(100)]
    assert seen.end == told(visited, 1000)


def test_a_page_can_close_while_it_receives(visited):
    """A close crosses although the upstream never stops sending."""
    assert visited["page_closes_while_it_receives"] == closed(4003, "enough")
    assert visited.seen("page_closes_while_it_receives").end == told(visited, 4003, "enough")


def test_a_page_that_leaves_is_going_away(visited):
    """The upstream is told 1001 when the document of a socket is gone."""
    assert visited["page_leaves"] is True
    assert visited.seen("page_leaves").end == (1001, "")


def test_an_upstream_that_vanishes_is_no_normal_end(visited):
    """The page is told 1014, "bad gateway", where it would see 1006 without a gateway."""
    if visited.server == DIRECT:
        assert visited["vanished"] == closed(1006, clean=False)
    else:
        assert visited["vanished"] in by_upstream(visited, 1014)


@pytest.mark.parametrize("status", [302, 401, 403, 404, 503])
def test_a_refusal_is_an_error_of_the_socket(visited, status):
    """The page is told of an error and of 1006, as of any refused handshake."""
    assert visited["refused"][str(status)] == closed(1006, clean=False, errors=1)


def test_a_refusal_is_asked_for_once(visited):
    """Nobody repeats a refused handshake, and nobody follows its redirect."""
    asked = [seen.target.rpartition("=")[2] for seen in visited.sockets["refused"]]
    assert asked == ["302", "401", "403", "404", "503"]
    assert "redirected" not in visited.sockets


def test_a_socket_opens_after_refusals(visited):
    """Refusals break nothing."""
    assert visited["after_the_refusals"] == [True]


# Beside WebSockets


def test_events_arrive_as_they_are_sent(visited):
    """An EventSource gets each event before the upstream sends the next."""
    assert visited["events"] == [[f"event {number}", str(number)] for number in (1, 2, 3, 4)]


def test_events_are_resumed(visited):
    """When a stream of events has ended, the browser asks for what comes after the last one."""
    visited["events"]
    assert visited.resumed == [None, "2"]
