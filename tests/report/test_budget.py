"""The page of `report.analysis=budget`: what becomes of differences when the budget changes, and how rarely a flip is false."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.report.folders import write_run, write_sweep
from train.errors import UsageError
from train.report.budget import check
from train.report.contracts import Sample
from train.report.make import make_report
from train.report.options import ReportOptions
from train.report.statistics.budgets import BudgetCurve, budget_curves
from train.store.manifest import Manifest
from train.text import MINUS

OPTIONS = ReportOptions(analysis="budget")


def around(mean: float, runs: int = 5, sd: float = 0.002) -> list[float]:
    """Return values of this mean and standard deviation."""
    values = np.linspace(-1, 1, runs)
    return [float(value) for value in mean + sd * values / values.std(ddof=1)]


def curve(differences: Sequence[float], sd: float = 0.002, lost: int = 0) -> BudgetCurve:
    baseline = [Sample("a", tuple(around(0.8, sd=sd))) for _ in differences]
    treated = [Sample("b", tuple(around(0.8 + d, sd=sd)), untrained=lost if not n else 0) for n, d in enumerate(differences)]
    (found,) = budget_curves({"a": baseline, "b": treated})
    return found


@pytest.mark.parametrize(
    ("differences", "sd", "lost", "pattern"),
    [
        ((-0.02, 0.0, 0.02), 0.002, 0, "flips"),
        ((0.02, -0.02), 0.002, 0, "flips"),
        ((0.02, 0.03, 0.02), 0.002, 0, "holds"),
        ((-0.02, -0.01), 0.002, 0, "holds"),
        ((0.0001, 0.0, -0.0001), 0.0005, 0, "equivalent"),
        ((0.0, 0.0, 0.02), 0.002, 0, "changes"),
        ((0.006, 0.004, 0.003), 0.002, 0, "in part"),
        ((0.0, 0.001, 0.002), 0.01, 0, "undecided"),
        ((-0.02, 0.02), 0.002, 1, "not comparable"),
        ((-0.02, 0.02, 0.02), 0.002, 1, "in part"),
        ((0.02, 0.02), 0.0, 0, "not comparable"),
    ],
)
def test_pattern_of_differences(differences: Sequence[float], sd: float, lost: int, pattern: str) -> None:
    assert curve(differences, sd, lost).pattern(0.005) == pattern


def test_change_is_the_last_difference_minus_the_first() -> None:
    found = curve((-0.02, 0.01, 0.03))
    assert found.change is not None
    assert found.change.difference == pytest.approx(0.05)
    assert found.change.low is not None
    assert found.change.low > 0.03
    assert [point and round(point.difference, 6) for point in found.points] == [-0.02, 0.01, 0.03]


@pytest.mark.parametrize("sweeps", [100, pytest.param(2_000, marks=pytest.mark.long)])
def test_flips_are_rarely_false_and_all_intervals_cover(sweeps: int) -> None:
    """Two arms that never differ, or that differ more and more, at four budgets, with a spread that falls."""
    generator, false, missed = np.random.default_rng(0), 0, 0
    truth = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    for _ in range(sweeps):
        values = truth[:, :, None] + generator.standard_normal((3, 4, 5)) * np.array([2.0, 1.0, 1.0, 0.5])[:, None]
        cells = {name: [Sample(name, tuple(map(float, v))) for v in rows] for name, rows in zip("abc", values, strict=True)}
        curves = budget_curves(cells)
        false += any(found.pattern(None) == "flips" for found in curves)
        effects = [(p, t) for found, row in zip(curves, truth[1:], strict=True) for p, t in zip(found.points, row, strict=True)]
        effects += [(found.change, row[-1] - row[0]) for found, row in zip(curves, truth[1:], strict=True)]
        missed += any(not (e and e.low is not None and e.high is not None and e.low <= t <= e.high) for e, t in effects)
    assert false <= stats.binom.ppf(0.999, sweeps, 0.05)
    assert missed <= stats.binom.ppf(0.999, sweeps, 0.05)


def write_study(folder: Path, means: Mapping[str, Sequence[float]], axis: str, levels: Sequence[str], sd: float = 0.002) -> Path:
    arms = {
        (f"augment={name}", f"{axis}={level}"): around(mean, sd=sd)
        for name, row in means.items()
        for level, mean in zip(levels, row, strict=True)
    }
    return write_sweep(folder, arms)


def test_page_says_that_the_order_flips(tmp_path: Path) -> None:
    means = {"none": (0.80, 0.82, 0.83), "flip": (0.78, 0.82, 0.85), "crop": (0.79, 0.81, 0.82)}
    folder = write_study(tmp_path / "s", means, "trainer.epochs", ("2", "6", "10"))
    _, shown = make_report([folder], tmp_path / "out", OPTIONS)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "augment=flip: against augment=none, from 2 epochs to 10 epochs" in shown
    assert f"flips: The order flips: worse at 2 epochs, {MINUS}2.0" in shown
    assert "but better at 10 epochs, +2.0" in shown
    assert f"holds: Worse at every budget, from {MINUS}1.0" in shown
    assert (tmp_path / "out" / "figures" / "budget.svg").exists()
    assert "| difference, points | 95 % CI, jointly | adjusted p |\n|---|---|--:|" in page
    assert "|\n| augment=none | 6 epochs | 5 of 5 | 82.00 |" in page
    assert len((tmp_path / "out" / "budget.csv").read_text().splitlines()) == 10


def test_budget_may_be_a_share_of_the_data(tmp_path: Path) -> None:
    means = {"none": (0.70, 0.80), "flip": (0.75, 0.80)}
    folder = write_study(tmp_path / "s", means, "data.train_fraction", ("0.1", "1.0"))
    _, shown = make_report([folder], tmp_path / "out", OPTIONS)
    assert "from 10 % of the training images to 100 % of the training images" in shown
    assert "depends on the budget: From 10 % of the training images" in shown


def test_page_names_what_runs_differ_in_besides_their_settings(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"none": (0.70, 0.80), "flip": (0.75, 0.80)}, "trainer.epochs", ("2", "6"))
    for run in folder.glob("augment=flip,*"):
        status = json.loads((run / "status.json").read_text())
        (run / "status.json").write_text(json.dumps(status | {"git": {"commit": "fedcba9876543210"}}))
    make_report([folder], tmp_path / "out", ReportOptions(analysis="budget", metric="loss/test"))
    page = (tmp_path / "out" / "report.md").read_text()
    assert "**serious:** Runs differ in versions of the code" in page
    assert "The report does not follow the plan: the metric is loss/test, not accuracy/test" in page


def test_page_says_how_levels_were_chosen(tmp_path: Path) -> None:
    arms = {
        (f"augment={name}", f"trainer.epochs={epochs}", f"optimizer.lr={rate}"): around(0.8, runs=2)
        for name in ("none", "flip")
        for epochs in (2, 6)
        for rate in (0.1, 0.3)
    }
    make_report([write_sweep(tmp_path / "s", arms)], tmp_path / "out", replace(OPTIONS, tune=("optimizer.lr",)))
    page = (tmp_path / "out" / "report.md").read_text()
    assert "all intervals hold jointly. Tuned for every arm, and not compared as a factor: optimizer.lr." in page
    assert "Tuning took 16 runs" in page


def test_runs_without_budgets_are_one_message(tmp_path: Path) -> None:
    for seed in range(2):
        for norm in ("none", "batch"):
            write_run(tmp_path / "s" / f"{norm}{seed}", [f"norm={norm}", f"seed={seed}"], 0.8 + seed / 100, records=2, layers=1)
    with pytest.raises(UsageError, match=r"no budget varies. Give levels to one of trainer\.epochs"):
        make_report([tmp_path / "s"], tmp_path / "out", OPTIONS)


@pytest.mark.parametrize(
    ("axes", "design", "tune", "reason"),
    [
        ({"norm": ("a", "b")}, "grid", (), "no budget varies"),
        ({}, "grid", (), "no budget varies"),
        ({"trainer.epochs": ("1", "2")}, "grid", (), "nothing is compared"),
        ({"trainer.epochs": ("1",), "norm": ("a", "b")}, "grid", (), "no budget varies"),
        ({"trainer.epochs": ("1", "2"), "optimizer.lr": ("1", "2")}, "grid", ("optimizer.lr",), "nothing is compared"),
        ({"trainer.epochs": ("1", "2"), "data.train_fraction": ("1", ".5"), "norm": ("a", "b")}, "grid", (), "both are budgets"),
        ({"trainer.epochs": ("1", "2"), "norm": ("a", "b")}, "one_at_a_time", (), "lacks some of the budgets"),
    ],
)
def test_plan_that_tells_nothing_is_refused(
    axes: dict[str, tuple[str, ...]], design: str, tune: tuple[str, ...], reason: str
) -> None:
    manifest = Manifest((), design, axes, {}, "", (), (), tune=tune)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=reason) as refused:
        check(manifest, {})
    assert "trainer.epochs=2,5,12" in str(refused.value)
