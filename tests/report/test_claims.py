"""Claims and threats: verdicts, and the sentences that state them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from train.report.claims import claims_of_arms, claims_of_grid
from train.report.contracts import Claim, Conditions, Facts, Sample, Threat, Wording
from train.report.grid_contracts import Cell
from train.report.statistics.compare import compare
from train.report.statistics.effects import factorial
from train.report.statistics.threats import find_threats
from train.text import MINUS

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class StubMetric:
    name: str = "test accuracy"
    is_share: bool = True
    higher_is_better: bool = True


WORDING = Wording(StubMetric())
PATTERN = np.array([-1.2, -0.5, 0.1, 0.4, 1.2])


def arm(name: str, mean: float, sd: float = 0.002, **counts: int) -> Sample:
    """Return five runs with exactly this mean and standard deviation."""
    return Sample(name, tuple(mean + sd * (PATTERN - PATTERN.mean()) / PATTERN.std(ddof=1)), (0, 1, 2, 3, 4), **counts)


BASE = arm("norm=none", 0.80)


def claim_of(*treatments: Sample, base: Sample = BASE, facts: Facts | None = None, wording: Wording = WORDING) -> Claim:
    control, *arms = (with_id(sample) for sample in (base, *treatments))
    comparisons = {comparison.arm: comparison for comparison in compare(control, arms)}
    samples = {sample.arm: sample for sample in (control, *arms)}
    wording = replace(wording, facts=labelled(facts or Facts(), (base, *treatments)))
    (claim,) = claims_of_arms({"norm": [sample.arm for sample in arms]}, comparisons, samples, control.arm, wording)
    assert "id of" not in claim.sentence
    return claim


def with_id(sample: Sample) -> Sample:
    """Return the sample under an id that differs from its name, which only sentences use."""
    return replace(sample, arm=f"id of {sample.arm}")


def labelled(facts: Facts, samples: Sequence[Sample]) -> Facts:
    """Return the facts with the names of the samples' ids, and with their conditions under these ids."""
    conditions = tuple(replace(item, arm=f"id of {item.arm}") for item in facts.conditions)
    return replace(facts, labels={with_id(sample).arm: sample.arm for sample in samples}, conditions=conditions)


def test_claim_is_better_or_worse_when_interval_excludes_zero() -> None:
    claim = claim_of(arm("norm=batch", 0.85))
    assert claim.heading == "better"
    # Welch by hand: the standard error is .2 * sqrt(2/5) = .1265 points, t at 8 degrees of freedom 2.306: +-.29
    assert claim.sentence == (
        "norm=batch has a test accuracy 5.00 percentage points higher than norm=none "
        "(95 % CI +4.71 to +5.29, 5 against 5 runs, Welch)."
    )
    worse = claim_of(arm("norm=batch", 0.75))
    assert worse.heading == "worse"
    assert "lower than norm=none" in worse.sentence


def test_claim_bounds_the_effect_when_interval_is_narrow() -> None:
    claim = claim_of(arm("norm=batch", 0.801))
    assert claim.heading == "equivalent"
    assert claim.sentence.startswith(
        "norm=batch against norm=none: no difference in test accuracy larger than 0.40 percentage points"
    )
    assert "within 0.50 percentage points, the default smallest effect of interest" in claim.sentence
    assert f"measured +0.10, 95 % CI {MINUS}0.19 to +0.39" in claim.sentence  # the bound is .39168: rounded up, never down


def test_inconclusive_claim_gives_minimum_detectable_effect() -> None:
    claim = claim_of(arm("norm=batch", 0.81, 0.02), base=arm("norm=none", 0.80, 0.02))
    assert claim.heading == "inconclusive"
    (level,) = claim.levels
    # two groups of 5 at 80 % power: 2.02 standard deviations, by any power calculator
    assert level.effect.detectable == pytest.approx(2.02 * 0.02, rel=0.01)
    assert "the minimum detectable effect is 4.1 percentage points (80 % power)" in claim.sentence
    # two groups, 80 % power: n = 2 (1.96 + .84)^2 (.02 / .005)^2 = 251 by the normal approximation
    assert level.seeds == pytest.approx(252, abs=2)
    assert f"takes about {level.seeds} seeds per arm" in claim.sentence


