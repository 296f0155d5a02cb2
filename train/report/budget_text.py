"""What a difference does when the budget changes, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from train.report import sentence_text
from train.report.contracts import Effect
from train.report.findings import Remark, Tone
from train.report.metric import Metric
from train.report.statistics.budgets import BudgetCurve, Pattern
from train.text import listed, plural, short_percent

BUDGETS = {"trainer.epochs": "epoch", "trainer.max_steps": "step", "data.train_fraction": "of the training images"}
"""Keys that are budgets, and what they count."""
HEADINGS: dict[Pattern, tuple[str, Tone]] = {
    "flips": ("flips", "bad"),
    "holds": ("holds", "good"),
    "equivalent": ("no difference", "even"),
    "changes": ("depends on the budget", "bad"),
    "in part": ("holds in part", "weak"),
    "undecided": ("undecided", "weak"),
    "not comparable": ("not comparable", "weak"),
}


def budget_text(key: str, level: str) -> str:
    """Return a budget in words: `1 epoch`, `25 % of the training images`."""
    if key == "data.train_fraction":
        return f"{short_percent(float(level))} {BUDGETS[key]}"
    return plural(int(level), BUDGETS[key])


def short_budget(key: str, level: str) -> str:
    """Return a budget as a tick: `6`, `25 %`."""
    return short_percent(float(level)) if key == "data.train_fraction" else f"{int(level):,}"


def with_interval(effect: Effect, metric: Metric) -> str:
    """Return `+1.2 points (95 % CI +0.3 to +2.1)`."""
    decimals = sentence_text.decimals_for(effect, metric)
    size = sentence_text.signed(effect.difference, metric, decimals) + (" points" if metric.is_share else "")
    return f"{size} ({sentence_text.interval(effect, metric, decimals, 0.95)})"


def remark(curve: BudgetCurve, budgets: Sequence[str], metric: Metric, smallest_effect: float | None) -> Remark:
    """Return the verdict on one arm. `budgets`: in words."""
    pattern = curve.pattern(smallest_effect)
    verdict, tone = HEADINGS[pattern]
    return Remark(verdict, _sentence(pattern, curve, budgets, metric, smallest_effect), tone)


def _sentence(pattern: Pattern, curve: BudgetCurve, budgets: Sequence[str], metric: Metric, smallest_effect: float | None) -> str:
    points = list(zip(budgets, curve.points, strict=True))
    clear = [(budget, point) for budget, point in points if point is not None and point.excludes_zero]
    told = [f"{_word(point, metric)} at {budget}, {with_interval(point, metric)}" for budget, point in clear]
    if pattern == "not comparable":
        why = next((note for note in curve.notes if note), "the spread between seeds is unknown")
        return f"Fewer than two budgets can be compared: {why}."
    if pattern == "equivalent":
        return f"Within {sentence_text.exact(smallest_effect or 0.0, metric)}{_unit(metric)} at every budget."
    if pattern == "flips":
        highest, lowest = (choose(clear, key=lambda item: item[1].difference) for choose in (max, min))
        first, last = sorted((highest, lowest), key=lambda item: budgets.index(item[0]))
        sides = [f"{_word(point, metric)} at {budget}, {with_interval(point, metric)}" for budget, point in (first, last)]
        return f"The order flips: {sides[0]}, but {sides[1]}. A verdict at one budget is about that budget alone."
    if pattern == "holds":
        ends = " to ".join(f"{with_interval(point, metric)} at {budget}" for budget, point in (clear[0], clear[-1]))
        return f"{_word(clear[0][1], metric).capitalize()} at every budget, from {ends}.{_change(curve, budgets, metric)}"
    others = [budget for budget, point in points if (budget, point) not in clear]
    if pattern == "changes":
        return f"{_change(curve, budgets, metric).strip()} A verdict at one budget is about that budget alone{_told(told)}."
    if pattern == "in part":
        return f"{'; '.join(told).capitalize()}. At {listed(others)} the interval includes 0 or there is none."
    return f"No interval excludes 0.{_change(curve, budgets, metric)} More seeds tell more."


def _told(told: Sequence[str]) -> str:
    return f": {'; '.join(told)}" if told else ""


def _word(effect: Effect, metric: Metric) -> str:
    if metric.higher_is_better is None:
        return "higher" if effect.difference > 0 else "lower"
    return "better" if (effect.difference > 0) == metric.higher_is_better else "worse"


def _change(curve: BudgetCurve, budgets: Sequence[str], metric: Metric) -> str:
    """Return a sentence on the change from the first budget to the last; empty without an interval."""
    if curve.change is None or curve.change.low is None:
        return ""
    size = with_interval(curve.change, metric)
    if curve.change.excludes_zero:
        return f" From {budgets[0]} to {budgets[-1]} the difference changes by {size}."
    return f" Whether the difference changes from the first budget to the last is open: {size}."


def _unit(metric: Metric) -> str:
    return " points" if metric.is_share else ""
