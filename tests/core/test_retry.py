"""core.retry: what may be tried again, and how often."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_proxy_router.core.retry import IDEMPOTENT, Budget, Retry
from fastapi_proxy_router.exceptions import BadGateway, ConfigurationError, GatewayTimeout

NAN, INF = float("nan"), float("inf")
KEY = [(b"idempotency-key", b"1")]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("attempts", [0, -1, 1.0, True, "3", None]),
        ("per_try", [0, -1, NAN, INF, True, "1"]),
        ("statuses", [503, None, "503", [99], [True], [[]]]),
        ("methods", ["POST", None, 1, ["post"], [b"POST"], ["A B"], [""], ["\ud800"], [[]]]),
        ("idempotency_key", [None, 1, "false"]),
        ("body_limit", [-1, 1.0, True, None]),
        ("same_upstream", [None, 0, "no"]),
        ("backoff", [-1, NAN, INF, True, None]),
        ("max_backoff", [-1, NAN, INF, True, None]),
        ("budget", [-0.1, 1.1, NAN, True, "0.2", None]),
        ("budget_floor", [-1, 1.0, True, None]),
    ],
)
def test_it_refuses_what_cannot_work(name, values):
    """With a mistake that names the argument."""
    for value in values:
        with pytest.raises(ConfigurationError) as raised:
            Retry(**{name: value})
        assert [name in mistake for mistake in raised.value.mistakes] == [True], value


def test_all_mistakes_are_reported_together():
    """One for each argument."""
    with pytest.raises(ConfigurationError) as raised:
        Retry(attempts=0, per_try=0, budget=2, budget_floor=-1)

    assert len(raised.value.mistakes) == 4


def test_collections_become_its_own():
    """Who gave them may change them; the object stays what it was, and can be hashed."""
    methods: Any = ["POST"]
    retry = Retry(methods=methods, statuses={503})
    methods.append("PATCH")

    assert retry.methods == {"POST"}
    assert hash(retry) == hash(Retry(methods={"POST"}, statuses={503}))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "QUERY"])
def test_idempotent_methods_may_be_repeated(method):
    """RFC 9110, 9.2.2, and QUERY."""
    assert Retry().may_repeat(method, [])


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK", "CONNECT", "get", "NEW"])
def test_no_other_method_may_be_repeated(method):
    """Unless it is chosen."""
    assert method not in IDEMPOTENT
    assert not Retry().may_repeat(method, KEY)


def test_methods_can_be_chosen():
    """And only these."""
    retry = Retry(methods={"POST"})

    assert retry.may_repeat("POST", [])
    assert not retry.may_repeat("PATCH", [])


def test_an_idempotency_key_is_believed_where_that_is_chosen():
    """Of any method that has one."""
    retry = Retry(idempotency_key=True)

    assert retry.may_repeat("POST", KEY)
    assert not retry.may_repeat("POST", [(b"x", b"1")])


@pytest.mark.parametrize(
    ("error", "repeatable", "per_try", "expected"),
    [
        (BadGateway("x", request_sent=False), False, None, True),
        (GatewayTimeout("x", request_sent=False), False, None, True),
        (BadGateway("x"), False, None, False),
        (BadGateway("x"), True, None, True),
        (GatewayTimeout("x"), True, None, False),
        (GatewayTimeout("x"), True, 1.0, True),
        (GatewayTimeout("x"), False, 1.0, False),
    ],
)
def test_what_may_follow_a_failure(error, repeatable, per_try, expected):
    """Anything if nothing was sent; what is late only if there is a limit for each try."""
    assert Retry(per_try=per_try).follows(error, repeatable=repeatable) is expected


def test_the_wait_is_random_up_to_a_limit_that_doubles():
    """Full jitter."""
    retry, chance = Retry(backoff=1.0, max_backoff=5.0), random.Random(7)
    for number, longest in enumerate([1, 2, 4, 5, 5]):
        waits = [retry.pause(number, chance) for _ in range(400)]
        assert min(waits) < 0.1 * longest < 0.9 * longest < max(waits) <= longest


def test_there_may_be_no_wait():
    """0 is none; a large number of retries overflows nothing."""
    assert Retry(backoff=0).pause(0, random.Random(1)) == 0
    assert Retry(backoff=1.0).pause(10_000, random.Random(1)) <= 0.25


def test_a_few_retries_are_always_allowed():
    """Also in a pool that nobody uses."""
    budget = Budget(Retry(budget=0.0, budget_floor=3))

    assert [budget.withdraw(100.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert (budget.retries(100.0), budget.is_spent(100.0)) == (3, True)


def test_requests_allow_a_share_of_retries():
    """Besides the floor."""
    budget = Budget(Retry(budget=0.2, budget_floor=1))
    for _ in range(10):
        budget.request(100.0)

    assert [budget.withdraw(100.0) for _ in range(4)] == [True, True, True, False]


def test_the_budget_is_there_again_after_ten_seconds():
    """And a little: it looks back by steps."""
    budget = Budget(Retry(budget=0.0, budget_floor=1))
    budget.withdraw(100.0)

    assert not budget.withdraw(109.9)
    assert budget.withdraw(111.2)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 8), st.integers(0, 8)), max_size=40),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    st.integers(0, 5),
)
def test_no_ten_seconds_have_more_retries_than_is_allowed(events, share, floor):
    """Counted at each retry, over the 10 s before it."""
    budget = Budget(Retry(budget=share, budget_floor=floor))
    now, requests, retries = 100.0, [], []
    for seconds, first, wanted in events:
        now += seconds
        for _ in range(first):
            budget.request(now)
            requests.append(now)
        for _ in range(wanted):
            if budget.withdraw(now):
                retries.append(now)
                made = sum(time > now - 10 for time in retries)
                assert made <= floor + share * sum(time > now - 10 for time in requests)
