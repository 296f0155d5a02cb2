"""Fixtures for the tests of runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.run import saboteur


@pytest.fixture(autouse=True)
def fresh_saboteur() -> Iterator[None]:
    """Reset the call counts between tests."""
    saboteur.reset()
    yield
    saboteur.reset()
