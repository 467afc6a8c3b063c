"""U1-U15: a request reaches the upstream it is for, below the path it may have, or nothing.

=====  ============================================================================================
U1     here; test_forwarding: an_unsafe_target_is_refused, the_target_reaches_the_upstream_...
U2     test_relay: an_unsafe_target_is_refused
U3     here; test_router: a_prefix_ends_at_a_segment, prefixes_are_stripped_and_announced_or_kept
U4     here; test_overrides: a_path_is_rewritten_byte_for_byte,
       a_rewrite_cannot_leave_the_base_path
U5     here; there are no keys made of text: an upstream is an object
U6     here; test_forwarding: absolute_form_never_chooses_the_host, environment_proxies_are_not_used
U7     here: what no dependency has seen is not forwarded; docs/security.md
U8     here; test_forwarding: the_target_reaches_the_upstream_byte_for_byte
U9     here: no redirect of our own; test_router: the_bare_prefix_is_served_without_a_redirect
U10    nothing is rewritten: test_forwarding: response_headers_keep_their_order_count_and_bytes
U11    here; test_router: the_longest_prefix_wins_whatever_the_order
U12    test_forwarding, test_relay: redirects_are_*not_followed
U13    test_tls
U14    not a promise: docs/security.md
U15    test_router: wrong_upstreams_are_reported_together: an upstream is parsed when it is made
=====  ============================================================================================
"""

# No postponed annotations here: FastAPI reads those of functions inside tests.

import sys
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request

from fastapi_proxy_router import ProxyRouter, Upstream, UpstreamPool, proxy_pass
from tests.servers import get_raw, raw_upstream, serve, status
from tests.threats.attack import known

pytestmark = pytest.mark.anyio

KEY = "X-Key: secret"
SHORTENING = "Of `http://evil.test/x` and `/x#f` only `/x` is shown"


def guard(x_key: Annotated[str, Header()] = "") -> None:
    if x_key != "secret":
        raise HTTPException(401)


@pytest.fixture(scope="module")
def build():
    """Forward what is below ``/api`` to ``/base``, and have an endpoint with a path parameter."""

    def guarded(upstream):
        app = FastAPI()
        pool = UpstreamPool(upstream.url + "/base")

        @app.get("/report/{name}")
        async def report(request: Request, name: str, upstream: Annotated[Upstream, Depends(pool)]):
            return await proxy_pass(request, upstream, path=f"/v2/{name}/end")

        app.include_router(ProxyRouter(pool, prefix="/api", dependencies=[Depends(guard)]))
        return app

    return guarded


#: These arrive below ``/base``, byte for byte.
BELOW = r"""
/@evil.test/ /http://evil.test/ /http:%2f%2fevil.test/ /%23f /%3fq=1 /%zz /% /%C3%A9 /a//b
/a;x=1/b /a%20b ?a=b /?a=b /?a;b /?&& /?a=%00&b=%0d%0a /?a=../../x /?//evil.test
/?a=%2e%2e&a=1&a=2 /?http://evil.test/?x
""".split()
#: These would be somewhere else for one of the two sides.
UNSAFE = r"""
/../x /a/../../admin /%2e%2e/admin /.%2e/ /%2e%2e%2fadmin /..;/admin /..%5cadmin /..\admin /.. /.
//evil.test/x ///evil /\evil /%5cevil /a/./b /%c0%ae%c0%ae/ /%u002e%u002e/x /%252e%252e%252f
/%00 /%0d%0aX:%20y /x%0a /a%0ab /x#f
""".split()
#: These are not below ``/api``, or are no path at all.
BESIDE = r"""
/API/x /api%2fx /api%2Fx /apix /api.evil.test/ /api@evil.test/ /api:80@evil.test/ /api;/x /api%00/x
//api/x /./api/x /x/../api/x /api%20/x /%2fapi/x /api\x @evil.test/ http://evil.test/api/x
ftp://evil.test/api evil.test:80 * ?a=b #api
""".split()
FOUND: dict[str, str | None] = {
    **{f"/api{rest}": f"/base{rest}" for rest in BELOW},
    "/api": "/base",
    "/api/": "/base/",
    "/%61pi/x": "/base/x",
    "/ap%69/a%2Fb": "/base/a%2Fb",
    **dict.fromkeys(f"/api{rest}" for rest in UNSAFE),
    **dict.fromkeys(BESIDE),
}
#: What is left of some where a server shows only the path.
SHORTENED: dict[str, str | None] = {
    "/api/x#f": "/base/x",
    "http://evil.test/api/x": "/base/x",
    "ftp://evil.test/api": "/base",
}


