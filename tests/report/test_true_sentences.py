"""Sentences of a page that a hostile reader proved wrong, each with the study that shows it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.folders import write_run, write_sweep
from tests.report.test_claims import BASE, FACTORS, WORDING, StubMetric, arm, claim_of, threats
from train.report import sentence_text, table_text
from train.report.claims import claims_of_grid
from train.report.content import smallest_effect
from train.report.contracts import Conditions, Effect, Facts, Sample, Wording
from train.report.figure_data import draw_all
from train.report.grid_contracts import Cell
from train.report.header import header_fields
from train.report.make import ReportOptions, analyse_folders
from train.report.metric import Metric
from train.report.more_seeds import more_seeds
from train.report.outcome import Outcome, rule
from train.report.statistics.compare import compare
from train.report.statistics.effects import POOLED_NOTE, factorial
from train.report.statistics.threats import find_threats
from train.report.table import main_effects, rows
from train.text import MINUS

ACCURACY, LOSS = Metric("accuracy/test"), Metric("loss/test")


def test_rounding_to_images_is_no_departure_from_normality() -> None:
    """Three runs of which two agree have p = 0 in Shapiro & Wilk's test. On 2,000 images, that happens in 14 % of arms."""
    generator, found = np.random.default_rng(0), 0
    for _ in range(200):
        samples = [Sample(str(k), tuple(np.round(generator.normal(0.85, 0.003, 3) * 2000) / 2000)) for k in range(4)]
        threat = threats(samples).get("non_normality")
        found += threat is not None and threat.severity == "caution"
    assert found / 200 <= 0.08
    assert "non_normality" not in threats([Sample("a", (0.85, 0.85, 0.86)), Sample("b", (0.8, 0.81, 0.81))])


def test_grid_names_the_learning_rates_that_are_compared() -> None:
    """`norm=group` has no arm at the rate 0.2: it is compared at 0.1 alone."""
    levels = [("batch", "0.1"), ("batch", "0.2"), ("group", "0.1")]
    cells = [Cell({"norm": norm, "lr": rate}, arm(f"{norm} {rate}", 0.8 + 0.05 * (norm == "group"))) for norm, rate in levels]
    conditions = tuple(Conditions(f"{norm} {rate}", (float(rate) * 1e4,), (float(rate),)) for norm, rate in levels)
    wording = replace(WORDING, facts=Facts(conditions=conditions, rate_factors=("lr",), budget_factors=("lr",)))
    norm, _ = claims_of_grid(factorial(cells, {"norm": ("batch", "group"), "lr": ("0.1", "0.2")}), cells, wording)
    assert norm.heading == "better"
    assert "at the learning rate 0.1, not tuned per arm" in norm.sentence


def test_smallest_effect_that_would_have_been_found_takes_no_more_seeds() -> None:
    wording = Wording(StubMetric(), smallest_effect=0.01)
    claim = claim_of(arm("norm=batch", 0.805, 0.004), base=arm("norm=none", 0.8, 0.004), wording=wording)
    (level,) = claim.levels
    assert (claim.heading, level.seeds) == ("inconclusive", None)
    assert level.effect.detectable is not None
    assert level.effect.detectable < 0.01
    assert "not above 1.00 percentage points, the default smallest effect of interest: the true difference may be near that" in (
        claim.sentence
    )
    assert "seeds" not in claim.sentence


@pytest.mark.parametrize("runs", [(5, 5), (3, 12), (2, 9)])
def test_number_of_seeds_has_the_power_that_the_sentence_promises(runs: tuple[int, int]) -> None:
    """A thousand sweeps with that many seeds at the measured spread and a true difference of the smallest effect."""
    generator, sd = np.random.default_rng(0), 0.004
    few, many = (sd * (pattern - pattern.mean()) / pattern.std(ddof=1) for pattern in map(np.arange, runs))
    treatment, control = Sample("norm=batch", tuple(0.801 + few)), Sample("norm=none", tuple(0.8 + many))
    (level,) = claim_of(treatment, base=control).levels
    assert level.seeds is not None
    excluded = 0
    for values in generator.normal(0.8, sd, (300, 2, level.seeds)):
        (found,) = compare(Sample("b", tuple(values[0])), [Sample("a", tuple(values[1] + 0.005))])
        excluded += found.excludes_zero
    assert 0.73 <= excluded / 300 <= 0.93, level.seeds


