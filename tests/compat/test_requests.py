"""What the parameters of proxy_pass do to the request that the upstream gets."""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import json

import pytest
from fastapi import FastAPI, Request

from fastapi_proxy_router import ConfigurationError, Timeout
from fastapi_proxy_router.compat import proxy_pass
from fastapi_proxy_router.compat.requests import body_of, deadlines, header_changes
from tests.compat.programs import application, passing, received
from tests.servers import get_raw, raw_upstream, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


# --- Path and query ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["/a%2Fb", "/a%252Fb", "/a%3Fb", "/a%23b", "/a//b/", "/caf%E9", "/?a&b=&&c=%20+;"]
)
@pytest.mark.parametrize(
    "path", [None, lambda rest: rest, lambda rest: f"/{rest}"], ids=["none", "bare", "slash"]
)
async def test_the_path_arrives_as_the_client_wrote_it(target, path):
    """Without a path, and with the path parameter as it is or behind a slash."""
    assert (await received(target, path=path)).target == target.encode()


async def test_the_path_of_the_request_is_taken_as_the_client_wrote_it():
    """Also when it is given as request.url.path."""
    app = application()
    async with raw_upstream() as upstream:

        @app.get("/{rest:path}")
        async def passed(request: Request):
            return await proxy_pass(request, upstream.url, request.url.path)

        async with serve(app) as gw:
            await get_raw(gw, "/a%2Fb%3Fc?d")
    assert upstream.last.target == b"/a%2Fb%3Fc?d"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v2/items", b"/v2/items"),
        ("v2/items", b"/v2/items"),
        ("", b"/"),
        ("/a b", b"/a%20b"),
        ("/caf\xe9", b"/caf%C3%A9"),
        ("/a%20b", b"/a%20b"),
        ("/100%", b"/100%25"),
        ("/a#b", b"/a%23b"),
        ("@evil.test/", b"/@evil.test/"),
    ],
)
async def test_a_path_is_text_of_a_url(path, sent):
    """What is percent-encoded stays, what has to be is, and there is always a slash before it."""
    assert (await received("/x", path=path)).target == sent


@pytest.mark.parametrize(
    ("path", "forward_query", "sent"),
    [
        ("/s", True, b"/s?q=1"),
        ("/s", False, b"/s"),
        ("/s?p=2", True, b"/s?p=2&q=1"),
        ("/s?p=2", False, b"/s?p=2"),
        ("/s?p=a b&u=http://x/?y", False, b"/s?p=a%20b&u=http://x/?y"),
        (None, False, b"/x"),
    ],
)
async def test_the_query_of_the_path_comes_before_the_clients(path, forward_query, sent):
    """forward_query=False sends the first alone."""
    request = await received("/x?q=1", path=path, forward_query=forward_query)
    assert request.target == sent


@pytest.mark.parametrize("path", [None, "/x", "x"])
async def test_the_base_path_of_the_host_is_put_before_it(path):
    """One slash stands between the two."""
    assert (await received("/x", path=path, base="/base/")).target == b"/base/x"


async def test_a_host_without_a_scheme_is_http():
    """As with url_normalize, which knew it with and without two slashes."""
    for prefix in ("", "//"):
        async with raw_upstream() as upstream:
            async with serve(passing(prefix + upstream.authority)) as gw:
                assert status(await get_raw(gw)) == 200


async def test_a_host_that_is_none_is_a_mistake_of_the_program():
    """It is said when it is used, and the password is not."""
    with pytest.raises(ConfigurationError, match=r"credentials do not belong") as mistake:
        await proxy_pass(Request({"type": "http", "headers": []}), "http://bob:secret@up")
    assert "secret" not in str(mistake.value)


# --- Headers -------------------------------------------------------------------------------------


async def test_additional_headers_replace_the_clients_of_the_same_name():
    """In any spelling; the others stay."""
    request = await received(
        "/", "User-Agent: curl", "X-Own: 1", additional_headers={"USER-AGENT": "me", "x-new": "2"}
    )
    assert request.values(b"user-agent") == [b"me"]
    assert request.values(b"x-own") == [b"1"]
    assert request.values(b"x-new") == [b"2"]


async def test_override_headers_are_all_that_is_sent():
    """Beside the Host and the framing there is nothing else, and nothing of ours."""
    request = await received(
        "/",
        "X-Own: 1",
        "Cookie: a=1",
        "Content_Length: 3",
        as_method="POST",
        body=b"body",
        override_headers={"x-only": "1"},
    )
    assert {name for name, _ in request.headers} == {b"host", b"content-length", b"x-only"}
    assert request.body == b"body"


async def test_additional_headers_are_added_to_override_headers():
    """And win."""
    request = await received(
        "/", override_headers={"a": "1", "B": "1"}, additional_headers={"b": "2"}
    )
    assert (request.values(b"a"), request.values(b"b")) == ([b"1"], [b"2"])


async def test_the_clients_headers_can_be_given_back():
    """A program that copies request.headers loses no byte and frames nothing twice."""
    app = application()
    async with raw_upstream() as upstream:

        @app.post("/")
        async def passed(request: Request):
            headers = dict(request.headers) | {"x-new": "1"}
            return await proxy_pass(request, upstream.url, override_headers=headers)

        async with serve(app) as gw:
            await get_raw(gw, "/", "X-Own: caf\xe9", method="POST", body=b"body")
    assert upstream.last.values(b"x-own") == [b"caf\xe9"]
    assert upstream.last.values(b"content-length") == [b"4"]
    assert upstream.last.values(b"host") == [upstream.authority.encode()]
    assert upstream.last.values(b"connection") == []