def test_smallest_effect_separates_equivalent_from_inconclusive() -> None:
    batch = arm("norm=batch", 0.801)
    assert claim_of(batch, wording=Wording(StubMetric(), smallest_effect=0.003)).heading == "inconclusive"
    assert claim_of(batch, wording=Wording(StubMetric(), smallest_effect=0.005)).heading == "equivalent"
    tiny = claim_of(arm("norm=batch", 0.802, 0.0005), base=arm("norm=none", 0.80, 0.0005))
    assert tiny.heading == "equivalent", "the interval excludes 0, but no effect in it matters"
    small = claim_of(arm("norm=batch", 0.806), wording=Wording(StubMetric(), is_default=False))
    assert small.heading == "better"
    assert (
        "possibly too small to matter: it may be below 0.50 percentage points, the smallest effect of interest" in small.sentence
    )
    assert "too small" not in claim_of(arm("norm=batch", 0.81)).sentence


@pytest.mark.parametrize(("side", "rates"), [("arm", ("2 of 7", "0 of 5")), ("base", ("0 of 5", "2 of 7"))])
def test_divergence_on_either_side_is_not_comparable(side: str, rates: tuple[str, str]) -> None:
    base = arm("norm=none", 0.80, diverged=2 if side == "base" else 0)
    claim = claim_of(arm("norm=batch", 0.85, diverged=2 if side == "arm" else 0), base=base)
    assert claim.heading == "not comparable"
    assert f"{rates[0]} runs" in claim.sentence
    assert f"{rates[1]} runs" in claim.sentence
    assert "2 of 7 runs (28.6 %, 95 % CI 8 to 64)" in claim.sentence
    assert "which supports no claim" in claim.sentence


def test_claim_of_an_arm_whose_runs_all_diverged() -> None:
    claim = claim_of(Sample("norm=batch", (), diverged=5))
    assert claim.heading == "not comparable"
    assert "5 of 5 runs (100 %" in claim.sentence
    assert "nan" not in claim.sentence


def test_claim_tests_difference_of_divergence_rates() -> None:
    all_diverged = claim_of(Sample("norm=batch", (), diverged=5))
    # Fisher's exact test by hand: one of the C(10, 5) = 252 ways, and its mirror image
    assert all_diverged.sentence.endswith("norm=batch diverges more often than norm=none (exact test, p = 0.0079).")
    few = claim_of(arm("norm=batch", 0.85, diverged=2))
    assert "The divergence rates do not differ significantly (exact test, p = 0.47)." in few.sentence
    baseline_diverged = claim_of(arm("norm=batch", 0.85), base=Sample("norm=none", (), diverged=5))
    assert "norm=none diverges more often than norm=batch" in baseline_diverged.sentence
    several = claim_of(Sample("norm=batch", (), diverged=5), arm("norm=group", 0.80))
    assert "p = 0.016, adjusted for 2 comparisons" in several.sentence
    chosen = claim_of(Sample("norm=batch", (), diverged=5), facts=Facts(tuned=True))
    assert "exact test" not in chosen.sentence, "chosen levels lost the fewest runs"
    assert "the level chosen for each arm" in chosen.sentence
    both = claim_of(arm("norm=batch", 0.85, diverged=2), base=arm("norm=none", 0.80, diverged=2))
    assert "exact test" not in both.sentence


