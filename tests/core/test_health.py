"""core.health: one upstream's state, from probes and from what requests meet."""

from __future__ import annotations

from typing import Any

import pytest

from fastapi_proxy_router.core.checks import Ejection, HealthCheck
from fastapi_proxy_router.core.health import Health


def failing(health: Health, now: float, times: int = 1, *, answered: bool = False) -> None:
    """Let requests fail one after the other, and eject it as soon as it says so."""
    for _ in range(times):
        if health.failed(now, trial=health.begin(), answered=answered):
            health.eject(now)


def ejected(now: float = 100.0, **options: Any) -> Health:
    health = Health(Ejection(**{"consecutive": 1, **options}))
    failing(health, now)
    assert health.state == "ejected"
    return health


def back(health: Health, now: float) -> None:
    """Let its trial be answered."""
    health.tick(now)
    health.answered(now, trial=health.begin())
    assert health.state == "healthy"


# --- Probes ---------------------------------------------------------------------------------------


def test_nothing_is_known_before_the_first_probe():
    """It may be used; the first probe decides alone."""
    check = HealthCheck(rise=3, fall=3)
    good, bad = Health(None, check), Health(None, check)
    assert (good.state, good.is_usable) == ("unknown", True)
    good.probed(1.0, ok=True)
    bad.probed(1.0, ok=False)

    assert (good.state, bad.state, bad.is_usable) == ("healthy", "unhealthy", False)


def test_without_checks_it_is_healthy():
    """And probes are not heard."""
    health = Health()
    health.probed(1.0, ok=False)

    assert health.state == "healthy"


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("+--", "unhealthy"),
        ("+-+-+-", "healthy"),
        ("+--+", "unhealthy"),
        ("+--++", "unhealthy"),
        ("+--+++", "healthy"),
        ("+--++-+", "unhealthy"),
    ],
)
def test_it_takes_some_probes_in_a_row(results, state):
    """Two that fail, three that pass; one that says otherwise begins anew."""
    health = Health(None, HealthCheck(rise=3, fall=2))
    for now, result in enumerate(results):
        health.probed(float(now), ok=result == "+")

    assert health.state == state


def test_a_probe_that_fails_says_more_than_an_ejection():
    """It is unhealthy, and its trial may not begin."""
    health = Health(Ejection(consecutive=1), HealthCheck(fall=1))
    failing(health, 100.0)
    health.probed(101.0, ok=False)
    health.tick(200.0)

    assert (health.state, health.is_usable) == ("unhealthy", False)


def test_an_upstream_that_probes_see_come_back_gets_its_trial_at_once():
    """It need not wait for the end of a long ejection."""
    health = Health(Ejection(consecutive=1), HealthCheck(fall=1))
    failing(health, 100.0)
    health.probed(101.0, ok=False)
    health.probed(102.0, ok=True)
    assert (health.state, health.is_usable) == ("half-open", True)

    back(health, 102.0)


def test_a_probe_that_passes_does_not_end_an_ejection():
    """A health endpoint may work where the rest does not."""
    health = Health(Ejection(consecutive=1), HealthCheck())
    health.probed(99.0, ok=True)
    failing(health, 100.0)
    health.probed(101.0, ok=True)

    assert health.state == "ejected"


def test_failures_before_it_was_unhealthy_are_forgotten():
    """It is another process by now."""
    health = Health(Ejection(consecutive=3), HealthCheck(fall=1))
    failing(health, 100.0, 2)
    health.probed(101.0, ok=False)
    health.probed(102.0, ok=True)
    failing(health, 103.0, 2)

    assert health.state == "healthy"


# --- Failures -------------------------------------------------------------------------------------


def test_without_an_ejection_nothing_is_counted():
    """Whatever fails."""
    health = Health()
    failing(health, 100.0, 100)
    health.eject(100.0)

    assert health.state == "healthy"


def test_failures_in_a_row_eject():
    """The fifth, not the fourth."""
    health = Health(Ejection(consecutive=5, rate=None))
    failing(health, 100.0, 4)
    assert health.is_usable
    failing(health, 100.0)

    assert (health.state, health.is_usable) == ("ejected", False)


def test_an_answer_ends_a_row_of_failures_without_one():
    """Also that of an event stream which is never complete."""
    health = Health(Ejection(consecutive=3, rate=None))
    for now in range(100, 200):
        failing(health, float(now), 2)
        health.answered(float(now), trial=health.begin())

    assert health.state == "healthy"


def test_only_a_whole_exchange_ends_a_row_of_those_that_broke_off():
    """Their heads do not."""
    health = Health(Ejection(consecutive=3, rate=None))
    for now in (100.0, 101.0):
        health.answered(now, trial=False)
        failing(health, now, answered=True)
    whole = Health(Ejection(consecutive=3, rate=None))
    for now in (100.0, 101.0, 102.0, 103.0):
        whole.answered(now, trial=False)
        failing(whole, now, answered=True)
        whole.succeeded()
    health.answered(102.0, trial=False)
    failing(health, 102.0, answered=True)

    assert (health.state, whole.state) == ("ejected", "healthy")


@pytest.mark.parametrize(
    ("good", "bad", "state"),
    [(10, 9, "healthy"), (10, 10, "ejected"), (11, 10, "healthy"), (0, 19, "healthy")],
)
def test_a_share_of_failures_ejects(good, bad, state):
    """Half of at least twenty."""
    health = Health(Ejection(consecutive=None, rate=0.5, min_requests=20))
    for _ in range(good):
        health.answered(100.0, trial=False)
    failing(health, 100.0, bad)

    assert health.state == state


