"""What a message hook's annotation says: which messages it takes, and as what."""

# No postponed annotations here, but for those that a test writes as text.

import functools
import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from fastapi_proxy_router import Reply, WebSocketOverride
from tests.servers import serve
from tests.test_relay import dialled, ended, ws_upstream
from tests.websocket.hooking import Hooked, upstream_told

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


class Chat(BaseModel):
    """A message with a name that differs on the wire."""

    text: str = Field(alias="theText", min_length=1)
    stars: int = 0


class Plain(TypedDict):
    """A message that is a dict in the hook."""

    n: int


async def echoed(hook: Any, *messages: str | bytes) -> list[str | bytes]:
    """Send messages past a hook to an echo, and return what comes back."""
    async with ws_upstream() as upstream:
        async with serve(Hooked(upstream, hook)) as gw, dialled(gw) as client:
            answers = []
            for message in messages:
                await client.send(message)
                answers.append(await client.recv())
    return answers


def noting(seen: list[Any], kind: Any):
    """Return a hook with an annotation that notes what it gets, and passes it on."""

    async def hook(message: kind) -> Any:
        seen.append(message)
        return message

    return hook


JSON = [
    (Chat, '{"theText":"hi","stars":2}', Chat(theText="hi", stars=2)),
    (Plain, '{"n":1}', {"n": 1}),
    (list[int], "[1,2,3]", [1, 2, 3]),
    (list[str], '["a","b"]', ["a", "b"]),
    (dict[str, int], '{"a":1}', {"a": 1}),
    (dict[str, Any], '{"a":[]}', {"a": []}),
    (tuple[str, int], '["a",1]', ("a", 1)),
    (int, "7", 7),
    (Literal[7], "7", 7),
    (Annotated[Chat, "a note"], '{"theText":"hi","stars":2}', Chat(theText="hi", stars=2)),
    (Annotated[list[int], Field(max_length=3)], "[1,2,3]", [1, 2, 3]),
    (Chat | None, '{"theText":"hi","stars":0}', Chat(theText="hi")),
    (list[Chat] | str, "[]", []),
]


@pytest.mark.parametrize(("kind", "text", "value"), JSON, ids=[str(kind) for kind, *_ in JSON])
async def test_json_is_read_as_what_the_annotation_says(kind, text, value):
    """And written as JSON by its aliases, in text as in binary."""
    seen: list[Any] = []
    assert await echoed(noting(seen, kind), text, text.encode()) == [text, text.encode()]
    assert seen == [value, value]


@pytest.mark.parametrize("kind", [str | bytes, bytes | str, Any])
async def test_text_and_binary_come_as_they_are(kind):
    """No JSON is read where both kinds are taken."""
    seen: list[Any] = []
    assert await echoed(noting(seen, kind), "{", b"\xff", "") == ["{", b"\xff", ""]
    assert seen == ["{", b"\xff", ""]


async def test_a_hook_without_an_annotation_takes_both():
    """It is the shortest there is."""

    async def hook(message):
        return message

    assert await echoed(hook, "{", b"\xff") == ["{", b"\xff"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (str, "{"),
        (bytes, b"\xff"),
        (Annotated[str, "a note"], "x"),
        (Annotated[bytes, 1], b"x"),
    ],
)
async def test_one_kind_is_taken_as_it_is(kind, message):
    """``str`` is text and ``bytes`` binary, also with a note."""
    seen: list[Any] = []
    assert await echoed(noting(seen, kind), message) == [message]
    assert seen == [message]


async def test_what_a_hook_returns_need_not_be_what_it_takes():
    """Text and bytes are sent as they are, anything else as JSON."""

    async def hook(message: str) -> Any:
        return {
            "text": "plain",
            "bytes": b"\x00",
            "model": Chat(theText="a"),
            "list": [1, None],
            "empty": "",
        }[message]

    got = await echoed(hook, "text", "bytes", "model", "list", "empty")
    assert got == ["plain", b"\x00", '{"theText":"a","stars":0}', "[1,null]", ""]


@pytest.mark.parametrize("message", ['{"theText":"a"}', b'{"theText":"a"}'])
async def test_an_answer_is_json_of_the_same_kind(message):
    """Text is answered in text, binary in binary."""

    async def hook(message: Chat) -> Reply:
        return Reply({"got": message.text})

    (answer,) = await echoed(hook, message)
    assert type(answer) is type(message)
    assert json.loads(answer) == {"got": "a"}


# --- What does not match -----------------------------------------------------------------------

MISMATCHES = [
    (str, b"binary", 1003),
    (bytes, "text", 1003),
    (Annotated[str, "a note"], b"binary", 1003),
    (Chat, '{"theText":""}', 1008),
    (Chat, '{"theText":', 1008),
    (Chat, "", 1008),
    (Chat, b"\xff\xfe", 1008),
    (list[int], '["SECRET"]', 1008),
    (list[str], "no JSON", 1008),
    (dict[str, int], '{"a":"b"}', 1008),
]


