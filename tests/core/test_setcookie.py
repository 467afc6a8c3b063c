"""core.setcookie: the cookies of an upstream, edited for the public side."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_proxy_router.core.public import PublicSide
from fastapi_proxy_router.core.setcookie import CookieRules, edit_cookies

SIDE = PublicSide(frozenset({b"up"}), b"", b"/api")
BASED = SIDE._replace(base_path=b"/app")
LONG = b"sid=a=b; Expires=Wed, 21 Oct 2026 07:28:00 GMT;Max-Age=5;  x ; =;;priority=High"


def edited(line: bytes, rules: CookieRules, side: PublicSide = SIDE) -> bytes:
    [(name, value)] = edit_cookies([(b"set-cookie", line)], rules, side)
    assert name == b"set-cookie"
    return value


def domains(*pairs: tuple[str, str]) -> CookieRules:
    return CookieRules(domain=pairs)


@pytest.mark.parametrize(
    ("line", "rules", "expected"),
    [
        (b"a=1; Domain=up.internal", [("up.internal", "x.example")], b"a=1; Domain=x.example"),
        (
            b"a=1;domain = .UP.Internal;b",
            [("up.internal", "x.example")],
            b"a=1;domain = x.example;b",
        ),
        (b"a=1; Domain=up.internal", [(".Up.Internal", "x.example")], b"a=1; Domain=x.example"),
        (b"a=1; Domain=b", [("a", "1"), ("b", "2"), ("b", "3"), ("*", "4")], b"a=1; Domain=2"),
        (b"a=1; Domain=c", [("a", "1"), ("*", "4"), ("c", "5")], b"a=1; Domain=4"),
        (b"a=1; Domain=c; Path=/", [("*", "")], b"a=1; Path=/"),
        (b"a=1;Domain=c", [("c", "")], b"a=1"),
        (b"a=1; Domain=sub.up", [("up", "x.example")], b"a=1; Domain=sub.up"),
        (b"a=1; Domain=upup", [("up", "x.example")], b"a=1; Domain=upup"),
        (b"Domain=up", [("up", "x.example")], b"Domain=up"),
        (b"a=1", [("*", "x.example")], b"a=1"),
        (b"a=1; Domain=", [("*", "x.example")], b"a=1; Domain="),
        (b"a=1; Domain=.", [("*", "x.example")], b"a=1; Domain=."),
        (b"a=1; Domain", [("*", "x.example")], b"a=1; Domain"),
    ],
)
def test_the_first_domain_that_matches_is_replaced(line, rules, expected):
    """A leading dot and case are ignored; what has no domain, or an empty one, gets none."""
    assert edited(line, domains(*rules)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"a=1; Domain=up; Domain=up", b"a=1; Domain=x; Domain=x"),
        (b"a=1; Domain=up; Domain=other", b"a=1; Domain=x; Domain=other"),
        (b"a=1; Domain=gone; Domain=up", b"a=1; Domain=x"),
        (b"a=1; Domain=up; Path=/; Domain=gone; b", b"a=1; Path=/; b"),
        (b"a=1; Domain=other; Domain=gone", b"a=1"),
        (b"a=1; Domain=gone; Domain=other", b"a=1; Domain=other"),
    ],
)
def test_of_several_domains_none_comes_back(line, expected):
    """The last counts, so one that is removed takes those before it along."""
    assert edited(line, domains(("up", "x"), ("gone", ""))) == expected


@pytest.mark.parametrize(
    ("path", "rules", "expected"),
    [
        (b"/app", [(b"/app", b"/public")], b"/public"),
        (b"/app/", [(b"/app", b"/public")], b"/public/"),
        (b"/app/x", [(b"/app", b"/public")], b"/public/x"),
        (b"/app/x", [(b"/app/", b"/public/")], b"/public/x"),
        (b"/app", [(b"/app/", b"/public/")], b"/public"),
        (b"/apple", [(b"/app", b"/public")], b"/apple"),
        (b"/APP", [(b"/app", b"/public")], b"/APP"),
        (b"/app", [(b"/app", b"/")], b"/"),
        (b"/app", [(b"/app/", b"/")], b"/"),
        (b"/app/x", [(b"/app", b"/")], b"/x"),
        (b"/", [(b"/", b"/public")], b"/public"),
        (b"/", [(b"/", b"/public/")], b"/public/"),
        (b"/x", [(b"/", b"/public")], b"/public/x"),
        (b"/a/b", [(b"/a/b", b"/1"), (b"/a", b"/2")], b"/1"),
        (b"/a/b", [(b"/a", b"/2"), (b"/a/b", b"/1")], b"/2/b"),
        (b"", [(b"/", b"/public")], b""),
        (b"x", [(b"/", b"/public")], b"x"),
        (b'"/"', [(b"/", b"/public")], b'"/"'),
    ],
)
def test_the_first_path_that_matches_is_replaced(path, rules, expected):
    """By whole segments; what is no path stays, as clients put the request's in its place."""
    line = b"a=/app; PATH= %s;b=/app"

    assert edited(line % path, CookieRules(path=tuple(rules))) == line % expected


