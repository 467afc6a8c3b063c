"""core.public: what an upstream says of its own URLs, from the public side."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastapi_proxy_router.core.public import PublicSide, public_path, public_urls

AUTHORITIES = frozenset({b"up", b"up:80", b"public.example:8443", b"[::1]:9000"})
PREFIXED = PublicSide(AUTHORITIES, b"", b"/api")
BASED = PublicSide(AUTHORITIES, b"/app", b"/api")
BARE = PublicSide(AUTHORITIES, b"", b"")


def old(path: bytes) -> bytes | None:
    return b"/old" + path if path.startswith(b"/") else None


def v2(path: bytes) -> bytes | None:
    return b"/legacy" + path[3:] if path.startswith(b"/v2/") else None


def location(value: bytes, side: PublicSide = PREFIXED) -> bytes:
    [(name, turned)] = public_urls([(b"location", value)], side)
    assert name == b"location"
    return turned


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"http://up/x", b"/api/x"),
        (b"http://up:80/x", b"/api/x"),
        (b"http://up:/x", b"/api/x"),
        (b"HTTP://UP/X", b"/api/X"),
        (b"https://public.example:8443/x", b"/api/x"),
        (b"http://[::1]:9000/x", b"/api/x"),
        (b"//up/x", b"/api/x"),
        (b"http://up", b"/api/"),
        (b"http://up?q", b"/api/?q"),
        (b"http://up#f", b"/api/#f"),
        (b"/", b"/api/"),
        (b"/x", b"/api/x"),
        (
            b"/a%2Fb//c;d=/\xc3\xa9?next=//evil/../&x=%2F%zz#?/",
            b"/api/a%2Fb//c;d=/\xc3\xa9?next=//evil/../&x=%2F%zz#?/",
        ),
        (b"/x?path=C:\\dir", b"/api/x?path=C:\\dir"),
        (b" /x\t", b" /api/x\t"),
    ],
)
def test_the_upstreams_own_urls_come_below_the_prefix(value, expected):
    """With their query and fragment byte for byte, and without scheme and host."""
    assert location(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"x",
        b"../x",
        b"./x",
        b"?q",
        b"#f",
        b"http://other/x",
        b"http://up:81/x",
        b"http://up:0080/x",
        b"http://up.evil/x",
        b"http://user@up/x",
        b"http://up@evil/x",
        b"http://up:80@evil/x",
        b"http://:@up/x",
        b"//other/x",
        b"///up/x",
        b"////up/x",
        b"http:///up/x",
        b"http:/up/x",
        b"http:up",
        b"http:",
        b"ftp://up/x",
        b"mailto:up",
        b"javascript:alert(1)//up/",
        b"view-source:http://up/x",
    ],
)
def test_what_names_another_place_is_left(value):
    """Other hosts, ports and schemes, credentials and relative references."""
    assert location(value) == value


@pytest.mark.parametrize(
    "value",
    [
        b"/\\evil.example",
        b"\\\\evil.example",
        b"\\/evil.example",
        b"/x\\..\\y",
        b"http:\\\\up\\x",
        b"http://up\\@evil.example/",
        b"http://up/\\evil.example",
        b"/\t/evil.example",
        b"http://up/\t/evil.example",
        b"http://up\n/x",
        b"ht\ntp://up/x",
        b"\x00/x",
        b"\x0b/x",
        b"/x\x7f",
        b"/x?a\x01",
    ],
)
@pytest.mark.parametrize("side", [PREFIXED, BARE])
def test_what_browsers_read_as_another_url_is_left(value, side):
    """Control bytes, which they drop, and backslashes, which they take for slashes."""
    assert location(value, side) == value


@pytest.mark.parametrize(
    "value",
    [
        b"http://up//evil.example/x",
        b"http://up/.//evil.example/x",
        b"http://up/a/..//evil.example/x",
        b"http://up/%2E%2e//evil.example/x",
        b"/.//evil.example/x",
    ],
)
def test_a_path_never_becomes_a_host(value):
    """Two slashes at the beginning would name one, so they do not come at the beginning."""
    assert location(value, BARE) == b"/.//evil.example/x"


def test_a_base_path_that_is_cut_off_uncovers_no_host():
    """Nor does an inverse."""
    assert location(b"/app//evil.example", BASED._replace(prefix=b"")) == b"/.//evil.example"
    assert location(b"/x", BARE._replace(inverse=lambda path: b"//evil" + path)) == b"/.//evil/x"
    assert location(b"/x", BARE._replace(inverse=lambda path: b"/\\evil" + path)) == b"/./\\evil/x"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/app", b"/api"),
        (b"/app/", b"/api/"),
        (b"/app/x", b"/api/x"),
        (b"/app//x", b"/api//x"),
        (b"/app/../app/x", b"/api/x"),
        (b"/apple", None),
        (b"/ap", None),
        (b"/", None),
        (b"/x", None),
        (b"/App/x", None),
        (b"/app%2Fx", None),
        (b"/app/../x", None),
        (b"app", None),
        (b"", None),
    ],
)
def test_only_what_is_below_the_base_path_has_a_public_path(path, expected):
    """And the base path ends with a segment."""
    assert public_path(path, BASED) == expected


def test_a_base_path_without_a_prefix_is_the_root():
    """A path is never empty."""
    assert public_path(b"/app", BASED._replace(prefix=b"")) == b"/"


def test_an_absolute_url_that_is_not_below_the_base_path_is_left():
    """The client is told the truth, though it may not get there."""
    assert location(b"http://up/other", BASED) == b"http://up/other"
    assert location(b"/other", BASED) == b"/other"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/../x", b"/api/x"),
        (b"/a/../../x", b"/api/x"),
        (b"/a/./b", b"/api/a/b"),
        (b"/a/%2e%2E/b", b"/api/b"),
        (b"/a/.%2e", b"/api/"),
        (b"/a/b/..", b"/api/a/"),
        (b"/a/.", b"/api/a/"),
        (b"/..", b"/api/"),
        (b"/.a/..b/.../c..", b"/api/.a/..b/.../c.."),
    ],
)
def test_dot_segments_do_not_lead_out_of_the_prefix(path, expected):
    """They are resolved before the prefix is there for them to take away."""
    assert public_path(path, PREFIXED) == expected


@pytest.mark.parametrize(
    ("side", "path", "expected"),
    [
        (PREFIXED._replace(inverse=old), b"/login", b"/api/old/login"),
        (BASED._replace(inverse=old), b"/app/login", b"/api/old/login"),
        (BARE._replace(inverse=old), b"/", b"/old/"),
        (PREFIXED._replace(inverse=v2), b"/v2/5", b"/api/legacy/5"),
        (PREFIXED._replace(inverse=v2), b"/login", b"/api/login"),
        (BASED._replace(inverse=v2), b"/v2/5", None),
    ],
)
def test_a_rewrite_is_undone_between_base_path_and_prefix(side, path, expected):
    """A path that it cannot have led to is reached without it."""
    assert public_path(path, side) == expected


def test_a_scheme_that_is_not_the_upstreams_own_is_left():
    """A client that is sent from http to https would come back the same way for ever."""
    side = PREFIXED._replace(schemes=frozenset({b"http"}))

    assert location(b"https://up/x", side) == b"https://up/x"
    assert location(b"HTTP://up/x", side) == b"/api/x"
    assert location(b"//up/x", side) == b"/api/x"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"5; url=http://up/x", b"5; url=/api/x"),
        (b"5;URL='http://up/x'", b"5;URL='/api/x'"),
        (b'0.5 , Url = "http://up/x" ;y', b'0.5 , Url = "/api/x" ;y'),
        (b'5;url="/x', b'5;url="/api/x'),
        (b"5 url=/x", b"5 url=/api/x"),
        (b"5; http://up/x?a;b,c='d'", b"5; /api/x?a;b,c='d'"),
        (b"5,'/x'", b"5,'/api/x'"),
        (b" .5;url=/x ", b" .5;url=/api/x "),
        (b"5; url=/x;url=/y", b"5; url=/api/x;url=/y"),
        (b"5", b"5"),
        (b"5;", b"5;"),
        (b"5; url=", b"5; url="),
        (b"5; url=''", b"5; url=''"),
        (b"5; url=http://other/x", b"5; url=http://other/x"),
        (b"5; url=x", b"5; url=x"),
        (b"5; uri=/x", b"5; uri=/x"),
        (b"url=/x", b"url=/x"),
        (b"-5; url=/x", b"-5; url=/x"),
        (b"", b""),
    ],
)
def test_the_url_of_a_refresh_is_turned(value, expected):
    """As HTML reads it: any separator, with or without quotes and the word."""
    assert public_urls([(b"refresh", value)], PREFIXED) == [(b"refresh", expected)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"<http://up/x>; rel=next", b"</api/x>; rel=next"),
        (b"</a>; rel=preload,</b> , < /c >", b"</api/a>; rel=preload,</api/b> , < /api/c >"),
        (
            b'</a>; title="x, </b>"; rel="/c", </d>',
            b'</api/a>; title="x, </b>"; rel="/c", </api/d>',
        ),
        (b'</a>; t="\\", </b>", </c>', b'</api/a>; t="\\", </b>", </api/c>'),
        (b'</a,b;c">; rel=x, </d>', b'</api/a,b;c">; rel=x, </api/d>'),
        (b'</a>; anchor="/b"; rel="http://up/r"', b'</api/a>; anchor="/b"; rel="http://up/r"'),
        (b"</a>; t=</b>", b"</api/a>; t=</b>"),
        (b'</a>; t="open, </b>', b'</api/a>; t="open, </b>'),
        (b'</a>; t="open, </b>\\', b'</api/a>; t="open, </b>\\'),
        (b",, </a>,", b",, </api/a>,"),
        (b"<http://other/x>, <x>, <>", b"<http://other/x>, <x>, <>"),
        (b"</a", b"</a"),
        (b"/a; rel=next", b"/a; rel=next"),
    ],
)
def test_the_targets_of_links_are_turned(value, expected):
    """Commas and angle brackets in quotes divide nothing, and parameters stay."""
    assert public_urls([(b"link", value)], PREFIXED) == [(b"link", expected)]


def test_only_these_headers_are_turned_and_the_order_stays():
    """Names in any case, every line for itself."""
    headers = [
        (b"x-location", b"/x"),
        (b"Location", b"/a"),
        (b"set-cookie", b"a=/; Path=/"),
        (b"content-location", b"http://up/b"),
        (b"link", b"</c>"),
        (b"LINK", b"</d>"),
        (b"refresh", b"1;/e"),
    ]

    assert public_urls(headers, PREFIXED) == [
        (b"x-location", b"/x"),
        (b"Location", b"/api/a"),
        (b"set-cookie", b"a=/; Path=/"),
        (b"content-location", b"/api/b"),
        (b"link", b"</api/c>"),
        (b"LINK", b"</api/d>"),
        (b"refresh", b"1;/api/e"),
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ((b"link", b"</x>; rel=a"), b"</t/a%3E,%3C//evil%3E'/x>; rel=a"),
        ((b"refresh", b"1;url='/x'"), b"1;url='/t/a%3E,%3C//evil%3E%27/x'"),
        ((b"location", b"/x"), b"/t/a%3E,%3C//evil%3E'/x"),
    ],
)
def test_a_prefix_that_a_client_wrote_ends_no_url(header, expected):
    """A parameter of the router's prefix is the client's, and it may be the victim of another."""
    side = BARE._replace(prefix=b"/t/a>,<//evil>'")

    assert public_urls([header], side) == [(header[0], expected)]


def test_a_prefix_names_no_host():
    """Whatever the client began its path with."""
    assert location(b"/x", BARE._replace(prefix=b"//evil.example")) == b"/.//evil.example/x"
    assert location(b"/x", BARE._replace(prefix=b"/\\evil.example")) == b"/%5Cevil.example/x"


NAMES = st.sampled_from([b"location", b"content-location", b"refresh", b"link", b"x", b"Link"])
PIECES = st.sampled_from(
    b"http: https: // / \\ \t . .. %2e up up:80 @ ? # evil.example x , ; < > ' \" = url 5 \x00"
    b" \xe9".split(b" ")
)
VALUES = st.one_of(st.binary(max_size=40), st.lists(PIECES, max_size=12).map(b"".join))
SIDES = st.sampled_from(
    [
        PREFIXED,
        BASED,
        BARE,
        BASED._replace(prefix=b""),
        BARE._replace(inverse=old),
        BARE._replace(inverse=v2),
        BARE._replace(prefix=b"//x\\"),
    ]
)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.one_of(NAMES, st.binary(max_size=9)), VALUES), max_size=6), SIDES)
def test_no_bytes_are_too_strange(headers, side):
    """There are as many lines as before, under the same names."""
    turned = public_urls(headers, side)

    assert [name for name, _ in turned] == [name for name, _ in headers]


@settings(derandomize=True, deadline=None)
@given(VALUES.filter(lambda value: b"up" not in value.lower()), NAMES)
def test_nothing_is_touched_when_no_url_is_the_upstreams(value, name):
    """Without the upstream's name or an absolute path in it, a value stays what it is."""
    headers = [(name, value.replace(b"/", b"|"))]

    assert public_urls(headers, PREFIXED) == headers