def test_command_for_more_seeds_is_for_all_inconclusive_levels(tmp_path: Path) -> None:
    """One level takes thousands of seeds: a command that serves the other alone would not do what the page says."""
    wide = (0.1, 0.9, 0.5)
    arms = {("norm=none",): (0.790, 0.800, 0.801), ("norm=batch",): (0.795, 0.801, 0.805), ("norm=group",): wide}
    analysis = analyse_folders([write_sweep(tmp_path / "sweep", arms, records=2, layers=1)], ReportOptions())
    assert any("thousands of seeds" in claim.sentence for claim in analysis.claims)
    assert not more_seeds(analysis).commands


@pytest.mark.parametrize("tag", ["lr", "gradient_std/conv1", "images_per_s"])
def test_metric_without_a_direction_has_no_better(tag: str) -> None:
    metric = Metric(tag)
    assert metric.higher_is_better is None
    wording = Wording(replace(StubMetric(), name=tag, is_share=False, higher_is_better=None))
    claim = claim_of(arm("norm=batch", 0.85), wording=wording)
    assert claim.heading == "different"
    assert claim.sentence.startswith(f"norm=batch has a {tag} 0.0500 higher than norm=none")


def test_page_of_a_metric_without_a_direction(tmp_path: Path) -> None:
    arms = {("norm=none",): (0.79, 0.80, 0.82), ("norm=batch",): (0.85, 0.86, 0.88)}
    options = ReportOptions(metric="activation_std/stage0.conv1")
    analysis = analyse_folders([write_sweep(tmp_path / "sweep", arms, records=2, layers=2)], options)
    assert "Neither direction is better by itself." in dict(header_fields(analysis))["Metric"]
    assert {row.probability_better for row in rows(analysis, 9)} == {table_text.UNKNOWN}


@pytest.mark.parametrize("metric", ["accuracy/test", "loss/test"])
def test_baseline_without_a_value_is_not_the_best(tmp_path: Path, metric: str) -> None:
    for norm, accuracies in {"batch": (None, None), "none": (0.8, 0.81), "group": (0.7, 0.71)}.items():
        for seed, accuracy in enumerate(accuracies):
            state = "diverged" if accuracy is None else "done"
            overrides = [f"norm={norm}", f"seed={seed}"]
            write_run(tmp_path / f"{norm}{seed}", overrides, accuracy, state, started=len(norm), records=2, layers=1)
    analysis = analyse_folders([tmp_path], ReportOptions(metric=metric, baseline="norm=batch"))
    assert [arm.levels["norm"] for arm in analysis.ranked] == ["none", "group", "batch"]


def test_difference_is_not_rounded_to_zero() -> None:
    claim = claim_of(Sample("norm=batch", (0.84, 0.86)), base=Sample("norm=none", (0.852, 0.854)))
    assert f"the difference in test accuracy is {MINUS}0.3 percentage points (95 % CI {MINUS}1" in claim.sentence
    loss = Wording(StubMetric("training loss", is_share=False, higher_is_better=False))
    tiny = claim_of(Sample("norm=batch", (2.1e-6, 2.2e-6, 2.3e-6)), base=Sample("norm=none", (1e-7, 2e-7, 3e-7)), wording=loss)
    assert "measured +0.00000200, 95 % CI +0.00000177 to +0.00000223" in tiny.sentence


@pytest.mark.parametrize(
    ("low", "high", "printed"),
    [
        (-0.00499, 0.00504, f"{MINUS}0.50 to +0.504"),
        (0.004996, 0.02, "+0.4996 to +2.0000"),
        (-0.002, 0.005, f"{MINUS}0.20 to +0.50"),
    ],
)
def test_interval_is_printed_on_its_side_of_the_smallest_effect(low: float, high: float, printed: str) -> None:
    effect = Effect((low + high) / 2, low, high)
    decimals = sentence_text.decimals_for(effect, StubMetric(), 0.005)
    ends = [float(part.replace(MINUS, "-")) for part in printed.split(" to ")]
    shown = sentence_text.interval(effect, StubMetric(), decimals, 0.95).removeprefix("95 % CI ").split(" to ")
    for text, end, value in zip(shown, ends, (low, high), strict=True):
        number = float(text.replace(MINUS, "-"))
        assert number == pytest.approx(end, abs=0.01)
        assert (abs(number) > 0.5, abs(number) < 0.5) == (abs(value) > 0.005, abs(value) < 0.005)


