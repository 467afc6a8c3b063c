"""core.checks: the configuration of health."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_proxy_router.core.checks import Ejection, HealthCheck
from fastapi_proxy_router.exceptions import ConfigurationError

NAN, INF = float("nan"), float("inf")


def mistakes(kind: Any, **values: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        kind(**values)
    return raised.value.mistakes


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("path", ["", "x", "/a b", "/caf\xe9", "/a#b", "/a\n", None, 1, b"/"]),
        ("method", ["POST", "get", None, b"GET"]),
        ("headers", [None, ["x"], {"a b": "1"}, {"a": "1\n"}, {"a": 1}, {1: "a"}, {"a": "\ud800"}]),
        ("statuses", [200, None, "200", ["200"], [199], [600], [True], [200.0], [], [[]]]),
        ("body", ["", b"ok", 1]),
        ("interval", [0, -1, NAN, INF, "1", True, None]),
        ("timeout", [0, -1, NAN, INF, "1", True, None]),
        ("jitter", [-0.1, 1, NAN, INF, "0", True, None]),
        ("rise", [0, 1.0, "1", True, None]),
        ("fall", [0, 1.0, "1", True, None]),
        ("port", [0, 65536, 80.0, "80", True]),
    ],
)
def test_a_health_check_refuses_what_cannot_work(name, values):
    """With a mistake that names the argument."""
    for value in values:
        found = mistakes(HealthCheck, **{name: value})
        assert [name.rstrip("s") in mistake for mistake in found] == [True] * len(found), value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("consecutive", [0, -1, 1.0, "5", True]),
        ("rate", [0, 1.1, -1, NAN, "0.5", True]),
        ("window", [0, NAN, INF, "1", True, None]),
        ("min_requests", [0, 1.5, True, None]),
        ("statuses", [500, None, "500", [99], [True]]),
        ("base_time", [0, NAN, INF, True, None]),
        ("max_time", [0, NAN, INF, True, None, 9.0]),
        ("max_share", [0, 1.1, NAN, "1", True, None]),
        ("slow_start", [-1, NAN, INF, False, None, ""]),
    ],
)
def test_an_ejection_refuses_what_cannot_work(name, values):
    """With a mistake that names the argument."""
    for value in values:
        found = mistakes(Ejection, **{name: value})
        assert [name in mistake for mistake in found] == [True] * len(found), value


def test_all_mistakes_are_reported_together():
    """One for each argument."""
    assert len(mistakes(HealthCheck, path="x", method="PUT", rise=0, port=0)) == 4
    assert len(mistakes(Ejection, consecutive=0, rate=0, window=0, slow_start=-1)) == 4


def test_an_ejection_has_something_that_ejects():
    """Never is said by having none."""
    assert "never" in mistakes(Ejection, consecutive=None, rate=None)[0]
    assert Ejection(consecutive=None).rate
    assert Ejection(rate=None).consecutive


def test_what_may_be_nothing_may_be_nothing():
    """A slow start and a jitter of 0."""
    assert (Ejection(slow_start=0).slow_start, HealthCheck(jitter=0).jitter) == (0, 0)


@pytest.mark.parametrize("kind", [HealthCheck, Ejection])
def test_collections_become_its_own(kind):
    """Who gave them may change them; the object stays what it was, and can be hashed."""
    given: Any = [500, 503]
    made = kind(statuses=given)
    given.append(200)

    assert made.statuses == {500, 503}
    assert hash(made) == hash(kind(statuses={503, 500}))


def test_headers_become_its_own():
    """They are not part of the hash."""
    given = {"x-probe": "1"}
    check = HealthCheck(headers=given)
    given["x-probe"] = "\n"

    assert check.headers == {"x-probe": "1"}
    assert hash(check) == hash(HealthCheck(headers={"x-probe": "1"}))
