"""Runs that learned nothing: how they are told, counted and compared, from the files of runs to the page."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.folders import write_run, write_sweep
from tests.report.test_claims import BASE, FACTORS, WORDING, arm, claim_of
from tests.report.test_report import table_rows
from train.report.claims import claims_of_grid
from train.report.contracts import Sample
from train.report.grid_contracts import Cell
from train.report.make import ReportOptions, analyse_folders, make_report
from train.report.statistics.effects import factorial
from train.report.statistics.trained import ALPHA, Guessing, Scores, guessing, is_trained
from train.report.table_text import UNKNOWN
from train.store.run import find_runs

TEN = Guessing(math.log(10), 0.1)
OWN = {"diagnosis": {"kind": "cannot_learn", "finding": "nothing", "statistic": "", "layer": "", "step": None}}
LN10 = math.log(10)
SPLITS = {
    "classes": list("abcdefghij"),
    "splits": {"train": {"images": 9000, "counts": [900] * 10}, "test": {"images": 2000, "counts": [200] * 10}},
}


def test_guessing_is_the_best_constant_prediction():
    equal, unequal = guessing([200] * 10), guessing([90, 0, 10])
    assert equal is not None
    assert unequal is not None
    assert (equal.loss, equal.accuracy) == pytest.approx((LN10, 0.1))
    assert (unequal.loss, unequal.accuracy) == pytest.approx((-0.9 * math.log(0.9) - 0.1 * math.log(0.1), 0.9))
    assert guessing([]) is None
    assert guessing([10, 0]) is None


@pytest.mark.parametrize(
    ("accuracy", "loss", "images", "trained"),
    [
        (0.1, LN10, 2000, False),  # constant
        (0.1, LN10 + 0.001, 2000, False),
        (0.115, LN10, 2000, False),  # 2.2 standard errors
        (0.125, LN10, 2000, True),  # 3.7
        (0.1, LN10 - 0.01, 2000, True),  # n times the gain is 20, more than ln 2000 = 7.6
        (0.1, LN10 - 0.01, 500, False),
        (0.6, 5.0, 2000, True),  # overconfident, not untrained
        (0.6, math.nan, 2000, True),
        (0.1, math.nan, 2000, False),
        (math.nan, 1.0, 2000, True),
        (0.2, math.inf, 2000, True),
        (0.5, 1.0, 2, False),
        (1.0, 0.1, 4, True),
        (0.0, 9.0, 2000, False),
    ],
)
def test_run_trained_if_a_score_is_better_than_guessing(accuracy, loss, images, trained):
    assert is_trained(Scores(accuracy, loss, images), TEN) is trained


def test_frequent_class_alone_is_no_training():
    guess = guessing([900, 100])
    assert guess is not None
    assert not is_trained(Scores(0.9, guess.loss, 1000), guess)
    assert is_trained(Scores(0.9, guess.loss - 0.1, 1000), guess), "the loss tells what the accuracy cannot"


def test_run_found_at_chance_needs_a_margin():
    barely = Scores(0.13, 2.29, 2000)
    assert is_trained(barely, TEN)
    assert not is_trained(barely, TEN, at_chance=True)
    assert is_trained(Scores(0.13, 2.2, 2000), TEN, at_chance=True)
    assert is_trained(Scores(0.4, 2.29, 2000), TEN, at_chance=True)


def test_guessing_networks_are_hardly_ever_called_trained():
    """20,000 networks whose predictions have nothing to do with the labels, at the spread that gains most by luck."""
    generator = np.random.default_rng(0)
    guess, found = guessing([1, 1]), 0
    assert guess is not None
    labels = np.arange(50) % 2
    for logits in generator.normal(0, math.sqrt(2 * math.log(2 / ALPHA) / 50), (20_000, 50)):
        loss = float(np.logaddexp(0, np.where(labels, -logits, logits)).mean())
        found += is_trained(Scores(float(((logits > 0) == labels).mean()), loss, 50), guess)
    assert found / 20_000 <= ALPHA


def scores(accuracy: float, loss: float = LN10) -> dict[str, Any]:
    return {"test_accuracy": accuracy, "test_loss": loss}


def with_data(folder: Path, content: Mapping[str, Any] = SPLITS) -> Path:
    """Record the data in all run folders."""
    for run in find_runs([folder]):
        (run / "data.json").write_text(json.dumps(content))
    return folder


def write_arms(folder: Path, arms: Mapping[str, Sequence[float]], content: Mapping[str, Any] = SPLITS, **run: Any) -> Path:
    """Write a run per accuracy; one of 10 % has the loss of guessing."""
    for order, (norm, accuracies) in enumerate(arms.items()):
        for seed, accuracy in enumerate(accuracies):
            result = scores(accuracy, LN10 if accuracy == 0.1 else 1.2 - accuracy)
            overrides = [f"norm={norm}", f"seed={seed}"]
            write_run(folder / f"{norm}{seed}", overrides, accuracy, started=order, summary=result, records=2, layers=1, **run)
    return with_data(folder, content)


OPTIONS = ReportOptions(tensorboard=False, baseline="norm=batch")


def report(folder: Path, options: ReportOptions = OPTIONS) -> tuple[str, str]:
    """Return the page and what the terminal shows."""
    page, terminal = make_report([folder], folder / "out", options)
    return html.unescape(page.read_text()), terminal


def test_means_are_over_runs_that_trained(tmp_path):
    folder = write_arms(tmp_path, {"batch": [0.85, 0.86, 0.87], "none": [0.85, 0.86, 0.1]})
    page, terminal = report(folder)
    rows = table_rows(page)
    assert rows["norm=none"][3] == "85.50 ± 0.50"
    assert rows["norm=none"][9] == "2 of 3 [21, 94] %"
    assert rows["baseline"][9].startswith("3 of 3")
    assert "(2 of 3 trained)" in terminal
    assert "runs  test accuracy, mean +- standard error" in terminal
    assert "norm: not comparable" in terminal
    assert "2 of 3 runs (66.7 %, 95 % CI 21 to 94) with norm=none and 3 of 3 runs" in terminal
    assert "those that trained are a selection" in terminal
    assert "The rates of training do not differ significantly (exact test, p = 1)" in terminal
    assert "Learned nothing: an outcome" in page
    assert "test accuracy 10.00 %" in page
    assert page.count("<circle") == 6, "the strip shows every run"
    trained = [row["trained"] for row in csv.DictReader(io.StringIO((folder / "out" / "results.csv").read_text()))]
    assert (trained.count("true"), trained.count("false")) == (5, 1)


def test_equal_rates_compare_the_runs_that_trained(tmp_path):
    folder = write_arms(tmp_path, {"batch": [0.85, 0.86, 0.1], "none": [0.65, 0.66, 0.1]})
    _, terminal = report(folder)
    assert "worse: norm=none has a test accuracy 20.0 percentage points lower" in terminal
    assert "2 against 2 runs that trained" in terminal


def rates_in(page: Path) -> dict[str, str]:
    """Return name -> rate of the arms in the figure of rates; empty without one."""
    figure = page.parent / "figures" / "rates.svg"
    texts = re.findall(r"<!-- (.*?) -->", figure.read_text()) if figure.exists() else []
    names, details = ([text for text in texts if re.fullmatch(form, text)] for form in (r"\d  .*", r"\d of \d"))
    assert (figure.exists(), bool(names)) == ("figure-rates" in page.read_text(),) * 2
    return {name[3:]: detail for name, detail in zip(names, details, strict=True)}


DRAWN = [
    ("all trained", {"batch": [0.85, 0.86], "none": [0.85, 0.84]}, {}, {}),
    ("one did not", {"batch": [0.85, 0.86], "none": [0.85, 0.1]}, {}, {"norm=batch (baseline)": "2 of 2", "norm=none": "1 of 2"}),
    ("none did", {"batch": [0.1], "none": [0.1]}, {}, {"norm=batch (baseline)": "0 of 1", "norm=none": "0 of 1"}),
    ("diverged", {"batch": [0.85, 0.86], "none": [0.84]}, {"lost": "diverged"},
     {"norm=batch (baseline)": "2 of 2", "norm=none": "1 of 2"}),
    ("failed", {"batch": [0.85, 0.86], "none": [0.84]}, {"lost": "failed"}, {}),
    ("an arm without a result", {"batch": [0.85, 0.1], "none": [0.84]}, {"other": "failed"},
     {"norm=batch (baseline)": "1 of 2", "norm=none": "1 of 1"}),
]  # fmt: skip


@pytest.mark.parametrize(("arms", "more", "rates"), [row[1:] for row in DRAWN], ids=[row[0] for row in DRAWN])
def test_rates_are_drawn_where_a_run_did_not_train(tmp_path: Path, arms, more: Mapping[str, str], rates: Mapping[str, str]):
    folder = write_arms(tmp_path, arms)
    for name, state in more.items():
        write_run(folder / name, ["norm=group" if name == "other" else "norm=none", "seed=9"], None, state, records=2, layers=1)
    page, _ = make_report([folder], folder / "out", OPTIONS)
    assert rates_in(page) == rates


def test_rates_of_divergence_are_drawn_where_nothing_tells_who_trained(tmp_path: Path):
    for seed in range(2):
        write_run(tmp_path / f"batch{seed}", ["norm=batch", f"seed={seed}"], 0.8, records=2, layers=1)
        write_run(tmp_path / f"none{seed}", ["norm=none", f"seed={seed}"], None, "diverged", records=2, layers=1)
    page, _ = make_report([tmp_path], tmp_path / "out", OPTIONS)
    assert rates_in(page) == {"norm=batch (baseline)": "0 of 2", "norm=none": "2 of 2"}
    assert "Runs that diverged, of those with a result" in page.read_text()


def test_unequal_rates_are_the_result(tmp_path):
    folder = write_arms(tmp_path, {"batch": [0.85, 0.86, 0.87, 0.86, 0.85], "none": [0.1] * 5})
    _, terminal = report(folder)
    more = "norm=batch (baseline) trains more often than norm=none (exact test, p = 0.0079)"
    assert f"The rates of training differ significantly: {more}" in terminal
    assert "nan" not in terminal


def test_nothing_learned_anywhere_is_one_sentence(tmp_path):
    folder = write_arms(tmp_path, {"batch": [0.1, 0.1], "none": [0.1, 0.1]})
    write_run(folder / "diverged", ["norm=none", "seed=9"], None, "diverged")
    page, terminal = report(folder)
    sentence = "No run trained: 4 learned nothing, and 1 diverged, so there is nothing to compare."
    assert sentence in terminal.splitlines()
    assert f"<p>{sentence}</p>" in page
    assert "cannot be compared" not in page


def test_runs_of_no_step_learned_nothing(tmp_path):
    for seed, norm in enumerate(("batch", "batch", "none", "none")):
        no_step = {"steps": 0} | scores(0.2)
        write_run(tmp_path / f"{norm}{seed}", [f"norm={norm}", f"seed={seed}"], 0.2, summary=no_step)
    page, terminal = report(tmp_path)
    assert "No run trained: 4 learned nothing" in terminal
    assert "no step was made" in page


@pytest.mark.parametrize(("metric", "trained"), [("accuracy/test", False), ("accuracy/val", True), ("loss/train", True)])
def test_split_of_the_metric_tells(tmp_path, metric, trained):
    """Labels of noise can be fitted, but not predicted; the validation images happen to be among those fitted."""
    result = scores(0.1, 4.0) | {"val_accuracy": 0.9, "val_loss": 0.3, "train_loss": 0.01}
    write_run(tmp_path / "run", [], 0.1, summary=result)
    analysis = analyse_folders([with_data(tmp_path)], ReportOptions(metric=metric))
    assert [outcome.trained for outcome in analysis.outcomes.values()] == [trained]


def outcome_of(tmp_path: Path, result: Mapping[str, Any], **run: Any) -> tuple[bool | None, str]:
    write_run(tmp_path / "run", [], 0.1, summary=result, **run)
    (outcome,) = analyse_folders([tmp_path], ReportOptions()).outcomes.values()
    return outcome.trained, outcome.basis


def test_older_runs_tell_by_their_last_layer_or_not_at_all(tmp_path):
    layers = {"fingerprint": {"init": {"layers": {"conv": {"fan_out": 18}, "head": {"fan_out": 10}}}}}
    assert outcome_of(tmp_path / "a", scores(0.1) | layers) == (False, "equal classes")
    assert outcome_of(tmp_path / "b", scores(0.8, 0.5) | layers) == (True, "equal classes")
    assert outcome_of(tmp_path / "c", scores(0.1)) == (None, "unknown")
    assert outcome_of(tmp_path / "d", scores(0.1), status=OWN) == (False, "diagnosis")
    damaged = {"fingerprint": {"init": {"layers": {"head": {"fan_out": "ten"}}}}}
    assert outcome_of(tmp_path / "e", scores(0.1) | damaged) == (None, "unknown")


@pytest.mark.parametrize(
    "content", [{"splits": []}, {"splits": {"test": {"counts": "ten"}}}, {"splits": {"test": {"counts": []}}}]
)
def test_damaged_data_tell_nothing(tmp_path, content):
    write_run(tmp_path / "run", [], 0.1, summary=scores(0.1))
    with_data(tmp_path, content)
    (outcome,) = analyse_folders([tmp_path], ReportOptions()).outcomes.values()
    assert outcome.trained is None


def test_unknown_outcomes_count_as_trained_and_are_said(tmp_path):
    write_sweep(tmp_path / "sweep", {("norm=batch",): (0.8, 0.81), ("norm=none",): (0.6, 0.61)}, records=2, layers=1)
    page, _ = report(tmp_path / "sweep")
    assert "4 runs did not record the numbers of images of their classes: whether they trained is unknown" in page
    assert table_rows(page)["norm=none"][9] == UNKNOWN


def untrained(name: str, trained: int, total: int) -> Sample:
    return Sample(name, (0.8, 0.81, 0.79, 0.8, 0.8)[:trained], untrained=total - trained)


def test_grid_averages_over_pairs_in_which_all_learned():
    """Without norm, nothing learns at one init, whatever the norm: that pair says nothing about the norm."""
    cells = [Cell({"init": "gaussian", "norm": norm}, untrained(f"gaussian {norm}", 0, 5)) for norm in ("none", "batch")] + [
        Cell({"init": "xavier", "norm": norm}, arm(f"xavier {norm}", mean)) for norm, mean in (("none", 0.8), ("batch", 0.85))
    ]
    grid = factorial(cells, FACTORS)
    init, norm = claims_of_grid(grid, cells, WORDING)
    assert "excluded because 5 of 5 runs learned nothing: init=gaussian norm=none" in grid.notes
    assert norm.heading == "better"
    assert "over 1 of the 2 combinations of the other factors in which every run trained" in norm.sentence
    assert init.heading == "not comparable"
    assert "init=xavier trains more often than init=gaussian (exact test within the combinations" in init.sentence


def test_grid_compares_rates_within_combinations():
    """By hand: with one init 5 of 10 runs trained, all with batch: 2 / 252 on both sides, for two comparisons."""
    counts = {("gaussian", "none"): 0, ("gaussian", "batch"): 5, ("xavier", "none"): 5, ("xavier", "batch"): 5}
    cells = [Cell({"init": i, "norm": n}, untrained(f"{i} {n}", count, 5)) for (i, n), count in counts.items()]
    _, norm = claims_of_grid(factorial(cells, FACTORS), cells, WORDING)
    assert norm.heading == "not comparable"
    assert "norm=batch trains more often than norm=none (exact test within the combinations of the other factors" in norm.sentence
    assert f"p = {4 / 252:.2g}, adjusted for 2 comparisons" in norm.sentence


def test_level_where_neither_side_learned_has_nothing_to_compare():
    claim = claim_of(untrained("norm=batch", 0, 5), base=untrained("norm=none", 0, 5))
    assert claim.heading == "not comparable"
    assert claim.sentence == "norm=batch and norm=none: no run of either trained, so there is nothing to compare."


def test_diverged_runs_did_not_train_either():
    both = claim_of(Sample("norm=batch", (0.8, 0.81), diverged=1, untrained=2), base=BASE)
    assert "2 of 5 runs (40 %, 95 % CI 12 to 77) with norm=batch and 5 of 5 runs" in both.sentence
    assert "norm=none trains more often" not in both.sentence, "p is 0.17"
