"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.run import saboteur


@pytest.fixture(autouse=True)
def fresh_saboteur() -> Iterator[None]:
    """No test counts the calls of another."""
    saboteur.reset()
    yield
    saboteur.reset()
