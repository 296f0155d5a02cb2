"""Few seeds, and accuracies near 0 and 1: what the page says where spreads are unknown and standard errors say too little."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.report.folders import write_run, write_sweep
from tests.report.test_claims import threats
from tests.report.test_coverage import covers, fewest_covered
from tests.report.test_outcome import report
from tests.report.test_report import table_rows
from train.report.contracts import Facts, Sample
from train.report.grid_contracts import Cell
from train.report.make import ReportOptions
from train.report.metric import Metric
from train.report.statistics.effects import ADDITIVE, ADDITIVE_NOTE, factorial
from train.report.statistics.rates import rate
from train.report.table_text import UNKNOWN, uncertainty
from train.sinks.contracts import Summary
from train.sinks.run_text import summary_rows, wilson_interval

ACCURACY = Metric("accuracy/test")
FACTORS = {"a": ("0", "1", "2"), "b": ("0", "1", "2", "3")}


def additive(generator: np.random.Generator, interaction: float = 0.0) -> list[Cell]:
    """Return a grid of one run per cell, with effects of both factors and an interaction in one cell."""
    return [
        Cell({"a": a, "b": b}, Sample(a + b, (float(int(a) + 10 * int(b) + interaction * (a == b == "2") + generator.normal()),)))
        for a, b in product(*FACTORS.values())
    ]


def test_one_seed_per_combination_is_replicated_by_the_other_factors():
    """The residual variance of the additive model, by hand: the means of rows and columns taken off twice."""
    cells = additive(np.random.default_rng(0))
    grid = factorial(cells, FACTORS)
    table = np.array([cell.sample.values[0] for cell in cells]).reshape(3, 4)
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    effect = next(effect for effect in grid.main if (effect.factor, effect.level) == ("b", "3"))
    assert effect.standard_error == pytest.approx(np.sqrt((rest**2).sum() / 6 * 2 / 3))
    assert (effect.df, effect.note) == (pytest.approx(6), ADDITIVE)
    assert ADDITIVE_NOTE in grid.notes
    assert all(interaction.low is None for interaction in grid.interactions)


@pytest.mark.parametrize("interaction", [0.0, 10.0])
def test_intervals_of_one_seed_per_combination_cover_the_truth(interaction):
    """With an interaction they are too wide, and about the mean over the combinations."""
    generator, covered, sweeps = np.random.default_rng(0), 0, 200
    for _ in range(sweeps):
        main = factorial(additive(generator, interaction), FACTORS).main
        truths = [
            (int(e.level) * (1 if e.factor == "a" else 10)) + interaction * (e.level == "2") / (4 if e.factor == "a" else 3)
            for e in main
        ]
        covered += all(covers(effect, truth) for effect, truth in zip(main, truths, strict=True))
    assert covered >= fewest_covered(sweeps)


def test_page_says_what_one_seed_assumes(tmp_path: Path):
    grid = {(f"init={i}", f"norm={n}"): (0.5 + 0.1 * k + 0.01 * k**2,) for k, (i, n) in enumerate(product("ab", "cd"))}
    names = {"a": "kaiming", "b": "xavier", "c": "batch", "d": "none"}
    arms = {tuple(part[:-1] + names[part[-1]] for part in key): values for key, values in grid.items()}
    folder = write_sweep(tmp_path / "sweep", arms, records=2, layers=1)
    page, terminal = report(folder, ReportOptions(tensorboard=False))
    assert ADDITIVE_NOTE in page
    assert ADDITIVE in terminal
    assert "0.00" not in table_rows(page)["init=kaiming norm=none"][4]
    assert "seeds by an unknown amount" in page


def test_spread_of_one_run_per_arm_is_unknown_not_zero():
    sentence = threats([Sample("a", (0.8,)), Sample("b", (0.7,))], Facts(test_size=2000))["test_set"].sentence
    assert "seeds by an unknown amount" in sentence
    assert "0.00" not in sentence


@pytest.mark.parametrize(
    ("mean", "sd", "runs", "images", "text"),
    [
        (1.0, 0.0, 2, 2, "[34.24, 100.00]"),
        (0.0, 0.0, 3, 100, "[0.00, 3.70]"),
        (0.8, 0.0, 3, 2000, "[78.19, 81.69]"),  # equal runs: their number adds nothing
        (0.999, 0.0005, 5, 2000, "[99.64, 99.97]"),  # two wrong images
        (0.8, 0.01, 4, 2000, "± 0.50"),
        (0.8, float("nan"), 1, 2000, ""),
        (1.0, 0.0, 2, None, "± 0.00"),
    ],
)
def test_mean_near_the_edge_has_an_interval_for_the_images(mean, sd, runs, images, text):
    assert uncertainty(ACCURACY, mean, sd, runs, images) == text


def test_loss_keeps_its_standard_error():
    assert uncertainty(Metric("loss/test"), 0.0, 0.0, 2, 2) == "± 0"


@pytest.mark.parametrize(("count", "total"), [(0, 1), (2, 2), (1, 7), (99, 100), (1999, 2000)])
def test_wilson_interval_is_that_of_scipy(count, total):
    expected = rate(count, total)
    assert wilson_interval(count / total, total) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert stats.binomtest(count, total).proportion_ci(method="wilson").low == pytest.approx(expected.low)


@pytest.mark.parametrize(
    ("accuracy", "examples", "value", "detail"),
    [
        (1.0, 2, "100.00 %", "95 % interval 34.24 to 100.00 % (Wilson), n = 2"),
        (0.0, 2000, "0.00 %", "95 % interval 0.00 to 0.19 % (Wilson), n = 2,000"),
        (0.8, 2000, "80.00 ± 0.89 %", "standard error, n = 2,000"),
    ],
)
def test_summary_of_a_run_near_the_edge(accuracy, examples, value, detail):
    summary = Summary("done", "", Path(), 1, 1.0, 1, 1, test_accuracy=accuracy, test_examples=examples)
    row = next(row for row in summary_rows(summary, 1) if row.label == "test accuracy")
    assert (row.value, row.detail) == (value, detail)


def test_probability_of_being_better_needs_comparable_arms(tmp_path: Path):
    for seed, accuracy in enumerate((0.80, 0.81, 0.82)):
        write_run(tmp_path / f"batch{seed}", ["norm=batch", f"seed={seed}"], accuracy)
        write_run(tmp_path / f"none{seed}", ["norm=none", f"seed={seed}"], accuracy - 0.1, started=1)
        write_run(tmp_path / f"group{seed}", ["norm=group", f"seed={seed}"], accuracy, started=2)
    write_run(tmp_path / "lost", ["norm=group", "seed=9"], None, "diverged", started=2)
    page, _ = report(tmp_path)
    rows = table_rows(page)
    assert rows["norm=none"][8].startswith("0.00 [")
    assert rows["norm=group"][8] == UNKNOWN


def test_arms_of_equal_runs_have_an_interval_not_a_zero(tmp_path: Path):
    for seed in range(2):
        write_run(tmp_path / f"batch{seed}", ["norm=batch", f"seed={seed}"], 1.0, summary={"test_examples": 2})
        write_run(tmp_path / f"none{seed}", ["norm=none", f"seed={seed}"], 0.5, started=1, summary={"test_examples": 2})
    page, terminal = report(tmp_path)
    assert "100.00 [34.24, 100.00]" in table_rows(page)["baseline"][3]
    assert "100.00 [34.24, 100.00] %" in terminal
    assert "+- 0.00" not in terminal
