"""core.limits: what an upstream or a pool may be given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_proxy_router.core.limits import Meter, Queue, RateLimit
from fastapi_proxy_router.exceptions import ConfigurationError

NO_SECONDS: list[Any] = [0, -1, True, "1", float("nan"), float("inf"), None]
NO_COUNT: list[Any] = [0, -1, True, "1", 1.0, float("nan"), None]


@pytest.mark.parametrize("value", NO_COUNT)
def test_a_count_is_a_whole_number_from_one(value):
    """Not a bool, a text, a fraction or nothing."""
    with pytest.raises(ConfigurationError, match="requests must be a whole number"):
        RateLimit(value)
    with pytest.raises(ConfigurationError, match="size must be a whole number"):
        Queue(size=value)


@pytest.mark.parametrize("value", NO_SECONDS)
def test_a_time_is_a_number_above_zero(value):
    """Neither endless nor unknown."""
    with pytest.raises(ConfigurationError, match="seconds must be"):
        RateLimit(1, value)
    with pytest.raises(ConfigurationError, match="timeout must be"):
        Queue(timeout=value)


def test_all_mistakes_are_reported_together():
    """Both arguments."""
    with pytest.raises(ConfigurationError) as raised:
        RateLimit(0, 0)

    assert len(raised.value.mistakes) == 2


def test_the_window_starts_with_the_first_request():
    """And ends its length later, whenever the others came."""
    meter = Meter(RateLimit(2, 10.0))
    meter.add(103.0)
    assert meter.wait(108.0) == 0
    meter.add(108.0)

    assert meter.wait(108.0) == 5
    assert meter.wait(112.5) == 0.5
    assert meter.wait(113.0) == 0


def test_a_new_window_starts_with_the_next_request():
    """Not where the last one ended."""
    meter = Meter(RateLimit(1, 10.0))
    meter.add(100.0)
    meter.add(117.0)

    assert meter.wait(120.0) == 7


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 3), max_size=80), st.integers(1, 5), st.floats(0.5, 5))
def test_no_window_has_more_than_its_requests(gaps, requests, seconds):
    """Whenever they come, if they come only when there is no wait."""
    meter, now, taken = Meter(RateLimit(requests, seconds)), 10.0, []
    for gap in gaps:
        now += gap
        if meter.wait(now) == 0:
            meter.add(now)
            taken.append(now)

    begun = float("-inf")
    count = 0
    for time in taken:
        if time >= begun + seconds:
            begun, count = time, 0
        count += 1
        assert count <= requests
