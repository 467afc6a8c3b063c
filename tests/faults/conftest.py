"""The fixture that all tests of faults share."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.faults.client", "tests.faults.settling")

from tests.faults.settling import Settled  # noqa: E402 - after its asserts are made to explain


@pytest.fixture
async def settled(caplog):
    """Fail a test after which the process is not as it was before."""
    async for settled in Settled(caplog).watch():
        yield settled
