"""What the end of a sweep says."""

from pathlib import Path

import pytest

from tests.report.folders import write_sweep
from train.report.options import ReportOptions
from train.store.manifest import read_manifest
from train.sweep.conclude import MOST_SELECTED, conclude


@pytest.mark.parametrize("seeds", [MOST_SELECTED // 2, MOST_SELECTED // 2 + 1])
def test_many_runs_end_with_how_to_see_the_arms_alone(seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracies = [0.5 + 0.01 * seed for seed in range(seeds)]
    folder = write_sweep(tmp_path / "sweep", {("norm=none",): accuracies, ("norm=batch",): accuracies}, records=2)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert conclude(folder, manifest.runs, "train -m norm=none,batch", ReportOptions(tensorboard=True)) == 0
    printed = capsys.readouterr().out
    assert ("type summary above their list" in printed) == (2 * seeds > MOST_SELECTED)
    assert len([path for path in (folder / "summary").iterdir() if path.is_dir()]) == 2