@pytest.mark.parametrize(("kind", "message", "code"), MISMATCHES)
async def test_a_message_of_the_client_that_does_not_match_ends_both(kind, message, code):
    """1003 for the wrong kind, 1008 for what is in it, and no word of that."""
    seen: list[Any] = []
    async with ws_upstream() as upstream:
        app = Hooked(upstream, noting(seen, kind))
        async with serve(app) as gw, dialled(gw) as client:
            await client.send(message)
            end = await ended(client)
            assert await upstream_told(upstream) == end
    assert end == (code, "The message is not what is expected here")
    assert seen == app.raised == []


@pytest.mark.parametrize(("kind", "message", "code"), MISMATCHES)
async def test_a_message_of_the_upstream_that_does_not_match_ends_both(kind, message, code):
    """1011: the client has done nothing wrong."""
    seen: list[Any] = []

    async def handler(connection):
        await connection.send(message)
        await connection.wait_closed()

    async with ws_upstream(handler) as upstream:
        app = Hooked(upstream, None, noting(seen, kind))
        async with serve(app) as gw, dialled(gw) as client:
            end = await ended(client)
            assert await upstream_told(upstream) == end
    assert end == (1011, "The upstream sent an unexpected message")
    assert seen == app.raised == []


async def test_a_mismatch_ends_both_sides_on_every_server(server):
    """The client is told on each of them."""
    async with ws_upstream() as upstream:
        async with serve(Hooked(upstream, noting([], Chat)), server) as gw, dialled(gw) as client:
            await client.send("{}")
            assert (await ended(client))[0] == 1008
            assert (await upstream_told(upstream))[0] == 1008


async def test_a_constraint_on_text_is_not_forgotten():
    """What pydantic would refuse of a ``str`` ends both sides as well."""
    kind = Annotated[str, Field(max_length=3)]
    async with ws_upstream() as upstream:
        async with serve(Hooked(upstream, noting([], kind))) as gw, dialled(gw) as client:
            await client.send("abc")
            assert await client.recv() == "abc"
            await client.send("abcd")
            assert (await ended(client))[0] == 1008


# --- What may be a hook ------------------------------------------------------------------------


class Shouting:
    """Something that can be called, with state."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    async def __call__(self, message: str) -> str:
        return message + self.mark

    async def shout(self, message: str) -> str:
        return message + self.mark

    @staticmethod
    async def still(message: str) -> str:
        return message + "."


async def marked(mark: str, message: str) -> str:
    return message + mark


async def with_default(message: str, mark: str = "?") -> str:
    return message + mark


async def named_only(message: str, *, mark: str = "?") -> str:
    return message + mark


async def as_text(message: "str") -> "str":
    return message + "!"


async def anything(*messages: str) -> str:
    return messages[0] + "!"


HOOKS = [
    (Shouting("!"), "x!"),
    (Shouting("!").shout, "x!"),
    (Shouting.still, "x."),
    (functools.partial(marked, "!"), "x!"),
    (functools.partial(with_default, mark="!"), "x!"),
    (with_default, "x?"),
    (named_only, "x?"),
    (as_text, "x!"),
    (anything, "x!"),
]


@pytest.mark.parametrize(("hook", "answer"), HOOKS, ids=range(len(HOOKS)))
async def test_whatever_is_called_with_a_message_is_a_hook(hook, answer):
    """Functions, methods, objects, and partial ones."""
    assert await echoed(hook, "x") == [answer]


def not_async(message: str) -> str:
    return message


class NotAsync:
    def __call__(self, message: str) -> str:
        return message


async def nothing() -> None:
    """Take no message."""


async def two(message: str, other: str) -> str:
    return message


async def only_named(*, message: str) -> str:
    return message


async def named_too(message: str, *, other: str) -> str:
    return message


async def generating(message: str):
    yield message


async def unknown(message: "Nonsense") -> None:  # type: ignore[name-defined] # noqa: F821
    """Take what cannot be known."""


async def unreadable(message: object()) -> None:  # type: ignore[valid-type]
    """Take what cannot be known."""


class NoModel:
    """Nothing that pydantic could read."""


async def no_model(message: NoModel) -> None:
    """Take what nobody can make."""


WRONG = [
    *(not_async, NotAsync(), nothing, two, only_named, named_too, generating),
    *(unknown, unreadable, no_model, 5, NotAsync),
]


@pytest.mark.parametrize("direction", ["on_client_message", "on_upstream_message"])
@pytest.mark.parametrize("hook", WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_a_hook_is_refused(hook, direction):
    """Where the override is built, not when the first message comes."""
    with pytest.raises(ValidationError) as raised:
        WebSocketOverride(**{direction: hook})
    assert [mistake["loc"] for mistake in raised.value.errors()] == [(direction,)]
