"""How `make conformance` judges what it finds."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from conformance.compare import DIRECT, ECHO, LATE, Case, Outcome, Results, is_worse
from conformance.suite import SuiteError, find_python2
from conformance.summary import markdown

OK = Outcome("OK", "OK")
NON_STRICT = Outcome("NON-STRICT", "OK")
FAILED = Outcome("FAILED", "OK")
CASE = Case.parse("7.1.5")


def results(direct, echo, proxied, late=None):
    """Return the results of one case, ``None`` for none."""
    runs = {DIRECT: direct, ECHO: echo, LATE: late, "proxy": proxied}
    found: dict[str, Mapping[Case, Outcome]] = {
        name: {CASE: outcome} if outcome else {} for name, outcome in runs.items()
    }
    return Results(found.pop(DIRECT), {"granian": found})


def worse(*arguments):
    return [one.case for one in results(*arguments).differences() if one.is_worse]


@pytest.mark.parametrize(
    ("proxied", "others", "expected"),
    [
        (OK, [OK, OK], False),
        (NON_STRICT, [OK, OK], True),
        (NON_STRICT, [OK, NON_STRICT], False),
        (OK, [FAILED, FAILED], False),
        (FAILED, [NON_STRICT, NON_STRICT], True),
        (Outcome("OK", "WRONG CODE"), [OK, OK], True),
        (Outcome("OK", "WRONG CODE"), [OK, Outcome("OK", "UNCLEAN")], False),
        (Outcome("FAILED", "UNCLEAN"), [FAILED, Outcome("OK", "UNCLEAN")], False),
    ],
)
def test_worse_is_what_ranks_below_the_worst_of_the_others(proxied, others, expected):
    """Messages and the close are judged each for itself."""
    assert is_worse(proxied, others) is expected


def test_a_late_answer_excuses_what_the_suite_allows():
    """An echo that is overtaken by the end of the connection is no fault of the proxy."""
    assert worse(OK, OK, NON_STRICT, NON_STRICT) == []


def test_a_late_answer_excuses_no_failure():
    """An app that fails because it is late does not let the proxy fail."""
    unclean = Outcome("NON-STRICT", "UNCLEAN")

    assert worse(OK, OK, FAILED, FAILED) == [CASE]
    assert worse(OK, OK, unclean, unclean) == [CASE]


def test_a_case_without_an_outcome_is_worse_than_any():
    """A proxy that died or hung is not taken for one that passed."""
    assert worse(FAILED, FAILED, None) == [CASE]


def test_a_run_without_an_outcome_for_each_case_is_incomplete():
    """Nothing can be compared with a run that broke off, so it does not count as equal."""
    assert list(results(None, OK, OK, OK).incomplete()) == ["direct: 0 of 1 cases have an outcome"]
    assert not list(results(OK, OK, OK, OK).incomplete())


def test_an_outcome_that_is_that_of_either_side_is_no_difference():
    """Only what neither the upstream nor the server shows needs an explanation."""
    assert list(results(FAILED, OK, FAILED).differences()) == []
    assert [one.case for one in results(FAILED, OK, NON_STRICT).differences()] == [CASE]


def test_cases_sort_as_numbers():
    """10 comes after 9, and 7.1.5 before 7.10."""
    texts = ["9.1.1", "10.1.1", "7.10", "7.1.5"]

    assert [str(case) for case in sorted(map(Case.parse, texts))] == [
        "7.1.5",
        "7.10",
        "9.1.1",
        "10.1.1",
    ]


def test_the_summary_counts_each_section_and_names_what_is_worse():
    """A reader sees the outcomes of a section in each run, and each case that is worse."""
    text = markdown(results(OK, NON_STRICT, FAILED, OK), 1000)

    assert "without it: 1 of 1 outcomes." in text
    assert "| 7 closing | 1 OK | 1 NON-STRICT | 1 OK | 1 FAILED |" in text
    assert "| 7.1.5 | granian | OK | NON-STRICT | OK | FAILED, **worse** | unknown |" in text


def test_a_python_that_is_not_2_is_refused_with_a_way_out():
    """The suite runs on Python 2.7 only, so the message says how to name one."""
    with pytest.raises(SuiteError, match="PYTHON2=/path/to"):
        find_python2(sys.executable)
