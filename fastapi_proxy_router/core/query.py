"""A raw query: what it says of a name, and how it is edited.

* What is not named stays byte for byte and in order, with its separators: empty pairs, bare keys,
  ``+``, ``%zz`` and bytes that are not UTF-8.
* Names are compared decoded, once: ``%61dmin`` is ``admin`` and ``%2561dmin`` is not. Case counts.
* Readers differ: some split at ``&`` alone, some at ``;`` as well. Here both separate, so that
  ``x=1;admin=1`` cannot bring an ``admin`` past a rule to an upstream that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import unquote_to_bytes, urlencode

__all__ = ["QueryChange", "edit_query", "query_values"]

_SEPARATOR = re.compile(rb"([&;])")
#: Bytes that are not UTF-8 stay distinct from each other and from every text.
_ERRORS = "surrogateescape"


class QueryChange(NamedTuple):
    """Changes to a query. Names and values are decoded text, without surrogates."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: frozenset[str] = frozenset()


def edit_query(raw: bytes, change: QueryChange) -> bytes:
    """Return *raw* edited: first removed, then set, then added; new pairs stand at the end.

    A pair that is set replaces every one of its name. New pairs are encoded as
    ``application/x-www-form-urlencoded``. A query from which all but separators was taken is empty.
    """
    gone = change.remove.union(name for name, _ in change.set)
    kept = _without(raw, {name.encode(errors=_ERRORS) for name in gone}) if gone else raw
    new = urlencode(change.set + change.add, errors=_ERRORS).encode()
    between = b"" if kept.endswith(b"&") or not (kept and new) else b"&"
    return kept + between + new


def query_values(raw: bytes, name: str) -> list[str]:
    """Return the decoded value of every pair of this *name*, in order; a bare key's is empty.

    Nothing is refused: bytes that are not UTF-8 become surrogates (PEP 383), which no text equals.
    """
    wanted = name.encode(errors=_ERRORS)
    pairs = [part.partition(b"=") for part in _SEPARATOR.split(raw)[::2] if part]
    return [
        _decoded(value).decode(errors=_ERRORS) for key, _, value in pairs if _decoded(key) == wanted
    ]


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _without(raw: bytes, gone: Collection[bytes]) -> bytes:
    pieces = _SEPARATOR.split(raw)
    kept: list[bytes] = []
    separator = b""
    for before, part in zip([b"", *pieces[1::2]], pieces[::2], strict=True):
        # Where something is taken out between both, the one that every reader knows stays: else
        # what it separates would become one value for those who split at & alone.
        separator = b"&" if b"&" in (separator, before) else before
        if part and _decoded(part.partition(b"=")[0]) in gone:
            continue
        kept += [separator, part] if kept else [part]
        separator = b""
    if len(kept) == len(pieces):
        return raw
    return b"".join(kept) if any(kept[::2]) else b""
