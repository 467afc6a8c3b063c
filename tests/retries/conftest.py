"""The fixture that all tests of retries share."""

from __future__ import annotations

import pytest

_SHARED = ("tests.faults.client", "tests.faults.settling", "tests.retries.pools")
pytest.register_assert_rewrite(*_SHARED)

from tests.retries.pools import Pools  # noqa: E402 - after its asserts are made to explain


@pytest.fixture
async def pools(caplog):
    """Fail a test after which the process is not as it was before."""
    async for pools in Pools(caplog).watch():
        assert isinstance(pools, Pools)
        yield pools