def as_a_browser(reference: bytes) -> bytes:
    """Return *reference* as the URL standard reads it below an http URL."""
    stripped = re.sub(rb"[\t\n\r]", b"", reference.strip(bytes(range(0x21))))
    head, rest = re.fullmatch(rb"([^?#]*)(.*)", stripped, re.DOTALL).groups()  # type: ignore[union-attr]
    return head.replace(b"\\", b"/") + rest


@settings(derandomize=True, deadline=None)
@given(VALUES, SIDES)
@example(b"http://up//evil.example/", BARE)
@example(b"http://up/\\evil.example/", BARE)
@example(b"http://up/\t/evil.example/", BARE)
@example(b"http://up/app//evil.example/", BASED._replace(prefix=b""))
def test_what_is_changed_stays_on_the_public_host(value, side):
    """There is no open redirect that the upstream did not make."""
    turned = location(value, side)
    if turned != value:
        assert re.match(rb"/(?!/)", as_a_browser(turned))


@settings(derandomize=True, deadline=None)
@given(VALUES, NAMES)
def test_turning_twice_is_turning_once_where_paths_stay(value, name):
    """With the same paths on both sides, only scheme and host go."""
    once = public_urls([(name, value)], BARE)

    assert public_urls(once, BARE) == once


SEGMENT = st.text("ab.~%2F\xe9;=", min_size=1, max_size=4).filter(
    lambda text: text.replace("%2e", ".").strip(".") != ""
)


@settings(derandomize=True, deadline=None)
@given(st.lists(SEGMENT, max_size=4), st.sampled_from([b"", b"?q#f", b"#//x"]))
def test_a_path_below_the_base_path_comes_below_the_prefix(segments, tail):
    """Byte for byte, whether the URL is absolute or not."""
    rest = "".join(f"/{segment}" for segment in segments).encode()

    for start in (b"", b"//up", b"http://UP:80"):
        assert location(start + b"/app" + rest + tail, BASED) == b"/api" + rest + tail


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"refresh", b"1" * 60_000),
        (b"refresh", b" " * 60_000 + b"x"),
        (b"refresh", b"1" + b" " * 60_000),
        (b"link", b",<" * 30_000),
        (b"link", b", " * 30_000),
        (b"link", b'"\\' * 30_000),
        (b"link", b'"' + b'\\"' * 30_000 + b"\\"),
        (b"location", b"/.." * 20_000),
        (b"location", b" " * 60_000 + b"/"),
    ],
)
def test_long_values_take_no_long_time(name, value):
    """An upstream that is mean costs milliseconds; what backtracks would take many seconds."""
    before = time.process_time()
    public_urls([(name, value)], PREFIXED)

    assert time.process_time() - before < 1
