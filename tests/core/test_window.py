"""core.window: counts over the last seconds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_proxy_router.core.window import Window

EVENTS = st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=60)


@settings(derandomize=True, deadline=None)
@given(EVENTS, st.floats(0, 12))
def test_it_counts_at_least_nine_tenths_and_at_most_all(events, rest):
    """What lies in between is forgotten by tenths."""
    window, now, times = Window(10.0), 50.0, []
    for seconds, marked in events:
        now += seconds
        window.add(now, marked=int(marked))
        times.append((now, marked))
    now += rest
    total, marked = window.counts(now)

    for count, kept in ((total, times), (marked, [each for each in times if each[1]])):
        surely = sum(now - time < 9 for time, _ in kept)
        perhaps = sum(now - time <= 10 for time, _ in kept)
        assert surely <= count <= perhaps


def test_what_was_counted_can_be_marked_later():
    """It is not counted again."""
    window = Window(10.0)
    window.add(1.0)
    window.add(2.0, total=0, marked=1)

    assert window.counts(2.0) == (1, 1)


def test_it_can_be_cleared():
    """Nothing is left, and nothing is subtracted later."""
    window = Window(10.0)
    window.add(1.0, marked=1)
    window.clear()

    assert window.counts(100.0) == (0, 0)


def test_a_clock_that_goes_back_is_counted_to_the_last_tenth():
    """Nothing is lost and nothing raises."""
    window = Window(10.0)
    window.add(100.0)
    window.add(50.0)

    assert window.counts(50.0) == (2, 0)
    assert window.counts(1e12) == (0, 0)
