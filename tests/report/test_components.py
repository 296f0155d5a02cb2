"""Where the spread between runs comes from: the estimates against formulas, their coverage, and what cannot be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from scripts import variance_errors
from scripts.variance_errors import Truth, draw, simulate
from train.report.statistics.components import spread_of
from train.sweep.roles import ROLES, design

PAGE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
STUDIES = pytest.mark.parametrize("studies", [20, pytest.param(1_000, marks=pytest.mark.long)])


def runs(values_of: dict[str, dict[int, float]], count: int, rest: float = 0.0) -> tuple[list[float], list[dict[str, int]]]:
    """Return values, the sum of one effect for the seed of each role and a rest, and the seeds of a study."""
    rows = design(len(values_of), range(count))
    noise = np.random.default_rng(0).standard_normal(len(rows)) * rest
    seeds = [dict(zip(values_of, row, strict=True)) for row in rows]
    return [sum(values_of[role][seed] for role, seed in run.items()) + e for run, e in zip(seeds, noise, strict=True)], seeds


def effects(scale: float, count: int, seed: int) -> dict[int, float]:
    return dict(enumerate(np.random.default_rng(seed).standard_normal(2 * count) * scale))


def test_components_are_those_of_the_balanced_analysis_of_variance():
    """The mean squares of the square by hand: means of a role's seeds, and what is left."""
    values, seeds = runs({"init": effects(1.0, 5, 1), "order": effects(0.3, 5, 2), "split": effects(0.0, 5, 3)}, 5, rest=0.5)
    found = spread_of(values, seeds)
    square = np.array(values[:25])
    squares = {}
    for role in ("init", "order", "split"):
        column = np.array([run[role] for run in seeds[:25]])
        squares[role] = 5 * sum((square[column == seed].mean() - square.mean()) ** 2 for seed in range(5))
    residual = (((square - square.mean()) ** 2).sum() - sum(squares.values())) / 12
    parts = {role: (value / 4 - residual) / 5 for role, value in squares.items()}
    total = sum(parts.values()) + residual
    assert found.runs == 25
    assert found.total is not None
    assert found.rest is not None
    assert found.total.value == pytest.approx(total**0.5)
    assert found.rest.value == pytest.approx(min(1, residual / total))
    for role in found.roles:
        assert role.share is not None
        assert role.share.value == pytest.approx(max(0, parts[role.role] / total))
        assert role.share.low <= role.share.value <= role.share.high
        assert role.pairs == 5
    pairs = [values[25 + place] - values[place] for place in range(5)]
    assert found.roles[0].alone is not None
    assert found.roles[0].alone.value == pytest.approx((sum(d * d for d in pairs) / 2 / 5) ** 0.5)


def test_role_that_explains_all_is_named_and_one_that_draws_nothing_has_no_share():
    values, seeds = runs({"init": effects(1.0, 7, 1), "order": dict.fromkeys(range(14), 0.0), "split": effects(1e-4, 7, 5)}, 7)
    init, order, split = spread_of(values, seeds).roles
    assert init.share is not None
    assert order.share is not None
    assert order.alone is not None
    assert split.saving is not None
    assert init.share.low > 0.5
    assert (order.share.high, order.alone.high, order.saving) == (0, 0, 0)
    assert split.saving < 0.1


def test_missing_runs_change_little_and_are_no_error():
    """A diverged run leaves a hole; the sums of squares are adjusted."""
    values, seeds = runs({role: effects(0.5, 5, place) for place, role in enumerate(ROLES[:3])}, 5, rest=1.0)
    whole = spread_of(values, seeds)
    for gone in (0, 7, 24, 26):
        kept = [place for place in range(len(values)) if place != gone]
        found = spread_of([values[place] for place in kept], [seeds[place] for place in kept])
        assert found.total is not None
        assert whole.total is not None
        assert found.total.value == pytest.approx(whole.total.value, rel=0.25)
        assert sum(role.pairs for role in found.roles) == {0: 12, 7: 15, 24: 15, 26: 14}[gone]


@pytest.mark.parametrize(
    ("seeds", "values", "reason", "has_total"),
    [
        ([{"init": s, "order": s} for s in range(5)], [1, 2, 3, 4, 6], "seeds of its own", True),
        ([{"init": 0, "order": s, "split": s} for s in range(5)], [1, 2, 3, 4, 6], "seeds of its own", True),
        ([{"init": s, "order": s} for s in range(5)], [1.0] * 5, "the same value", False),
        ([{"init": 0, "order": 0}], [1.0], "fewer than two", False),
        ([], [], "fewer than two", False),
        ([{"init": 0, "order": 0}] * 3, [1.0, 2.0, 3.0], "no role has two seeds", False),
        (
            [{"init": a, "order": b, "split": c} for a in (0, 1) for b in (0, 1) for c in (0, 1)],
            list(range(8)),
            "in common, which cannot be told apart",
            False,
        ),
    ],
)
def test_what_runs_do_not_tell_has_a_reason(seeds: list[dict[str, int]], values: list[float], reason: str, has_total: bool):
    found = spread_of(values, seeds)
    assert reason in found.note
    assert (found.total is not None) == has_total
    assert found.rest is None


def fewest_covered(studies: int) -> int:
    return int(stats.binom.ppf(0.001, studies, 0.95))


@STUDIES
@pytest.mark.parametrize("truth", [truth for truth in variance_errors.truths(5) if truth.rest == "normal"], ids=lambda t: t.name)
def test_intervals_cover_the_truth_and_advice_is_rarely_false(studies: int, truth: Truth):
    tally = simulate(truth, 7, studies)
    counts = [tally.shares, tally.total, *np.atleast_1d(tally.alone), studies - tally.false]
    assert min(counts) >= fewest_covered(studies)


def test_simulated_values_have_the_variance_they_should():
    """Of pairs that differ in one role alone, and of all."""
    truth = Truth("", (0.3, 0.1, 0.0), {(0, 2): 0.4})
    rows = design(3, range(5))
    values = np.array([draw(truth, rows, np.random.default_rng(seed)) for seed in range(800)])
    assert values[:, 3].var() == pytest.approx(1, abs=0.15)
    for role in range(3):
        difference = values[:, 25 + 5 * role] - values[:, 0]
        assert difference.var() / 2 == pytest.approx(truth.alone(role), abs=0.15)


def test_page_has_the_table_of_the_script():
    """Its head and first columns; the rates take minutes."""
    page = PAGE.read_text(encoding="utf-8")
    assert f"| {' | '.join(variance_errors.HEAD)} |" in page
    for roles, seeds in variance_errors.SIZES:
        assert all(f"| {roles} | {seeds} | {truth.name} |" in page for truth in variance_errors.truths(roles))
    assert f"{variance_errors.STUDIES:,} studies" in page