def test_table_tells_on_which_side_of_its_limit_a_number_is() -> None:
    assert table_text.interval(ACCURACY, Effect(0.02, 0.00001, 0.05)) == "[+0.001, +5.000]"
    assert table_text.interval(ACCURACY, Effect(0.02, 0.001, 0.05)) == "[+0.10, +5.00]"
    assert table_text.difference(ACCURACY, -0.00001) == "0.00"
    assert table_text.difference(LOSS, 0.0) == "0"
    assert table_text.p_value(0.0496) == "0.04960"
    assert table_text.p_value(0.0502) == "0.05020"
    assert table_text.p_value(0.049) == "0.049"


@pytest.mark.parametrize(("size", "text"), [(0.005, "0.50"), (0.00125, "0.125"), (0.00001, "0.001")])
def test_smallest_effect_is_printed_as_it_was_set(size: float, text: str) -> None:
    assert sentence_text.exact(size, ACCURACY) == text


@pytest.mark.parametrize(
    ("treatment", "base", "note"),
    [
        ((0.9, 0.9), (0.8, 0.8), "the runs of an arm all gave the same value, in both arms"),
        ((0.9,), (0.8, 0.81, 0.82), "the only run of an arm gives no estimate"),
        ((0.9,), (0.8,), "one run per arm gives no estimate"),
    ],
)
def test_reason_for_no_interval_is_the_true_one(treatment: tuple[float, ...], base: tuple[float, ...], note: str) -> None:
    assert note in claim_of(Sample("norm=batch", treatment), base=Sample("norm=none", base)).sentence


def test_losses_of_all_runs_leave_no_mean_to_speak_of() -> None:
    assert "no other run is left to average" in threats([BASE, Sample("a", (), untrained=3)])["untrained_runs"].sentence
    assert "no other run is left to average" in threats([BASE, Sample("a", (), diverged=3)])["diverged_runs"].sentence
    assert "the means cover only the other runs" in threats([BASE, Sample("a", (0.8,), untrained=3)])["untrained_runs"].sentence


def test_certainty_is_not_claimed_at_the_edge() -> None:
    """2,000 of 2,000 images right: their choice moves an accuracy, too; two more right and two more wrong say how much."""
    facts = Facts(test_size=2000)
    assert (
        "their choice alone moves it by 0.07 percentage points" in threats([Sample("a", (1.0, 1.0))], facts)["test_set"].sentence
    )


def test_table_of_tests_is_a_family_of_its_own() -> None:
    found = find_threats([BASE], Facts(), StubMetric(), comparisons=20, tables=3)
    (text,) = (threat.sentence for threat in found if threat.kind == "comparisons")
    assert "correct for this, within each of the 3 tables, within this report only" in text
    assert "at least one in up to 64.2 % of sweeps" in text


def test_grid_counts_all_intervals_of_its_tables(tmp_path: Path) -> None:
    arms = {
        (f"norm={n}", f"init={i}"): (0.8 + 0.01 * len(n), 0.812, 0.83) for n in ("batch", "none") for i in ("kaiming", "xavier")
    }
    analysis = analyse_folders([write_sweep(tmp_path / "sweep", arms, records=2, layers=1)], ReportOptions())
    (text,) = (threat.sentence for threat in analysis.threats if threat.kind == "comparisons")
    assert text.startswith("6 differences are tested"), "2 main effects, 1 interaction, 3 arms"
    assert "within each of the 3 tables" in text


def test_two_arms_of_three_seeds_cannot_contradict_independence() -> None:
    two = [arm("a", 0.8), arm("b", 0.7)]
    three = [replace(sample, values=sample.values[:3], seeds=(0, 1, 2)) for sample in two]
    other = Sample("b", (0.71, 0.69, 0.705), (0, 1, 2))
    assert "do not contradict, and so few could not" in threats([three[0], other])["shared_seeds"].sentence
    assert "and so few could not" not in threats(two)["shared_seeds"].sentence


def test_hundreds_of_seeds_are_counted_without_overflow() -> None:
    draws = random.Random(0)
    many = [
        Sample(name, tuple(draws.gauss(0.8, 0.01) for _ in range(200)), tuple(range(200))) for name in ("a", "b", "c", "d", "e")
    ]
    sentence = threats(many)["shared_seeds"].sentence
    assert "5 arms, 200 seeds" in sentence
    assert "and so few could not" not in sentence


