"""What `report.analysis` names, on the command line, in the plan of a sweep and in `train-report`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.harness import SMALL

Train = Callable[..., "subprocess.CompletedProcess[str]"]


def test_unknown_analysis_is_one_message_that_lists_the_known_ones(train: Train, tmp_path: Path) -> None:
    result = train("-m", "norm=none,batch", "report.analysis=heights", *SMALL)
    assert result.returncode == 2, result.stderr
    assert "report.analysis=heights" in result.stderr
    assert "'arms'" in result.stderr
    assert not (tmp_path / "outputs").exists()