@pytest.mark.parametrize(
    ("side", "path", "expected"),
    [
        (SIDE, b"/", b"/api"),
        (SIDE, b"/x", b"/api/x"),
        (SIDE, b"/x/", b"/api/x/"),
        (SIDE, b"//x", b"/api//x"),
        (BASED, b"/app", b"/api"),
        (BASED, b"/app/", b"/api"),
        (BASED, b"/app/x", b"/api/x"),
        (BASED, b"/apple", b"/apple"),
        (BASED, b"/", b"/"),
        (BASED._replace(prefix=b""), b"/app", b"/"),
        (BASED._replace(prefix=b""), b"/app/x", b"/x"),
        (SIDE._replace(prefix=b""), b"/", b"/"),
        (SIDE._replace(prefix=b""), b"//x", b"//x"),
        (SIDE._replace(prefix=b""), b"/a/../b", b"/a/../b"),
        (SIDE, b"x", b"x"),
        (SIDE, b"", b""),
    ],
)
def test_a_path_of_the_upstream_becomes_the_public_one(side, path, expected):
    """Its root is the whole prefix, also without a slash at the end."""
    assert edited(b"a=1; Path=" + path, CookieRules(path=True), side) == b"a=1; Path=" + expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v2", b"/api/old"),
        (b"/v2/", b"/api/old/"),
        (b"/v2/x", b"/api/old/x"),
        (b"/", b"/api"),
        (b"/other", b"/api/other"),
    ],
)
def test_the_path_of_a_cookie_goes_back_through_a_rewrite(path, expected):
    """A path that the rewrite leads below, not to, is that of all that is below it."""

    def inverse(path: bytes) -> bytes | None:
        return b"/old/" + path[4:] if path.startswith(b"/v2/") else None

    side = SIDE._replace(inverse=inverse)

    assert edited(b"a=1; Path=" + path, CookieRules(path=True), side) == b"a=1; Path=" + expected


def test_a_rewrite_of_everything_takes_the_root_along():
    """The cookie goes to all that the rewrite is for."""
    side = SIDE._replace(inverse=lambda path: b"/old" + path if path else None)

    assert edited(b"a=1; Path=/", CookieRules(path=True), side) == b"a=1; Path=/api/old"


def test_every_path_of_a_cookie_is_edited():
    """The last counts; a client that takes the first gets the same."""
    line = b"a=1; Path=/x; path=/y"

    assert edited(line, CookieRules(path=True)) == b"a=1; Path=/api/x; path=/api/y"


def test_a_prefix_that_a_client_wrote_adds_no_attribute():
    """A parameter of the router's prefix may have semicolons."""
    side = SIDE._replace(prefix=b"/t/x;Domain=example.com\r\n")
    inverse = SIDE._replace(inverse=lambda path: b"/a;b" + path)

    assert edited(b"a=1; Path=/", CookieRules(path=True), side) == (
        b"a=1; Path=/t/x%3BDomain=example.com%0D%0A"
    )
    assert edited(b"a=1; Path=/x", CookieRules(path=True), inverse) == b"a=1; Path=/api/a%3Bb/x"