def test_the_share_is_that_of_the_window():
    """What is older is forgotten."""
    health = Health(Ejection(consecutive=None, rate=0.5, min_requests=10, window=10.0))
    failing(health, 100.0, 9)
    failing(health, 110.0, 9)

    assert health.state == "healthy"


def test_an_exchange_is_counted_once_in_the_share():
    """One that is answered and breaks off is one failure of one."""
    health = Health(Ejection(consecutive=None, rate=1.0, min_requests=4))
    for _ in range(3):
        health.answered(100.0, trial=False)
        failing(health, 100.0, answered=True)
    assert health.is_usable
    health.answered(100.0, trial=False)
    failing(health, 100.0, answered=True)

    assert health.state == "ejected"


# --- Ejection and trial ---------------------------------------------------------------------------


def test_an_ejection_ends_with_a_trial():
    """At its time, not before."""
    health = ejected(base_time=10.0)
    assert health.next_change(100.0) == 110.0
    health.tick(109.9)
    assert health.state == "ejected"
    health.tick(110.0)

    assert (health.state, health.is_usable, health.is_ejected) == ("half-open", True, True)
    assert health.next_change(110.0) == float("inf")


def test_there_is_one_trial():
    """The next request is none, and the upstream is held."""
    health = ejected()
    health.tick(110.0)

    assert [health.begin(), health.begin()] == [True, False]
    assert health.is_held


def test_a_trial_that_is_answered_brings_it_back():
    """What it had failed before is forgotten."""
    health = Health(Ejection(consecutive=2))
    failing(health, 100.0, 2)
    back(health, 110.0)
    failing(health, 111.0)

    assert (health.state, health.is_held) == ("healthy", False)


def test_a_trial_that_says_nothing_is_given_back():
    """Its client has left; another may be the trial."""
    health = ejected()
    health.tick(110.0)
    health.begin()
    health.ended()

    assert (health.state, health.is_held, health.begin()) == ("half-open", False, True)


def test_each_ejection_takes_twice_as_long_up_to_a_limit():
    """The trial fails each time."""
    health, now, times = ejected(base_time=10.0, max_time=50.0), 100.0, []
    for _ in range(5):
        until = health.next_change(now)
        times.append(until - now)
        now = until
        health.tick(now)
        failing(health, now)

    assert times == [10, 20, 40, 50, 50]
    assert health.ejections == 6


def test_the_time_overflows_nothing():
    """After thousands of ejections."""
    health = ejected(max_time=300.0)
    for now in range(1000, 2_000_000, 1000):
        health.tick(float(now))
        failing(health, float(now))

    assert health.ejected_for(1_999_000.0) == 300.0


@pytest.mark.parametrize(("calm", "expected"), [(5.0, 40.0), (10.0, 20.0), (20.0, 10.0), (1e9, 10)])
def test_one_ejection_is_forgotten_for_every_calm_window(calm, expected):
    """It had two."""
    health = ejected(base_time=10.0, window=10.0)
    health.tick(110.0)
    failing(health, 110.0)
    back(health, 130.0)
    failing(health, 130.0 + calm)

    assert health.ejected_for(130.0 + calm) == expected


def test_an_ejection_without_a_calm_window_is_not_forgotten_by_a_clock_that_goes_back():
    """Nor does it add one."""
    health = ejected(base_time=10.0)
    back(health, 110.0)
    failing(health, 50.0)

    assert health.ejected_for(50.0) == 20.0


def test_what_happens_while_it_is_ejected_does_not_eject_it_again():
    """Requests that are late, and those of a panic."""
    health = ejected()
    failing(health, 105.0, 50)

    assert (health.ejections, health.ejected_for(105.0)) == (1, 5.0)


def test_an_answer_while_it_is_ejected_does_not_bring_it_back():
    """Only that of its trial."""
    health = ejected()
    health.answered(105.0, trial=health.begin())

    assert health.state == "ejected"


def test_the_epoch_changes_when_what_began_before_says_nothing_any_more():
    """It was ejected, or unhealthy to its probes."""
    health = Health(Ejection(consecutive=1), HealthCheck(fall=1))
    health.probed(99.0, ok=True)
    failing(health, 100.0)
    assert health.epoch == 1
    back(health, 110.0)
    assert health.epoch == 1
    health.probed(111.0, ok=False)
    health.probed(112.0, ok=True)

    assert health.epoch == 2


# --- Slow start -----------------------------------------------------------------------------------


def test_a_slow_start_begins_with_a_tenth_and_grows():
    """From the moment that it is back."""
    health = ejected(slow_start=20.0)
    assert health.share(105.0) == 1
    back(health, 110.0)

    shares = [health.share(now) for now in (110.0, 111.0, 115.0, 120.0, 130.0, 999.0)]
    assert shares == [0.1, 0.1, 0.25, 0.5, 1, 1]
    assert health.next_change(110.0) == 111.0
    assert health.next_change(130.0) == float("inf")


def test_an_upstream_that_was_unhealthy_starts_slowly_too():
    """One that is new does not."""
    health = Health(Ejection(slow_start=20.0), HealthCheck(fall=1))
    health.probed(100.0, ok=True)
    assert health.share(100.0) == 1
    health.probed(110.0, ok=False)
    health.probed(120.0, ok=True)

    assert health.share(130.0) == 0.5


def test_there_is_no_slow_start_by_default():
    """It has its whole weight at once."""
    health = ejected()
    back(health, 110.0)

    assert health.share(110.0) == 1