@pytest.mark.parametrize("name", ["Connection", "Transfer-Encoding", "Content-Length", "TE"])
async def test_headers_of_the_connection_cannot_be_given(name):
    """They are left out, as there."""
    assert name.encode().lower() not in dict(header_changes([], {name: "1"}, {name: "2"}).edits.set)


@pytest.mark.parametrize("headers", [{"a b": "1"}, {"a": "1\r\nb: 2"}, {"a": "\0"}])
async def test_a_header_that_cannot_be_sent_is_a_mistake(headers):
    """Nothing can be smuggled in through a value."""
    with pytest.raises(ValueError, match="cannot be sent"):
        header_changes([], headers, None)


async def test_a_header_that_is_no_text_is_a_mistake():
    """A number has no spelling of its own."""
    with pytest.raises(TypeError, match="text or bytes"):
        header_changes([], {"a": 1}, None)


async def test_a_header_beyond_latin_1_is_utf_8():
    """The one way in which it can be sent. Bytes are sent as they are."""
    assert header_changes([], {b"A": b"\xff"}, None).edits.set == ((b"a", b"\xff"),)
    assert header_changes([], {"a": "\u20ac"}, None).edits.set == ((b"a", b"\xe2\x82\xac"),)


async def test_the_host_is_the_upstreams_or_the_one_that_is_given():
    """override_host beats a Host among the additional headers."""
    assert (await received("/", "X: 1", override_host="a.test")).values(b"host") == [b"a.test"]
    headers = {"Host": "b.test"}
    assert (await received("/", additional_headers=headers)).values(b"host") == [b"b.test"]
    both = await received("/", additional_headers=headers, override_host="a.test")
    assert both.values(b"host") == [b"a.test"]


async def test_what_the_server_in_front_says_of_the_client_is_passed_on():
    """X-Real-IP stays, X-Forwarded-For is appended to, and what is missing is added."""
    request = await received("/", "X-Real-IP: 1.2.3.4", "X-Forwarded-For: 1.2.3.4")
    assert request.values(b"x-real-ip") == [b"1.2.3.4"]
    assert request.values(b"x-forwarded-for") == [b"1.2.3.4, 127.0.0.1"]
    assert request.values(b"x-forwarded-proto") == [b"http"]


# --- Method and body -----------------------------------------------------------------------------


async def test_the_method_is_the_one_that_is_given():
    """In any case of letters."""
    assert (await received("/", method="put")).line == b"PUT / HTTP/1.1"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"\x00bytes", b"\x00bytes"),
        ("caf\xe9", b"caf\xc3\xa9"),
        ({"a": [1, None]}, json.dumps({"a": [1, None]}).encode()),
        ([1, 2], b"[1, 2]"),
        ("", b""),
        (bytearray(b"x"), b"x"),
    ],
)
async def test_a_body_is_sent_instead_of_the_clients(body, sent):
    """With its length, whatever the client's was."""
    request = await received(
        "/", "Content-Encoding: gzip", as_method="POST", body=b"client's", override_body=body
    )
    assert request.body == sent
    assert request.values(b"content-length") == [b"%d" % len(sent)]
    assert request.values(b"content-encoding") == []


async def test_a_json_body_says_so_unless_the_client_or_the_program_does():
    """Text and bytes never do."""
    kind = b"content-type"
    assert (await received(override_body={})).values(kind) == [b"application/json"]
    assert (await received(override_body="{}")).values(kind) == []
    own = await received("/", "Content-Type: text/own", override_body={})
    assert own.values(kind) == [b"text/own"]
    given = await received(override_body={}, additional_headers={"Content-Type": "text/given"})
    assert given.values(kind) == [b"text/given"]
    instead = await received("/", "Content-Type: text/own", override_body={}, override_headers={})
    assert instead.values(kind) == [b"application/json"]


async def test_a_body_that_cannot_be_sent_is_a_mistake():
    """Its type is named."""
    with pytest.raises(TypeError, match="not set"):
        body_of({1, 2})


# --- Timeout -------------------------------------------------------------------------------------


def test_one_number_is_for_everything_up_to_the_head():
    """A body may pause for longer."""
    assert deadlines(60.0) == Timeout(connect=60, response=60, idle=300, pool=60)
    assert deadlines(400) == Timeout(connect=400, response=400, idle=400, pool=400)
    assert deadlines(None) == Timeout(connect=None, response=None, idle=None, pool=None)


def test_a_timeout_of_ours_is_taken_as_it_is():
    """For a program on its way to the native API."""
    timeout = Timeout(total=3)
    assert deadlines(timeout) is timeout


# --- The answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("own", ["no", "yes"])
async def test_nginx_in_front_is_told_not_to_buffer(own):
    """Unless the upstream has said what it shall do."""
    line = f"X-Accel-Buffering: {own}\r\n".encode() if own == "yes" else b""
    answer = b"HTTP/1.1 200 OK\r\n" + line + b"Content-Length: 2\r\n\r\nok"
    async with raw_upstream(answer) as upstream, serve(passing(upstream.url)) as gw:
        assert f"x-accel-buffering: {own}\r\n".encode() in await get_raw(gw)


async def test_the_response_can_be_changed_before_it_is_returned():
    """Its status and headers are those of any response of Starlette's."""
    app = FastAPI()
    async with raw_upstream() as upstream:

        @app.get("/")
        async def passed(request: Request):
            response = await proxy_pass(request, upstream.url)
            response.status_code = 201
            response.headers["x-seen"] = "1"
            return response

        async with serve(app) as gw:
            answer = await get_raw(gw)
    assert status(answer) == 201
    assert b"x-seen: 1\r\n" in answer
