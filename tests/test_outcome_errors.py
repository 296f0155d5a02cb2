"""The simulations of docs/statistics.md run, and the page names what they are of."""

from __future__ import annotations

from pathlib import Path

from scripts import outcome_errors
from train.report.statistics.trained import ALPHA

PAGE = Path(__file__).resolve().parents[1] / "docs" / "statistics.md"


def test_exact_test_of_rates_keeps_its_level():
    """Rates that differ between combinations, not between the levels; ten seeds, two combinations."""
    assert outcome_errors.rejections(10, [(0.3, 0.3), (0.8, 0.8)], 300) <= 0.05
    assert outcome_errors.rejections(10, [(1.0, 0.2)] * 2, 100) == 1


def test_rule_tells_guessing_from_a_little_learning():
    guess = outcome_errors.guessing([1] * 10)
    assert guess is not None

    def trained(draw: outcome_errors.Draw) -> float:
        runs = outcome_errors.drawn(draw, 500, 10, 30)
        return outcome_errors.share(lambda scores: outcome_errors.is_trained(scores, guess), runs)

    assert trained(outcome_errors.constant) == 0
    assert trained(outcome_errors.independent(0.3)) == 0
    assert trained(outcome_errors.learned(0.6)) == 1


def test_page_has_the_tables_of_the_script():
    """Their heads and first columns; the shares take minutes."""
    page = PAGE.read_text(encoding="utf-8")
    sizes = [f"| {images:,} | {classes} |" for images, classes in outcome_errors.SIZES]
    assert all(page.count(size) == 4 for size in sizes)
    assert all(f"| {seeds} | {combinations} |" in page for seeds in (3, 5, 10, 20) for combinations in (1, 2, 4))
    assert f"{100 * ALPHA / 2:.2f} %" in page