def test_spread_of_a_single_run_of_a_grid_is_an_assumption() -> None:
    cells = [Cell({"init": i, "norm": n}, arm(f"{i} {n}", 0.8)) for i in FACTORS["init"] for n in FACTORS["norm"]]
    cells[0] = Cell(cells[0].levels, Sample("single", (0.8,)))
    assert POOLED_NOTE in factorial(cells, FACTORS).notes
    assert POOLED_NOTE not in factorial(cells[1:], FACTORS).notes


def test_outlier_of_a_loss_is_told_from_the_others() -> None:
    loss = StubMetric("test loss", is_share=False)
    sample = Sample("a", (0.0012, 0.00121, 0.00119, 0.0012, 0.0019), (0, 1, 2, 3, 7))
    (text,) = (t.sentence for t in find_threats([sample], Facts(), loss, comparisons=1) if t.kind == "outlier_seed")
    assert "seed 7: 0.001900 lies far from the other runs of the arm (0.001190 to 0.001210)" in text


def test_versions_are_told_apart() -> None:
    conditions = tuple(Conditions(name, versions=("train 1, torch 2", "train 1, torch 3")) for name in "ab")
    text = threats([arm("a", 0.8), arm("b", 0.8)], Facts(conditions=conditions))["versions"].sentence
    assert "(train 1, torch 2; train 1, torch 3), each of which is in every arm" in text


def test_budgets_have_a_unit() -> None:
    unequal = Facts(conditions=(Conditions("norm=none", (20.0,)), Conditions("norm=batch", (80.0,))))
    batch = arm("norm=batch", 0.85)
    assert "the budgets differ (80 against 20), counted in training images" in claim_of(batch, facts=unequal).sentence
    assert "(20 and 80 training images)" in threats([BASE, batch], unequal)["budgets"].sentence


def test_rule_is_that_of_the_metric() -> None:
    trained, untrained = Outcome(trained=True, basis="scores"), Outcome(trained=False, basis="scores")
    assert "on the split of the metric" in rule(ACCURACY, [trained])
    assert "or if its last training loss is below 98 % of guessing's" in rule(Metric("loss/train"), [trained])
    assert "on the test split, or else the validation split" in rule(Metric("lr"), [trained])
    assert "are compared by the means of those that did" in rule(ACCURACY, [trained, untrained])
    assert "are compared by the means" not in rule(ACCURACY, [trained])
    assert rule(ACCURACY, [Outcome(None, "unknown")]) == ""


def test_means_of_not_comparable_arms_are_not_called_significant(tmp_path: Path) -> None:
    for norm, accuracies in {"batch": (0.85, 0.851, 0.852), "none": (0.6, 0.601, None)}.items():
        for seed, accuracy in enumerate(accuracies):
            state = "diverged" if accuracy is None else "done"
            write_run(tmp_path / f"{norm}{seed}", [f"norm={norm}", f"seed={seed}"], accuracy, state, records=2, layers=1)
    analysis = analyse_folders([tmp_path], ReportOptions(baseline="norm=batch"))
    none = next(row for row in rows(analysis, 9) if not row.arm.is_baseline)
    assert none.interval
    assert (none.excludes_zero, none.p) == (False, table_text.UNKNOWN)


def test_smallest_effect_of_the_page(tmp_path: Path) -> None:
    arms = {("norm=none",): (0.79, 0.80, 0.82), ("norm=batch",): (0.85, 0.86, 0.88)}
    folder = write_sweep(tmp_path / "sweep", arms, records=2, layers=1)
    assert smallest_effect(analyse_folders([folder], ReportOptions(smallest_effect=0.00125))) == "0.125 percentage points"
    captions = {figure.name: figure.caption for figure in draw_all(analyse_folders([folder], ReportOptions(metric="loss/test")))}
    assert "Lower is better." in captions["differences"]
    assert "or of those that diverged where none completed" in captions["activation_std"]


def test_main_effect_that_is_not_comparable_has_no_p(tmp_path: Path) -> None:
    """The batch size changes the budget in images."""
    arms = {
        (f"norm={n}", f"trainer.batch_size={b}"): tuple(0.8 + 0.05 * (b == "2") + s for s in (0.0, 0.001, 0.002))
        for n in ("batch", "none")
        for b in ("2", "64")
    }
    analysis = analyse_folders([write_sweep(tmp_path / "sweep", arms, records=2, layers=1)], ReportOptions())
    norm, batch_size = main_effects(analysis)
    assert norm.p != table_text.UNKNOWN
    assert batch_size.interval
    assert (batch_size.p, batch_size.excludes_zero, batch_size.note) == (table_text.UNKNOWN, False, "not comparable")
