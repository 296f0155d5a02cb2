"""The fixture that runs `train-report`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import COMMAND

REPORT = COMMAND.with_name("train-report")


@pytest.fixture(scope="session")
def train_report() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command in its own process."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(REPORT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run
