"""The fixture that all tests of bodies share."""

from __future__ import annotations

import pytest

_SHARED = (
    "tests.faults.client",
    "tests.faults.settling",
    "tests.retries.pools",
    "tests.streams.endpoints",
)
pytest.register_assert_rewrite(*_SHARED)

from tests.streams.endpoints import Streams  # noqa: E402 - after its asserts are made to explain


@pytest.fixture
async def streams(caplog):
    """Fail a test after which the process is not as it was before."""
    async for streams in Streams(caplog).watch():
        assert isinstance(streams, Streams)
        yield streams