@pytest.mark.parametrize(
    ("line", "rules", "expected"),
    [
        (b"a=1", CookieRules(secure=True), b"a=1; Secure"),
        (b"a=1; sEcUrE ", CookieRules(secure=True), b"a=1; sEcUrE "),
        (b"a=1; secure=0", CookieRules(secure=True), b"a=1; secure=0"),
        (b"secure", CookieRules(secure=True), b"secure; Secure"),
        (b"a=1; x=secure", CookieRules(secure=True), b"a=1; x=secure; Secure"),
        (b"a=1; Secure; Path=/;secure=x", CookieRules(secure=False), b"a=1; Path=/"),
        (b"a=1; HttpOnly", CookieRules(secure=False), b"a=1; HttpOnly"),
        (b"a=1; HttpOnly; Secure", CookieRules(http_only=False), b"a=1; Secure"),
        (b"a=1; Secure", CookieRules(http_only=True), b"a=1; Secure; HttpOnly"),
        (b"a=1", CookieRules(same_site="lax"), b"a=1; SameSite=Lax"),
        (b"a=1; samesite = none;b", CookieRules(same_site="strict"), b"a=1; samesite = Strict;b"),
        (b"a=1; SameSite", CookieRules(same_site="strict"), b"a=1; SameSite=Strict"),
        (b"a=1; SameSite=LAX", CookieRules(same_site="lax"), b"a=1; SameSite=LAX"),
        (
            b"a=1; SameSite=a; SameSite=b",
            CookieRules(same_site="lax"),
            b"a=1; SameSite=Lax; SameSite=Lax",
        ),
        (b"a=1", CookieRules(same_site="none"), b"a=1; SameSite=None"),
        (
            b"a=1; SameSite=None; Secure",
            CookieRules(secure=False, same_site="lax"),
            b"a=1; SameSite=Lax",
        ),
        (
            b"a=1",
            CookieRules(secure=True, http_only=True, same_site="none"),
            b"a=1; Secure; HttpOnly; SameSite=None",
        ),
    ],
)
def test_flags_are_added_and_removed(line, rules, expected):
    """In any spelling, and never twice; nothing is added that was not asked for."""
    assert edited(line, rules) == expected


EVERYTHING = CookieRules(
    domain=(("*", "example.com"),), path=((b"/", b"/public"),), secure=False, http_only=False
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"__Host-a=1; Path=/; Secure; HttpOnly", b"__Host-a=1; Path=/; Secure"),
        (b"__HOST-a=1; Path=/; Secure", b"__HOST-a=1; Path=/; Secure"),
        (
            b"__Secure-a=1; Path=/; Secure; Domain=b",
            b"__Secure-a=1; Path=/public; Secure; Domain=example.com",
        ),
        (b" __secure-a = 1;Secure;HttpOnly", b" __secure-a = 1;Secure"),
        (b"__Http-a=1; HttpOnly; Secure; Path=/", b"__Http-a=1; HttpOnly; Secure; Path=/public"),
        (
            b"__Host-Http-a=1; HttpOnly; Secure; Path=/",
            b"__Host-Http-a=1; HttpOnly; Secure; Path=/",
        ),
        (b"a=__Host-; Secure", b"a=__Host-"),
    ],
)
def test_no_edit_makes_browsers_drop_a_cookie_for_its_name(line, expected):
    """What the prefix of its name promises is kept."""
    assert edited(line, EVERYTHING) == expected
    assert edited(line, EVERYTHING._replace(path=True)) == expected.replace(b"/public", b"/api")


def test_flags_are_added_to_cookies_with_a_prefix_too():
    """That breaks no promise."""
    rules = CookieRules(secure=True, http_only=True)

    assert edited(b"__Host-a=1; Path=/", rules) == b"__Host-a=1; Path=/; Secure; HttpOnly"
    assert edited(b"__Http-a=1", rules) == b"__Http-a=1; Secure; HttpOnly"


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (b"sid=1", True),
        (b" sid\t=1", True),
        (b"SID=1", False),
        (b"other=sid", False),
        (b"sid", False),
        (b"=sid", False),
    ],
)
def test_only_the_cookies_that_are_named_are_edited(line, changed):
    """Names have a case."""
    rules = CookieRules(secure=True, names=frozenset({b"sid"}))

    assert edited(line, rules) == line + (b"; Secure" if changed else b"")


def test_every_line_stays_a_line_of_its_own():
    """In its place; other headers are no cookies."""
    headers = [
        (b"x", b"a=1; Secure"),
        (b"set-cookie", b"a=1; Secure"),
        (b"cookie", b"a=1; Secure"),
        (b"Set-Cookie", b"b=1;Secure"),
        (b"set-cookie", b"a=1; Secure"),
    ]

    assert edit_cookies(headers, CookieRules(secure=False), SIDE) == [
        (b"x", b"a=1; Secure"),
        (b"set-cookie", b"a=1"),
        (b"cookie", b"a=1; Secure"),
        (b"Set-Cookie", b"b=1"),
        (b"set-cookie", b"a=1"),
    ]


