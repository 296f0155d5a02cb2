"""What a dry run says about power: the spread measured in a folder, and the lines."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
import pytest

from tests.report.folders import write_run
from train.report.metric import Metric
from train.report.power_text import Spread, measured_spread, power_lines
from train.report.statistics.contrasts import detectable, runs_needed

ACCURACY = Metric("accuracy/test")
ARMS = {"norm=none": (0.70, 0.72, 0.77), "norm=batch": (0.80, 0.83), "norm=group": (0.9,)}


def write_arms(folder: Path) -> None:
    for norm, values in ARMS.items():
        for seed, value in enumerate(values):
            write_run(folder / f"{norm}_{seed}", [norm, f"seed={seed}"], value)


def test_measured_spread_pools_completed_runs_of_each_arm(tmp_path: Path) -> None:
    write_arms(tmp_path)
    write_run(tmp_path / "diverged", ["norm=none", "seed=8"], None, "diverged")
    write_run(tmp_path / "interrupted", ["norm=batch", "seed=9"], 0.1, "interrupted")
    first, second = (np.asarray(ARMS[name]) for name in ("norm=none", "norm=batch"))
    expected = np.sqrt((((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum()) / 3)
    spread = measured_spread(tmp_path, ACCURACY)
    assert spread is not None
    assert spread.sd == pytest.approx(expected)
    assert spread.source == f"5 runs of 2 arms in {tmp_path}"


@pytest.mark.parametrize("values", [(), (0.8,), (0.8, 0.8)], ids=["no run", "one run", "equal runs"])
def test_measured_spread_is_unknown_without_runs_that_differ(values: tuple[float, ...], tmp_path: Path) -> None:
    for seed, value in enumerate(values):
        write_run(tmp_path / str(seed), [f"seed={seed}"], value)
    assert measured_spread(tmp_path, ACCURACY) is None
    assert measured_spread(tmp_path / "absent", ACCURACY) is None


@pytest.mark.parametrize(("seeds", "comparisons"), [(5, 1), (4, 3), (30, 7)])
def test_power_lines_show_the_minimum_detectable_effects(seeds: int, comparisons: int) -> None:
    text = list(power_lines(seeds, comparisons, ACCURACY, Spread(0.0062, "sweep.spread"), 0.01))
    columns = [int(cell) for cell in text[1].split()[3:]]
    assert columns == sorted({2, 3, 5, 10, 20, seeds})
    for line, sd in ((text[2], 1.0), (text[3], 0.62)):
        shown = [float(cell) for cell in line.split()[2:]]
        assert shown == [ceil(10 * detectable(sd, count, comparisons)) / 10 for count in columns]
    assert text[0].startswith(f"power  {seeds} seeds detect a difference of {text[2].split()[2 + columns.index(seeds)]} standard")
    needed = runs_needed(0.01, 0.0062, comparisons)
    assert text[-1].endswith(f"a difference of 1.0 percentage points (report.smallest_effect) needs {needed} seeds per arm")


@pytest.mark.parametrize(("sd", "shown"), [(0.0062, "0.62"), (0.0371, "3.71"), (0.00004, "0.004")])
def test_power_lines_show_the_spread_and_its_source(sd: float, shown: str) -> None:
    text = "\n".join(power_lines(5, 1, ACCURACY, Spread(sd, "6 runs of 3 arms in folder"), None))
    assert f"at a standard deviation of {shown}" in text
    assert "between seeds (6 runs of 3 arms in folder)" in text
    assert "a difference of 0.5 percentage points" in text


def test_power_lines_without_a_spread_are_in_standard_deviations() -> None:
    text = list(power_lines(5, 1, ACCURACY, None, None))
    assert len(text) == 4
    assert text[-1].strip() == "in percentage points: set sweep.spread to the expected standard deviation between seeds"


def test_power_lines_of_another_metric_are_in_its_unit() -> None:
    text = "\n".join(power_lines(5, 1, Metric("loss/test"), Spread(0.02, "sweep.spread"), 1e-9))
    assert "percentage" not in text
    assert "\n       test loss  " in text
    assert "needs thousands of seeds per arm" in text


def test_power_lines_of_one_seed_or_one_arm() -> None:
    assert "one seed detects nothing" in next(power_lines(1, 3, ACCURACY, None, None))
    assert not list(power_lines(5, 0, ACCURACY, None, None))