@pytest.fixture(scope="session")
def connected():
    """Record every address that this process connects to or looks up."""
    addresses: list[tuple[str, int]] = []

    def hook(event, arguments):
        if event == "socket.connect":
            addresses.append(arguments[1][:2])
        elif event == "socket.getaddrinfo":
            addresses.append(arguments[:2])

    sys.addaudithook(hook)
    return addresses


async def test_every_target_stays_in_its_place(world, connected):
    """U1, U3, U6, U8, U9, U11: below the base path, byte for byte, or refused; never elsewhere."""
    connected.clear()
    found = FOUND | SHORTENED if known(world.server, SHORTENING) else FOUND
    for target, expected in found.items():
        world.upstream.requests.clear()
        code = status(await get_raw(world.gw, target, KEY))
        sent = [request.target.decode() for request in world.upstream.requests]

        assert sent == ([expected] if expected else []), target
        assert code == 200 if expected else code in (400, 404), target
        for request in world.upstream.requests:
            assert request.values(b"host") == [world.upstream.authority.encode()], target
    ours = {world.gw.port, world.upstream.port}
    assert {address[1] for address in connected} == ours
    assert {address[0] for address in connected} == {"127.0.0.1"}


async def test_nothing_passes_a_dependency(world):
    """U7: whatever a path decodes to, what reaches the upstream has been seen by the guard."""
    for target in FOUND:
        code = status(await get_raw(world.gw, target))
        assert code in (400, 401, 404), target
    assert world.upstream.requests == []


async def test_the_many_parameters_of_a_query_all_arrive(world):
    """U8: the one that a parser with a limit would miss is there as well."""
    query = "a&" * 5000 + "hidden=1"
    assert status(await get_raw(world.gw, f"/api/x?{query}", KEY)) == 200
    assert world.upstream.last.target.decode() == f"/base/x?{query}"


PARAMETERS = {
    "U4 slash": ("a%2Fb", None),
    "U4 question mark": ("a%3Fb", "a%3Fb"),
    "U4 hash": ("a%23b", "a%23b"),
    "U4 percent": ("a%2525b", "a%2525b"),
    "U4 dots": ("%2e%2e", None),
    "U4 encoded dots": ("%252e%252e", None),
    "U4 CRLF": ("a%0d%0aX:%20y", None),
    "U4 NUL": ("a%00b", None),
    "U4 backslash": ("a%5cb", None),
    "U4 space": ("a%20b", "a%20b"),
    "U4 name and host": ("@evil.test", "@evil.test"),
}


@pytest.mark.parametrize("row", PARAMETERS)
async def test_a_decoded_parameter_is_encoded_again(world, row):
    """One that an endpoint puts into a path is one segment of that path, or is refused."""
    name, expected = PARAMETERS[row]
    code = status(await get_raw(world.gw, f"/report/{name}"))
    sent = [request.target.decode() for request in world.upstream.requests]

    assert code == 200 if expected else code in (400, 404)
    assert sent == ([f"/base/v2/{expected}/end"] if expected else [])


async def test_two_upstreams_are_never_mixed_up(server):
    """U5: also where their addresses, base paths and prefixes run together into the same text."""
    async with raw_upstream() as one, raw_upstream() as two:
        app = FastAPI()
        app.include_router(ProxyRouter({"/a": one.url + "/b/c", "/a/b": two.url + "/c"}))
        async with serve(app, server) as gw:
            for _ in range(5):
                assert status(await get_raw(gw, "/a/x")) == 200
                assert status(await get_raw(gw, "/a/b/x")) == 200

    assert [request.target for request in one.requests] == [b"/b/c/x"] * 5
    assert [request.target for request in two.requests] == [b"/c/x"] * 5
