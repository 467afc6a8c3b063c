"""What headers say of a body that somebody reads or changes on its way.

* ``Content-MD5`` and the digests (RFC 9530; RFC 3230 before it) are of the bytes that were sent.
* A changed body is another representation: a strong ``ETag`` would promise the same bytes, a weak
  one promises the same meaning (RFC 9110, 8.8.1), and parts of it are not to be had.
* A part of a body cannot be read as what the whole stands for, so a reader asks for the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from .changes import Changes
from .headers import Edits, edit, field_values
from .names import Header

__all__ = ["DIGESTS", "readable", "rewritten"]

#: What nobody can know of bytes that are yet to be made.
DIGESTS = frozenset({b"content-md5", b"digest", b"content-digest", b"repr-digest"})

_OF_THE_OLD = DIGESTS | {b"content-length", b"content-encoding", b"accept-ranges"}
_IN_PARTS = frozenset({b"range", b"if-range"})
_GZIP = (b"gzip", b"x-gzip")


def rewritten(headers: Sequence[Header], length: int | None = None) -> list[Header]:
    """Return a response's *headers* for another body, which has no coding.

    Args:
        headers: The headers of the body that was there. Names are in lower case.
        length: The bytes of the new one; ``None`` if that is not known yet.
    """
    declared = () if length is None else ((b"content-length", b"%d" % length),)
    edited = edit(list(headers), Edits(set=declared, remove=_OF_THE_OLD))
    return [(name, _weak(value) if name == b"etag" else value) for name, value in edited]


def _weak(tag: bytes) -> bytes:
    return tag if tag.startswith(b"W/") else b"W/" + tag


def readable(changes: Changes, headers: Sequence[Header]) -> Changes:
    """Return *changes* that ask the upstream for a body which can be read.

    That is all of it, in gzip if the client takes that, because what is not changed goes to the
    client as it came, and else as it is.

    Args:
        changes: The override so far.
        headers: The client's request's. Names are in lower case.
    """
    coding = b"gzip" if _takes_gzip(headers) else b"identity"
    asked = Edits(set=((b"accept-encoding", coding),), remove=_IN_PARTS)
    return changes.then(Changes(request=(asked,)))


def _takes_gzip(headers: Sequence[Header]) -> bool:
    """Tell whether the client takes gzip (RFC 9110, 12.5.3); who says nothing may not."""
    weights: dict[bytes, bool] = {}
    for item in b",".join(field_values(headers, b"accept-encoding")).lower().split(b","):
        coding, *parameters = (part.strip() for part in item.split(b";"))
        weights[coding] = not any(map(_is_refusal, parameters))
    named = [weights[name] for name in _GZIP if name in weights]
    return all(named) if named else weights.get(b"*", False)


def _is_refusal(parameter: bytes) -> bool:
    name, _, value = parameter.partition(b"=")
    return name.strip() == b"q" and not value.strip().strip(b"0.")
