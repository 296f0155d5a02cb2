"""Axes that move together are one factor, with its main effect and its interactions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from tests.report.test_outcome import report
from train.report.grid_contracts import named
from train.report.joined import joined
from train.report.make import ReportOptions, analyse_folders
from train.store.run import find_runs

OPTIONS = ReportOptions(tensorboard=False)
SIZES = {"2": "0.0125", "8": "0.05", "32": "0.2", "64": "0.4"}
JOINED = "trainer.batch_size and optimizer.lr"


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        ([("a", "1", "x"), ("a", "2", "y"), ("b", "1", "x"), ("b", "2", "y")], [("f",), ("g", "h")]),
        ([("a", "1", "x"), ("a", "2", "x"), ("b", "1", "x"), ("b", "2", "x")], [("f",), ("g",)]),  # h is constant
        ([("a", "1", "x"), ("b", "2", "y")], [("f", "g", "h")]),
        ([("a", "1", "x"), ("b", "1", "x"), ("a", "2", "x"), ("a", "1", "y")], [("f",), ("g",), ("h",)]),  # one at a time
        ([("a", "1", "x"), ("a", "2", "x"), ("b", "3", "y"), ("b", "4", "y")], [("f", "g", "h")]),  # nested
        (
            [("a", "1", "x"), ("a", "2", "x"), ("a", "3", "y"), ("b", "1", "x"), ("b", "2", "x"), ("b", "3", "y")],
            [("f",), ("g", "h")],
        ),
        ([("a", "1", "x")], []),
        ([("a", "1", "x"), ("a", "2", "y"), ("b", "1", "y"), ("b", "2", "x")], [("f",), ("g",), ("h",)]),  # a Latin square
    ],
)
def test_factors_join_where_one_determines_the_other(rows, groups):
    assert joined("fgh", [dict(zip("fgh", row, strict=True)) for row in rows]) == tuple(groups)


def test_level_of_joined_factors_names_all_of_them():
    assert named(JOINED, "2 and 0.1") == "trainer.batch_size=2 optimizer.lr=0.1"
    assert named("norm", "batch") == "norm=batch"
    assert named("name", "this and that") == "name=this and that"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Group norm is 1 point worse at batch 64, and 5 points better at batch 2."""
    better = {"2": 0.05, "8": 0.02, "32": 0.0, "64": -0.01}
    arms = {
        (f"norm={norm}", f"trainer.batch_size={size}", f"optimizer.lr={rate}"): tuple(
            0.8 + 0.02 * i + better[size] * (norm == "group") + noise for noise in (-0.002, 0.0, 0.002)
        )
        for norm in ("batch", "group")
        for i, (size, rate) in enumerate(SIZES.items())
    }
    folder = write_sweep(tmp_path_factory.mktemp("joined") / "sweep", arms, records=2, layers=1)
    for run in find_runs([folder]):
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"steps": None}))  # an unknown budget: a real one has equal epochs
    return folder


def test_zipped_axes_give_main_effects_and_interactions(sweep):
    grid = analyse_folders([sweep], OPTIONS).grid
    assert grid is not None
    main = {(effect.factor, effect.level): effect for effect in grid.main}
    assert {factor for factor, _ in main} == {"norm", JOINED}
    norm = main["norm", "group"]
    assert (norm.difference, norm.combinations) == (pytest.approx(0.015), 4)
    assert main[JOINED, "64 and 0.4"].difference == pytest.approx(0.06 - 0.03)
    interaction = next(i for i in grid.interactions if i.second_level == "64 and 0.4")
    assert interaction.difference == pytest.approx(-0.06)
    assert interaction.excludes_zero


def test_page_names_the_levels_of_zipped_axes(sweep):
    page, terminal = report(sweep, OPTIONS)
    assert "norm and trainer.batch_size and optimizer.lr" not in page
    assert "trainer.batch_size=64 optimizer.lr=0.4 has a test accuracy 3.0" in terminal
    assert (
        "the effect of norm=group against norm=batch is 6.00 percentage points lower with trainer.batch_size=64 optimizer.lr=0.4 "
        "than with trainer.batch_size=2 optimizer.lr=0.0125"
    ) in terminal
    assert "not tuned per arm" not in terminal.split(f"{JOINED}:")[1].split("\n\n")[0], "the rate is varied on purpose"


def test_value_that_follows_another_key_is_no_factor_of_its_own(tmp_path):
    """Runs without a plan, whose learning rate was set in proportion to the width."""
    for norm in ("batch", "none"):
        for width, rate in (("8", "0.1"), ("16", "0.2")):
            for seed in range(2):
                overrides = [f"norm={norm}", f"model.width={width}", f"optimizer.lr={rate}", f"seed={seed}"]
                accuracy = 0.7 + 0.1 * (norm == "batch") + 0.01 * seed
                write_run(tmp_path / ",".join(overrides), overrides, accuracy, records=2, layers=1)
    grid = analyse_folders([tmp_path], OPTIONS).grid
    assert grid is not None
    assert {effect.factor for effect in grid.main} == {"norm", "model.width and optimizer.lr"}


def test_repeated_level_of_a_zipped_axis_stays_in_its_factor(tmp_path):
    """The rate is the same at two of three batch sizes: both differ from the baseline in the one factor."""
    arms = {
        (f"trainer.batch_size={size}", f"optimizer.lr={rate}"): (0.8, 0.81)
        for size, rate in (("8", "0.1"), ("16", "0.1"), ("32", "0.2"))
    }
    analysis = analyse_folders([write_sweep(tmp_path / "sweep", arms, records=2, layers=1)], OPTIONS)
    assert [claim.factor for claim in analysis.claims] == [JOINED]
    assert len(analysis.claims[0].levels) == 2
