"""core.inverse: the way back from a rewritten path."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_proxy_router.core.inverse import inverse_of
from fastapi_proxy_router.core.patterns import PathPattern, Rewrite


def inverted(path: str, rewrite: str, upstream: bytes) -> bytes | None:
    inverse = inverse_of(PathPattern(path), path, Rewrite(rewrite))
    assert inverse is not None
    return inverse(upstream)


@pytest.mark.parametrize(
    ("path", "rewrite", "upstream", "expected"),
    [
        ("/old/{rest:path}", "/{rest}", b"/login", b"/old/login"),
        ("/old/{rest:path}", "/{rest}", b"/a/b%2Fc//d/", b"/old/a/b%2Fc//d/"),
        ("/old/{rest:path}", "/{rest}", b"/", b"/old/"),
        ("/{rest:path}", "/v1/{rest}", b"/v1/", b"/"),
        ("/{rest:path}", "/v1/{rest}", b"/v1/x", b"/x"),
        ("/legacy/{id}", "/v2/items/{id}", b"/v2/items/caf%C3%A9", b"/legacy/caf%C3%A9"),
        ("/legacy/{id}", "/v2/items/{id}", b"/v2/items/\xff%zz", b"/legacy/\xff%zz"),
        ("/{id:int}.html", "/page/{id}/", b"/page/7/", b"/7.html"),
        ("/{a}/{b}", "/{b}/{a}", b"/1/2", b"/2/1"),
        ("/{a}/{rest:path}", "/{a}/x/{rest}", b"/1/x/2/3", b"/1/2/3"),
        ("/x/{id}", "/{id}/{id}", b"/7/7", b"/x/7"),
        ("/old", "/new", b"/new", b"/old"),
        ("/caf\xe9 1%/{id}", "/th\xe9/{id}", b"/th%C3%A9/7", b"/caf%C3%A9%201%25/7"),
        ("/o/{id}", "/th\xe9/{id}", b"/th\xc3\xa9/7", b"/o/7"),
        ("/a.b/{id}", "/c.d/{id}", b"/c.d/7", b"/a.b/7"),
        ("/f/{v:float}", "/{v}", b"/1.5", b"/f/1.5"),
        (
            "/u/{v:uuid}",
            "/{v}/u",
            b"/00000000-0000-4000-8000-00000000000A/u",
            b"/u/00000000-0000-4000-8000-00000000000A",
        ),
    ],
)
def test_a_rewritten_path_finds_its_way_back(path, rewrite, upstream, expected):
    """With the parameters byte for byte."""
    assert inverted(path, rewrite, upstream) == expected


@pytest.mark.parametrize(
    ("path", "rewrite", "upstream"),
    [
        ("/legacy/{id}", "/v2/{id}", b"/v2/"),
        ("/legacy/{id}", "/v2/{id}", b"/v2/a/b"),
        ("/legacy/{id}", "/v2/{id}", b"/v2/a%2Fb"),
        ("/legacy/{id}", "/v2/{id}", b"/v3/a"),
        ("/legacy/{id}", "/v2/{id}", b"/x/v2/a"),
        ("/legacy/{id:int}", "/v2/{id}", b"/v2/x"),
        ("/legacy/{id:int}", "/v2/{id}", b"/v2/7%0A"),
        ("/legacy/{id:int}", "/v2/{id}", b"/v2/7x"),
        ("/old/{rest:path}", "/app/{rest}", b"/app"),
        ("/old/{rest:path}", "/{rest}", b""),
        ("/old/{rest:path}", "/{rest}", b"x"),
        ("/x/{id}", "/{id}/{id}", b"/7/8"),
        ("/a.b/{id}", "/c.d/{id}", b"/cxd/7"),
        ("/old", "/new", b"/new/"),
    ],
)
def test_what_the_rewrite_cannot_have_led_to_has_no_way_back(path, rewrite, upstream):
    """Segments, digits and literals are what they are in requests."""
    assert inverted(path, rewrite, upstream) is None


@pytest.mark.parametrize(
    ("path", "rewrite"), [("/old/{id}", "/new"), ("/{a}/{b}", "/{b}"), ("/{a:path}", "/")]
)
def test_a_parameter_that_is_dropped_cannot_be_brought_back(path, rewrite):
    """So there is no inverse."""
    assert inverse_of(PathPattern(path), path, Rewrite(rewrite)) is None


def test_no_way_is_given_that_leads_elsewhere():
    """Where a parameter ends cannot always be told."""
    assert inverted("/{a:path}/{b:path}", "/{b}/{a}", b"/1/2/3") is None
    assert inverted("/x/{a}41", "/{a}", b"/%") is None


PAIRS = [
    ("/old/{rest:path}", "/{rest}"),
    ("/{id}/{rest:path}", "/v2/{rest}/of/{id}"),
    ("/{a:path}/{b:path}", "/{b}/{a}"),
    ("/{a}-{b}", "/{b}-{a}"),
    ("/{id:int}/{name}", "/{name}/{id}/{name}"),
    ("/\xe9%{a}", "/{a}%41"),
]
PATHS = st.lists(
    st.sampled_from([b"/", b"-", b"v2", b"of", b"7", b"%2F", b"%", b"41", b"\xc3\xa9", b"x"]),
    max_size=10,
).map(lambda parts: b"/" + b"".join(parts))


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(PAIRS), st.one_of(PATHS, st.binary(max_size=20)))
def test_what_is_found_is_rewritten_to_what_it_was_found_for(pair, upstream):
    """Never to another path, whatever the bytes are."""
    path, rewrite = pair
    found = inverted(path, rewrite, upstream)
    if found is not None:
        parameters = PathPattern(path).match(found)
        assert parameters is not None
        again = Rewrite(rewrite).fill(parameters)
        assert inverted(path, rewrite, again) == found


@settings(derandomize=True, deadline=None)
@given(PATHS)
def test_a_prefix_that_is_stripped_comes_back(rest):
    """Whatever is below it."""
    assert inverted("/old/{rest:path}", "/{rest}", rest) == b"/old" + rest
