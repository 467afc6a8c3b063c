"""core.latency: an average that forgets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_proxy_router.core.latency import Latency

SECONDS = st.floats(0, 100)
#: Pairs of the time since the last answer, and what that answer took.
ANSWERS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=30)


def after(answers):
    latency, now = Latency(), 50.0
    for passed, seconds in answers:
        now += passed
        latency.observe(seconds, now)
    return latency, now


def test_nothing_is_known_before_the_first_answer():
    """Unknown is not zero."""
    assert Latency().at(0.0) is None
    assert Latency().at(1e9) is None


def test_the_first_answer_is_the_average():
    """There is nothing to weigh it against."""
    latency = Latency()
    latency.observe(0.25, 3.0)

    assert latency.at(3.0) == 0.25


def test_a_peak_counts_at_once():
    """However many fast ones came before."""
    latency, now = after([(0.01, 0.05)] * 100)
    latency.observe(2.0, now)

    assert latency.at(now) == 2.0


def test_a_faster_answer_counts_the_more_the_longer_the_last_one_is_ago():
    """After one time constant, 63 %."""
    at_once, later = Latency(), Latency()
    for latency in (at_once, later):
        latency.observe(1.0, 0.0)
    at_once.observe(0.0, 0.0)
    later.observe(0.0, 10.0)

    assert at_once.at(0.0) == 1.0
    assert later.at(10.0) == pytest.approx(math.exp(-1))


def test_it_decays_without_traffic():
    """So that an upstream that was slow is found again."""
    latency = Latency()
    latency.observe(1.0, 0.0)

    assert latency.at(10.0) == pytest.approx(math.exp(-1))
    assert latency.at(20.0) == pytest.approx(math.exp(-2))


def test_it_is_forgotten_after_a_minute():
    """What is left of it then says nothing; and the next answer is as good as the first."""
    latency = Latency()
    latency.observe(1.0, 0.0)

    assert latency.at(59.9) is not None
    assert latency.at(60.0) is None
    latency.observe(0.1, 600.0)
    assert latency.at(600.0) == pytest.approx(0.1)


def test_the_time_constant_can_be_chosen():
    """In seconds."""
    latency = Latency(memory=1.0)
    latency.observe(1.0, 0.0)

    assert latency.at(1.0) == pytest.approx(math.exp(-1))
    assert latency.at(6.0) is None


@given(ANSWERS)
def test_it_lies_between_the_last_answer_and_the_slowest(answers):
    """It is an average, and never better than what was just seen."""
    latency, now = after(answers)
    found = latency.at(now)

    assert found is not None
    slowest = max(seconds for _, seconds in answers)
    assert answers[-1][1] <= found <= slowest * (1 + 1e-9)


@given(ANSWERS, st.lists(SECONDS))
def test_reading_changes_nothing(answers, looks):
    """However often it is looked at."""
    latency, now = after(answers)
    before = latency.at(now)
    for later in looks:
        latency.at(now + later)

    assert latency.at(now) == before


@given(ANSWERS, SECONDS, SECONDS)
def test_it_never_grows_by_itself(answers, soon, later):
    """Only an answer can make it larger."""
    latency, now = after(answers)
    first, second = latency.at(now + soon), latency.at(now + soon + later)

    assert (second or 0.0) <= (first or 0.0)


@given(ANSWERS, SECONDS, SECONDS)
def test_an_answer_that_is_told_late_does_no_harm(answers, late, seconds):
    """Two that end at about the same time may be told in any order."""
    latency, now = after(answers)
    before = latency.at(now)
    latency.observe(seconds, now - late)
    found = latency.at(now)

    assert found is not None
    assert before is not None
    assert found == max(before, seconds)