def test_failed_runs_and_unequal_budgets_are_not_comparable() -> None:
    batch = arm("norm=batch", 0.85)
    assert "1 run with norm=batch failed" in claim_of(arm("norm=batch", 0.85, failed=1)).sentence
    unequal = Facts(conditions=(Conditions("norm=none", budgets=(1000.0,)), Conditions("norm=batch", budgets=(2000.0,))))
    claim = claim_of(batch, facts=unequal)
    assert claim.heading == "not comparable"
    assert "the budgets differ (2,000 against 1,000)" in claim.sentence
    intended = replace(unequal, budget_factors=("norm",))
    assert claim_of(batch, facts=intended).heading == "better"


def test_missing_runs_do_not_prevent_a_claim() -> None:
    assert claim_of(arm("norm=batch", 0.85, missing=3)).heading == "better"


@pytest.mark.parametrize(
    ("rates", "tuned", "text"),
    [
        (((0.2,), (0.2,)), (), "at the learning rate 0.2, not tuned per arm"),
        (((0.2,), (0.1,)), (), "with the learning rate changed as well (0.1 against 0.2)"),
        (((0.2,), (0.1,)), (0.1, 0.2), "with the learning rate tuned for every arm over 0.1 and 0.2"),
    ],
)
def test_claim_states_the_learning_rate(rates: Sequence[tuple[float, ...]], tuned: tuple[float, ...], text: str) -> None:
    conditions = tuple(
        Conditions(name, learning_rates=values) for name, values in zip(("norm=none", "norm=batch"), rates, strict=True)
    )
    claim = claim_of(arm("norm=batch", 0.85), facts=Facts(conditions=conditions, tuned_over=tuned))
    assert claim.heading == "better"
    assert text in claim.sentence


def test_claim_needs_more_than_one_run_per_arm() -> None:
    claim = claim_of(Sample("norm=batch", (0.9,)), base=Sample("norm=none", (0.5,)))
    assert claim.heading == "inconclusive"
    assert "no conclusion about test accuracy from 1 against 1 run" in claim.sentence


def test_claim_has_a_sentence_for_every_level() -> None:
    claim = claim_of(arm("norm=batch", 0.85), arm("norm=layer", 0.80), Sample("norm=group", (), diverged=5))
    assert claim.heading == "1 better, 1 equivalent, 1 not comparable"
    assert [level.verdict for level in claim.levels] == ["better", "equivalent", "not_comparable"]
    assert all(level.sentence in claim.sentence for level in claim.levels)


def test_claim_keeps_the_unit_of_other_metrics() -> None:
    loss = Wording(StubMetric("test loss", is_share=False, higher_is_better=False))
    claim = claim_of(arm("norm=batch", 0.5), wording=loss)
    assert claim.heading == "better", "a lower loss"
    assert claim.sentence.startswith(
        f"norm=batch has a test loss 0.3000 lower than norm=none (95 % CI {MINUS}0.3029 to {MINUS}0.2971"
    )


def grid(no_norm_gaussian: Sample) -> list[Cell]:
    means = {("xavier", "none"): 0.80, ("gaussian", "batch"): 0.85, ("xavier", "batch"): 0.85}
    rest = [Cell({"init": i, "norm": n}, arm(f"init={i} norm={n}", mean)) for (i, n), mean in means.items()]
    return [Cell({"init": "gaussian", "norm": "none"}, no_norm_gaussian), *rest]


FACTORS = {"init": ("gaussian", "xavier"), "norm": ("none", "batch")}


def test_claims_of_grid_are_by_factor_and_name_interactions() -> None:
    cells = grid(arm("init=gaussian norm=none", 0.60))
    init, norm = claims_of_grid(factorial(cells, FACTORS), cells, WORDING)
    assert (init.factor, init.heading, norm.heading) == ("init", "better", "better")
    assert init.sentence.startswith("init=xavier has a test accuracy 10.00 percentage points higher than init=gaussian")
    assert "10 against 10 runs, Welch, over 2 combinations of the other factors" in init.sentence
    assert (
        "Interaction with norm: the effect of init=xavier against init=gaussian is 20.00 percentage points lower" in init.sentence
    )
    assert "Interaction with init" in norm.sentence


