"""core.query: what a raw query says of a name, and how it is edited."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_proxy_router.core.query import (
    QueryChange,
    edit_query,
    query_values,
)

#: Queries made of what matters to a parser, and any bytes.
PIECES = b"a b admin a%64min ad+min + & & ; = == 1 %zz % %ff %00 %26 %3B %2561 [] ? \xff".split()
QUERIES = st.one_of(st.lists(st.sampled_from(PIECES)).map(b"".join), st.binary())
NAMES = st.sampled_from(["a", "b", "admin", "ad min", "", "%zz", "=", "\udcff", "&", "é"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def removed(raw: bytes, *names: str) -> bytes:
    return edit_query(raw, QueryChange(remove=frozenset(names)))


def with_set(raw: bytes, **pairs: str) -> bytes:
    return edit_query(raw, QueryChange(set=tuple(pairs.items())))


def with_added(raw: bytes, **pairs: str) -> bytes:
    return edit_query(raw, QueryChange(add=tuple(pairs.items())))


@given(QUERIES)
def test_nothing_is_changed_without_a_change(raw):
    """Not a byte."""
    assert edit_query(raw, QueryChange()) == raw


@pytest.mark.parametrize(
    "raw", [b"", b"&", b"a", b"a=", b"=", b"a=1&&b", b"&a;b&", b"a=%zz+%FF&b=\xff", b"?c=1", b"%"]
)
def test_a_query_without_the_name_stays_as_it_is(raw):
    """Empty pairs, bare keys and what cannot be decoded too."""
    assert removed(raw, "admin") == raw


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b"admin", b""),
        (b"admin=1", b""),
        (b"admin=1&a=1", b"a=1"),
        (b"a=1&admin=1", b"a=1"),
        (b"a=1&admin=1&b=2", b"a=1&b=2"),
        (b"admin&a=1&admin=&b+=%zz&admin=a=b", b"a=1&b+=%zz"),
        (b"&&a&admin&&", b"&&a&&"),
        (b"a&&admin", b"a&"),
    ],
)
def test_every_pair_of_the_name_is_removed_with_one_separator(raw, left):
    """The others keep theirs."""
    assert removed(raw, "admin") == left


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"%61dmin=1", "admin"),
        (b"%61%64%6D%69%6e=1", "admin"),
        (b"caf%C3%A9=1", "café"),
        (b"caf\xc3\xa9=1", "café"),
        (b"a+b=1", "a b"),
        (b"a%20b=1", "a b"),
        (b"a%2Bb=1", "a+b"),
        (b"a%26b=1", "a&b"),
        (b"a%3bb=1", "a;b"),
        (b"a%3db=1", "a=b"),
        (b"%zz=1", "%zz"),
        (b"%25zz=1", "%zz"),
        (b"=1", ""),
    ],
)
def test_names_are_compared_decoded(raw, name):
    """In every spelling that the upstream takes for the same."""
    assert removed(raw, name) == b""


@pytest.mark.parametrize("raw", [b"%2561dmin=1", b"Admin=1", b"admin+=1", b"admin[]=1", b"x=admin"])
def test_other_names_are_not_taken_for_it(raw):
    """Decoded once, in the case they have; a value is no name."""
    assert removed(raw, "admin") == raw


def test_an_empty_pair_is_not_a_pair_without_a_name():
    """Only ``=1`` has an empty name."""
    assert removed(b"a&&=1&b", "") == b"a&&b"


@pytest.mark.parametrize("raw", [b"%ff=1", b"%c3%28=1", b"%80%81=1"])
def test_bytes_that_are_not_utf8_equal_no_text(raw):
    """Not even the replacement character."""
    assert removed(raw, "\ufffd", "\ufffd\ufffd", "\ufffd(") == raw


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b"x=1;admin=1", b"x=1"),
        (b"admin=1;x=1", b"x=1"),
        (b"x=1;%61dmin", b"x=1"),
        (b"x=1;admin=1;y=2", b"x=1;y=2"),
        (b"x=1;admin=1&y=2", b"x=1&y=2"),
        (b"x=1&admin=1;y=2", b"x=1&y=2"),
        (b"x=1;admin;admin&admin;y=2", b"x=1&y=2"),
        (b"a;b=1;;c&x;admin", b"a;b=1;;c&x"),
        (b"admin&a&b;c;admin;d", b"a&b;c;d"),
    ],
)
def test_nothing_hides_behind_a_semicolon(raw, left):
    """Only that part is taken out, and no value grows by its neighbour."""
    assert removed(raw, "admin") == left


@pytest.mark.parametrize("raw", [b"&admin", b"admin&", b"&&admin;admin&", b"admin&;"])
def test_no_separator_is_left_alone(raw):
    """Where there is nothing to separate, there is no query."""
    assert removed(raw, "admin") == b""


@pytest.mark.parametrize(
    ("raw", "edited"),
    [
        (b"", b"a=1"),
        (b"b=2", b"b=2&a=1"),
        (b"a=0&b=2&a=3", b"b=2&a=1"),
        (b"b=2;%61=0", b"b=2&a=1"),
        (b"a", b"a=1"),
        (b"b&", b"b&a=1"),
        (b"b;", b"b;&a=1"),
    ],
)
def test_a_pair_that_is_set_replaces_all_of_its_name(raw, edited):
    """It stands at the end."""
    assert with_set(raw, a="1") == edited


@pytest.mark.parametrize(
    ("raw", "edited"), [(b"", b"a=1"), (b"a=0", b"a=0&a=1"), (b"b&", b"b&a=1"), (b"&", b"&a=1")]
)
def test_a_pair_that_is_added_leaves_those_that_are_there(raw, edited):
    """No separator is doubled."""
    assert with_added(raw, a="1") == edited


def test_it_is_removed_then_set_then_added():
    """In this order, whatever the names."""
    change = QueryChange(
        set=(("a", "1"), ("b", "2")),
        add=(("a", "3"), ("c", "4"), ("a", "5")),
        remove=frozenset({"a", "c", "d"}),
    )

    assert edit_query(b"d&c=0&b=0&a=0&e=0", change) == b"e=0&a=1&b=2&a=3&c=4&a=5"


@pytest.mark.parametrize(
    ("name", "value", "pair"),
    [
        ("a b", "c d", b"a+b=c+d"),
        ("a&b=c;d", "&=;+%?#", b"a%26b%3Dc%3Bd=%26%3D%3B%2B%25%3F%23"),
        ("é", "\r\n", b"%C3%A9=%0D%0A"),
        ("a", "", b"a="),
    ],
)
def test_new_pairs_are_encoded_as_forms_are(name, value, pair):
    """So that neither begins another pair."""
    assert edit_query(b"", QueryChange(set=((name, value),))) == pair


@given(QUERIES, st.sets(NAMES))
def test_what_is_removed_is_gone_for_every_reader(raw, names):
    """For those that split at the ampersand, and for those that split at the semicolon too."""
    left = removed(raw, *names)
    split_at_both = left.replace(b";", b"&")

    for text in (left, split_at_both):
        pairs = parse_qsl(
            text.decode("latin-1"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
        assert names.isdisjoint(key for key, _ in pairs)
    assert not any(query_values(left, name) for name in names)


@given(QUERIES, NAMES)
def test_what_is_not_named_stays_in_order(raw, name):
    """Byte for byte, and removing twice is removing once."""
    left = removed(raw, name)

    def parts(query):
        named = removed_parts(query, name)
        return [
            part for part in query.replace(b";", b"&").split(b"&") if part and part not in named
        ]

    assert [part for part in left.replace(b";", b"&").split(b"&") if part] == parts(raw)
    assert removed(left, name) == left


def removed_parts(query: bytes, name: str) -> set[bytes]:
    """Return the parts that have this name, one by one."""
    parts = set(query.replace(b";", b"&").split(b"&")) - {b""}
    return {part for part in parts if query_values(part, name)}


@given(QUERIES, TEXTS, TEXTS)
@example(b"a=1;", "a", ";")
def test_what_is_set_is_what_is_read(raw, name, value):
    """Once, with this value."""
    assert query_values(edit_query(raw, QueryChange(set=((name, value),))), name) == [value]


@given(QUERIES, TEXTS, TEXTS)
def test_what_is_added_comes_last(raw, name, value):
    """After the values that are there."""
    edited = edit_query(raw, QueryChange(add=((name, value),)))

    assert edited.startswith(raw)
    assert query_values(edited, name) == [*query_values(raw, name), value]


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (b"", []),
        (b"b=1&=2&c=a", []),
        (b"a", [""]),
        (b"a=", [""]),
        (b"a=1&b=2&a=3", ["1", "3"]),
        (b"%61=%31+%2B", ["1 +"]),
        (b"b=2;a=1", ["1"]),
        (b"a=1;2", ["1"]),
        (b"a=1%3B2%26", ["1;2&"]),
        (b"a=b=c", ["b=c"]),
        (b"a=%zz%", ["%zz%"]),
        (b"a=%ff\xfe", ["\udcff\udcfe"]),
        (b"a=%2531", ["%31"]),
    ],
)
def test_the_values_of_a_name_are_read_decoded(raw, values):
    """Once, and whatever cannot be decoded is no error."""
    assert query_values(raw, "a") == values
