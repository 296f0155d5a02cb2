"""The fixture that runs the command `train`, and the marks of tests that run only on request."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import COMMAND

# Torch reads it once, at the first matrix product on a GPU, which may happen in a test without a session.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command `train` in its own process, in an empty folder."""

    def run(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(COMMAND), *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests whose marks mean many minutes, unless -m names these marks."""
    slow_marks = [mark for mark in ("faults", "compiled") if mark not in config.option.markexpr]
    deselected = [item for item in items if any(item.get_closest_marker(mark) for mark in slow_marks)]
    if deselected:
        items[:] = [item for item in items if item not in deselected]
        config.hook.pytest_deselected(items=deselected)
