"""The command `train-report` as tests start it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import COMMAND

REPORT = COMMAND.with_name("train-report")


@pytest.fixture(scope="session")
def train_report() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in a process of its own."""

    def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(REPORT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return start