def test_claims_of_grid_with_diverged_cell_are_not_comparable() -> None:
    cells = grid(Sample("init=gaussian norm=none", (), diverged=5))
    for claim in claims_of_grid(factorial(cells, FACTORS), cells, WORDING):
        assert claim.heading == "not comparable"
        assert "5 of 10 runs (50 %" in claim.sentence
        assert "over 1 of the 2 combinations" in claim.sentence


def test_grid_compares_divergence_within_combinations() -> None:
    """The init explains most of the divergence; a test of the sums alone (6 of 15 against 0 of 15) gives p = 0.051."""
    counts = {("gaussian", "none"): 0, ("xavier", "none"): 1, ("kaiming", "none"): 5}
    cells = [
        Cell({"init": init, "norm": norm}, arm(f"init={init} norm={norm}", 0.8))
        if not (diverged := counts.get((init, norm), 0))
        else Cell({"init": init, "norm": norm}, Sample(f"init={init} norm={norm}", (0.8,) * (5 - diverged), diverged=diverged))
        for init in ("gaussian", "xavier", "kaiming")
        for norm in ("none", "batch")
    ]
    factors = {"init": ("gaussian", "xavier", "kaiming"), "norm": ("none", "batch")}
    init, norm = claims_of_grid(factorial(cells, factors), cells, WORDING)
    # By hand: 1 / 2 in xavier times 1 / 252 in kaiming, on both sides, for three comparisons
    assert f"p = {3 * 2 / 2 / 252:.2g}, adjusted for 3 comparisons" in norm.sentence
    assert "norm=none diverges more often than norm=batch (exact test within the combinations" in norm.sentence
    assert "init=kaiming diverges more often than init=gaussian" in init.sentence
    assert norm.heading == "not comparable"


def test_grid_names_side_diverging_more_within_combinations() -> None:
    """Overall, 28 of 50 runs diverged with batch and 26 of 50 with none, but in either combination none diverges more often."""
    counts = {("xavier", "none"): (10, 10), ("xavier", "batch"): (28, 40)}
    counts |= {("kaiming", "none"): (16, 40), ("kaiming", "batch"): (0, 10)}
    cells = [
        Cell({"init": init, "norm": norm}, Sample(f"{init} {norm}", (0.8,) * (total - diverged), diverged=diverged))
        for (init, norm), (diverged, total) in counts.items()
    ]
    grid = factorial(cells, {"init": ("xavier", "kaiming"), "norm": ("none", "batch")})
    norm = claims_of_grid(grid, cells, WORDING)[1]
    assert "norm=none diverges more often than norm=batch" in norm.sentence


def test_claims_of_grid_count_all_arms_of_a_cell() -> None:
    levels = [{"init": init, "norm": norm} for init in ("xavier", "kaiming") for norm in ("none", "batch")]
    cells = [Cell(cell_levels, arm(" ".join(cell_levels.values()), 0.8)) for cell_levels in levels]
    diverged = Cell(levels[-1], Sample("with other constants", (), diverged=5))
    for grid_cells in ([diverged, *cells], [*cells, diverged]):
        claims = claims_of_grid(
            factorial(grid_cells, {"init": ("xavier", "kaiming"), "norm": ("none", "batch")}), grid_cells, WORDING
        )
        assert [claim.heading for claim in claims] == ["not comparable"] * 2


def threats(samples: Sequence[Sample], facts: Facts | None = None, comparisons: int = 1) -> dict[str, Threat]:
    facts = labelled(facts or Facts(), samples)
    found = find_threats(list(map(with_id, samples)), facts, StubMetric(), comparisons=comparisons)
    assert not any("id of" in threat.sentence for threat in found)
    return {threat.kind: threat for threat in found}