@pytest.mark.parametrize(
    "rules",
    [
        CookieRules(),
        domains(("*", "x")),
        CookieRules(path=True),
        CookieRules(path=((b"/", b"/x"),)),
        CookieRules(secure=False, http_only=False),
    ],
)
def test_what_is_not_touched_stays_byte_for_byte(rules):
    """Dates with commas, blanks, empty attributes and unknown ones."""
    assert edited(LONG, rules) == LONG


def test_what_is_added_comes_at_the_end():
    """And the rest stays byte for byte."""
    assert edited(LONG, CookieRules(secure=True, same_site="lax")) == (
        LONG + b"; Secure; SameSite=Lax"
    )


@pytest.mark.parametrize("line", [b"", b" ", b"; Path=/; Domain=up"])
def test_what_is_no_cookie_is_left(line):
    """Clients ignore it, and it does not become one."""
    assert edited(line, EVERYTHING._replace(secure=True, same_site="lax")) == line


PIECES = st.sampled_from(
    b"sid a= ; = Domain= .up up * Path= / /app /x __Host- __Secure- Secure HttpOnly SameSite= "
    b'None lax \t , \xe9 \x00 " Expires=Wed,'.split(b" ")
)
LINES = st.one_of(st.binary(max_size=40), st.lists(PIECES, max_size=15).map(b"".join))
RULES = st.builds(
    CookieRules,
    domain=st.sampled_from(
        [None, (("up", "x.example"),), (("up", ""),), (("*", ""),), (("*", "x.example"),)]
    ),
    path=st.sampled_from([False, ((b"/app", b"/public"),), ((b"/app/", b"/"), (b"/x", b"/y"))]),
    secure=st.sampled_from([None, True, False]),
    http_only=st.sampled_from([None, True, False]),
    same_site=st.sampled_from([None, "strict", "lax", "none"]),
    names=st.sampled_from([None, frozenset({b"sid"})]),
)


def attributes(line: bytes) -> list[bytes]:
    """Return what a client reads after the first semicolon, in lower case."""
    return [part.strip(b" \t").lower() for part in line.split(b";")[1:]]


@settings(derandomize=True, deadline=None)
@given(LINES, RULES, st.booleans())
def test_no_bytes_are_too_strange_and_the_pair_is_never_touched(line, rules, own_path):
    """Whatever the rules are, a cookie keeps its name and value."""
    rules = rules._replace(path=True) if own_path else rules

    assert edited(line, rules).split(b";")[0] == line.split(b";")[0]


@settings(derandomize=True, deadline=None)
@given(LINES)
def test_a_line_is_left_when_nothing_is_to_be_changed(line):
    """Nor is it when its name is not among those that are."""
    assert edited(line, CookieRules()) == line
    assert edited(line, EVERYTHING._replace(names=frozenset({b"\xff"}))) == line


@settings(derandomize=True, deadline=None)
@given(LINES, RULES)
def test_editing_twice_is_editing_once_where_no_rule_feeds_another(line, rules):
    """Flags are not added again, and what was replaced is not found again."""
    rules = rules._replace(path=((b"/app", b"/public"),))
    once = edited(line, rules)

    assert edited(once, rules) == once


@settings(derandomize=True, deadline=None)
@given(LINES, RULES)
def test_a_cookie_never_gets_a_domain_or_a_path_that_it_had_not(line, rules):
    """And one with a prefix keeps what its name promises."""
    before, after = attributes(line), attributes(edited(line, rules))
    for key in (b"domain", b"path"):
        counts = [
            sum(part.partition(b"=")[0].strip(b" \t") == key for part in parts)
            for parts in (before, after)
        ]
        assert counts[1] <= counts[0]
    if line.strip(b" \t").startswith((b"__Host-", b"__Secure-")) and b"secure" in before:
        assert b"secure" in after or b"=" not in line.partition(b";")[0]


@pytest.mark.parametrize(
    "part", [b";", b";domain=up", b";path=/x", b";x;domain=gone", b";samesite"]
)
def test_long_lines_take_no_long_time(part):
    """An upstream that is mean costs milliseconds."""
    rules = CookieRules((("up", "x"), ("gone", "")), path=True, secure=True, same_site="lax")
    line = b"a=1" + part * (60_000 // len(part))
    before = time.process_time()
    edited(line, rules)

    assert time.process_time() - before < 1