def test_find_threats_of_a_typical_sweep_are_notes() -> None:
    generator = np.random.default_rng(0)
    samples = [Sample(str(k), tuple(generator.normal(0.8, 0.002, 5)), (0, 1, 2, 3, 4)) for k in range(4)]
    assert set(threats(samples)) <= {"non_normality", "shared_seeds", "comparisons"}
    assert all(threat.severity == "note" for threat in threats(samples).values())


@pytest.mark.parametrize(
    ("kind", "samples", "text"),
    [
        ("diverged_runs", [arm("a", 0.8, diverged=2)], "2 runs diverged (2 of a)"),
        ("failed_runs", [arm("a", 0.8, failed=1)], "1 run failed (1 of a)"),
        ("missing_runs", [arm("a", 0.8, missing=3)], "3 runs are missing (3 of a)"),
        ("missing_runs", [arm("a", 0.8, missing=1)], "1 run is missing (1 of a)"),
        ("few_runs", [Sample("a", (0.5, 0.6))], "a (2)"),
        ("constant_arm", [Sample("a", (0.1, 0.1, 0.1))], "exactly the same test accuracy"),
        ("ceiling", [arm("a", 0.995, 0.001)], "above 99 %"),
        ("unequal_spread", [arm("a", 0.8, 0.001), arm("b", 0.8, 0.01)], "10.0 times as large in b as in a"),
        ("outlier_seed", [Sample("a", (0.8, 0.801, 0.799, 0.8, 0.6), (0, 1, 2, 3, 7))], "a, seed 7: 60.00 % lies far"),
        ("shared_seeds", [arm("a", 0.8), arm("b", 0.7), arm("c", 0.6)], "correlate by +1.00"),
    ],
)
def test_find_threats_in_values(kind: str, samples: list[Sample], text: str) -> None:
    assert text in threats(samples)[kind].sentence


def test_find_threats_cautions_about_non_normal_runs() -> None:
    skewed = [Sample(str(k), tuple(0.9 - 0.01 * 4.0 ** np.arange(-4, 3))) for k in range(4)]
    assert threats(skewed)["non_normality"].severity == "caution"


def test_find_threats_in_conditions() -> None:
    samples = [arm("a", 0.9), arm("b", 0.9)]
    facts = Facts(
        conditions=(
            Conditions("a", (1000.0,), (0.1,), ("1.0",), ("cpu",), ("float32",), device_counts=("1",)),
            Conditions("b", (2000.0,), (0.1,), ("1.1",), ("cpu", "cuda"), ("float32",), device_counts=("2",)),
        ),
        test_size=900,
    )
    by_kind = threats(samples, facts, comparisons=3)
    assert {kind: by_kind[kind].severity for kind in ("versions", "devices", "device_counts", "budgets", "learning_rate")} == {
        "versions": "serious",
        "devices": "caution",
        "device_counts": "caution",
        "budgets": "serious",
        "learning_rate": "caution",
    }
    assert "precisions" not in by_kind
    assert "by 1.00 percentage points (one standard error), seeds by 0.20" in by_kind["test_set"].sentence  # sqrt(.9 * .1 / 900)
    assert "14.3 %" in by_kind["comparisons"].sentence  # 1 - .95^3
    severities = [threat.severity for threat in find_threats(samples, facts, StubMetric(), comparisons=3)]
    assert severities == sorted(severities, key=["serious", "caution", "note"].index)


def test_many_machines_are_counted() -> None:
    facts = Facts(conditions=(Conditions("a", hosts=tuple(f"node{number}" for number in range(9))), Conditions("b")))
    found = threats([arm("a", 0.9), arm("b", 0.9)], facts)["hosts"]
    assert found.severity == "note"
    assert "Runs differ in machines (node0; node1; node2; node3; node4; node5; 3 more)" in found.sentence


@pytest.mark.parametrize("module", ["train.report.contracts", "train.report.claims", "train.report.statistics.threats"])
def test_import_does_not_load_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "False"
