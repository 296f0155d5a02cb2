"""For each factor, the sentence that the runs carry.

Every verdict comes from the simultaneous interval of a difference to the baseline, so all claims of one sweep together are
false in at most 5 % of sweeps:

    supported               the interval excludes 0
    no_effect_larger_than   it includes 0 and lies within +-x; x, its farther end, is at most `smallest_effect`
    underpowered            it includes 0 and reaches beyond `smallest_effect`; the sentence gives the difference that the design
                            would have shown with 80 % probability at the spread measured
    not_comparable          accuracy alone does not compare the two: runs on either side diverged or failed (those that ended are
                            a selection), or the sides were trained for different budgets

Divergence is an outcome, too: where two arms cannot be compared by accuracy since runs diverged, the sentence says whether the
rates of divergence differ by more than chance. These tests are a family of their own, beside the intervals' 5 %.

A learning rate that was not tuned per arm qualifies a claim without undoing it: the difference was measured, at that rate, and
the sentence says so. A factor that sets the budget (or the rate) is compared across budgets (or rates), as it is the question.
A grid's interactions do not change a verdict either; those shown are added, because an average over combinations hides them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

from train.report import sentence_text
from train.report.contracts import (
    Cell,
    Claim,
    Comparison,
    Effect,
    Facts,
    Grid,
    Interaction,
    LevelClaim,
    MainEffect,
    MetricInfo,
    Sample,
    Verdict,
)
from train.report.statistics.rates import divergence, unequal

ORDER: tuple[Verdict, ...] = ("supported", "not_comparable", "underpowered", "no_effect_larger_than")
SMALLEST_EFFECT = 0.005
"""Half a percentage point: 1.7 binomial standard errors of an accuracy of 90 % on 10,000 test images."""
BUDGET_TOLERANCE = 0.01
HOW = {"welch": "Welch", "pooled": "pooled spread", "none": ""}


@dataclass(frozen=True)
class Wording:
    """`smallest_effect`, in units of the metric: the difference below which nobody would mind; `confidence`: as in the intervals.
    `scope` ends every supported claim, such as "with everything else at its baseline"."""

    metric: MetricInfo
    smallest_effect: float = SMALLEST_EFFECT
    confidence: float = 0.95
    scope: str = ""


@dataclass(frozen=True)
class _LevelComparison:
    """A level held against its baseline: `ours` and `theirs` are all arms on either side."""

    factor: str
    level: str
    names: tuple[str, str]
    effect: Effect
    treatment: tuple[Sample, ...]
    control: tuple[Sample, ...]
    pairs: tuple[tuple[Sample, Sample], ...]
    """An arm of either side that differ in this factor alone."""
    judged: int
    """How many levels the report holds against a baseline."""
    averaged: str = ""


def claims_of_arms(
    factors: Mapping[str, Sequence[str]],
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    baseline: str,
    wording: Wording,
    facts: Facts | None = None,
) -> tuple[Claim, ...]:
    """For sweeps of one factor, and for designs in which arms are single changes of the baseline. `factors`: factor -> the arms
    in which it differs from the baseline. An arm without a comparison is one that has no value."""
    by_arm = {sample.arm: sample for sample in samples}
    effects: dict[str, Effect] = {comparison.arm: comparison for comparison in comparisons}
    judged = sum(map(len, factors.values()))
    claims = []
    for factor, arms in factors.items():
        held = []
        for arm in arms:
            ours, theirs = by_arm[arm], by_arm[baseline]
            effect = effects.get(arm, Effect(nan))
            held.append(_LevelComparison(factor, arm, (arm, baseline), effect, (ours,), (theirs,), ((ours, theirs),), judged))
        claims.append(_claim(factor, held, wording, facts or Facts()))
    return tuple(claims)


def claims_of_grid(grid: Grid, cells: Sequence[Cell], wording: Wording, facts: Facts | None = None) -> tuple[Claim, ...]:
    """One claim per factor, from its main effects; runs that diverged count wherever in the grid they lie."""
    claims = []
    for factor in dict.fromkeys(effect.factor for effect in grid.main):
        held = [_of_grid(effect, cells, len(grid.main)) for effect in grid.main if effect.factor == factor]
        shown = [i for i in grid.interactions if factor in (i.first, i.second) and i.excludes_zero]
        claims.append(_claim(factor, held, wording, facts or Facts(), shown))
    return tuple(claims)


def _of_grid(effect: MainEffect, cells: Sequence[Cell], judged: int) -> _LevelComparison:
    ours, theirs = ([c for c in cells if c.levels[effect.factor] == level] for level in (effect.level, effect.baseline))
    partners = {_others(cell, effect.factor): cell.sample for cell in theirs}
    pairs = {others: (c.sample, partners[others]) for c in ours if (others := _others(c, effect.factor)) in partners}
    averaged = ""
    if effect.of_combinations > 1:
        of = "" if effect.combinations == effect.of_combinations else f" of the {effect.of_combinations}"
        averaged = f"over {effect.combinations}{of} combinations of the other factors"
    names = (f"{effect.factor}={effect.level}", f"{effect.factor}={effect.baseline}")
    one, other = (tuple(cell.sample for cell in side) for side in (ours, theirs))
    return _LevelComparison(effect.factor, effect.level, names, effect, one, other, (*pairs.values(),), judged, averaged)


def _others(cell: Cell, factor: str) -> tuple[tuple[str, str], ...]:
    """Its levels of all factors but one."""
    return tuple(sorted((name, level) for name, level in cell.levels.items() if name != factor))


def _claim(
    factor: str, held: Sequence[_LevelComparison], wording: Wording, facts: Facts, interactions: Sequence[Interaction] = ()
) -> Claim:
    levels = tuple(_level_claim(one, wording, facts) for one in held)
    reached: list[Verdict] = [verdict for verdict in ORDER if any(level.verdict == verdict for level in levels)]
    sentences = [level.sentence for level in levels] or [f"{factor}: there is nothing to hold against the baseline."]
    sentences += [_depends(one, factor, wording) for one in interactions]
    return Claim(factor, reached[0] if reached else "underpowered", " ".join(sentences), levels)


def _level_claim(held: _LevelComparison, wording: Wording, facts: Facts) -> LevelClaim:
    effect, obstacles = held.effect, _obstacles(held, facts)
    if obstacles:
        return LevelClaim(held.level, "not_comparable", _not_comparable(held, obstacles, wording, facts), effect)
    if effect.bound is None:
        return LevelClaim(held.level, "underpowered", _nothing_to_tell(held, wording), effect)
    if effect.excludes_zero:
        return LevelClaim(held.level, "supported", _supported(held, wording, facts), effect)
    if effect.bound <= wording.smallest_effect:
        return LevelClaim(held.level, "no_effect_larger_than", _no_effect(held, wording, facts), effect)
    return LevelClaim(held.level, "underpowered", _underpowered(held, wording, facts), effect)


def _obstacles(held: _LevelComparison, facts: Facts) -> list[str]:
    """Why the accuracies of the two sides do not compare them; empty where they do."""
    ours, theirs = divergence(held.treatment), divergence(held.control)
    found = []
    if ours.count or theirs.count:
        rates = [f"{sentence_text.rate(side)} with {name}" for side, name in zip((ours, theirs), held.names, strict=True)]
        found.append(f"{rates[0]} and {rates[1]} diverged")
    failed = [
        (sum(sample.failed for sample in side), name)
        for side, name in zip((held.treatment, held.control), held.names, strict=True)
    ]
    found += [f"{sentence_text.runs(count)} with {name} failed" for count, name in failed if count]
    found += [
        f"no run of {sample.arm} came to its end at any level that was tuned over"
        for sample in (*held.treatment, *held.control)
        if sample.arm in facts.never_ended
    ]
    if held.factor not in facts.budget_factors:
        ours_for, theirs_for = (_values(side, facts, "budgets") for side in (held.treatment, held.control))
        if ours_for and theirs_for and _apart(ours_for, theirs_for):
            found.append(f"the budgets differ ({sentence_text.numbers(ours_for)} against {sentence_text.numbers(theirs_for)})")
    return found


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    return any(
        abs(one - other) > BUDGET_TOLERANCE * max(abs(one), abs(other))
        for one, other in ((min(ours), min(theirs)), (max(ours), max(theirs)))
    )


def _values(side: Sequence[Sample], facts: Facts, name: str) -> tuple[float, ...]:
    """The different values of a field of the conditions, over the arms of one side."""
    arms = {sample.arm for sample in side}
    return tuple(sorted({value for made in facts.conditions if made.arm in arms for value in getattr(made, name)}))


def _not_comparable(held: _LevelComparison, obstacles: Sequence[str], wording: Wording, facts: Facts) -> str:
    said = f"{held.names[0]} and {held.names[1]} cannot be compared by {wording.metric.name} alone: {'; '.join(obstacles)}."
    if isfinite(held.effect.difference):
        said += f" The runs that ended differ by {_measured(held, wording)}, which is no claim about the two."
    if facts.tuned:  # of all levels those were chosen that lost least: a test of what they lost would prove nothing
        return f"{said} These are the runs at the level chosen for each arm; the table of the tuning has the others."
    return said + _divergence(held, wording)


def _divergence(held: _LevelComparison, wording: Wording) -> str:
    """Whether one side diverges more often, by an exact test; Bonferroni's correction for all levels of the report."""
    rates = [(divergence((one,)), divergence((other,))) for one, other in held.pairs]
    excess = sum(one.count - (one.count + other.count) * one.total / max(1, one.total + other.total) for one, other in rates)
    if abs(excess) < 1e-9:
        return ""
    p = min(1.0, held.judged * unequal(rates))
    within = " within the combinations of the other factors" if len(held.pairs) > 1 else ""
    test = f"exact test{within}, p {p:.2g}" + (f", adjusted for {held.judged} comparisons" if held.judged > 1 else "")
    if p >= 1 - wording.confidence:
        return f" That one diverges more often could be chance ({test})."
    more, less = held.names if excess > 0 else held.names[::-1]  # as in the test: the sums of all pairs may say the opposite
    return f" What the runs do support: {more} diverges more often than {less} ({test})."


def _nothing_to_tell(held: _LevelComparison, wording: Wording) -> str:
    counts = [sum(len(sample.values) for sample in side) for side in (held.treatment, held.control)]
    why = held.effect.note or "there is no value on one of the sides"
    return (
        f"{held.names[0]} against {held.names[1]}: nothing can be said of {wording.metric.name} from "
        f"{counts[0]} against {sentence_text.runs(counts[1])} ({why})."
    )


def _supported(held: _LevelComparison, wording: Wording, facts: Facts) -> str:
    metric, effect = wording.metric, held.effect
    decimals = sentence_text.decimals_for(effect, metric)
    direction = "higher" if effect.difference > 0 else "lower"
    size = sentence_text.plain(abs(effect.difference), metric, decimals) + sentence_text.points(metric)
    said = f"{held.names[0]} has a {metric.name} {size} {direction} than {held.names[1]} ({_support(held, wording)})"
    if effect.bound is not None and effect.bound <= wording.smallest_effect:
        smallest = sentence_text.at_least(wording.smallest_effect, metric, 2) + sentence_text.points(metric)
        said += f", less than the {smallest} taken to matter"
    return said + _qualified(held, wording, facts) + "."


def _no_effect(held: _LevelComparison, wording: Wording, facts: Facts) -> str:
    metric, effect = wording.metric, held.effect
    decimals = sentence_text.decimals_for(effect, metric)
    bound = sentence_text.at_least(effect.bound or 0.0, metric, decimals) + sentence_text.points(metric)
    seen = sentence_text.signed(effect.difference, metric, decimals)
    return (
        f"{held.names[0]} against {held.names[1]}: no effect on {metric.name} larger than {bound} "
        f"(measured {seen}, {_support(held, wording)}){_qualified(held, wording, facts)}."
    )


def _underpowered(held: _LevelComparison, wording: Wording, facts: Facts) -> str:
    metric, effect = wording.metric, held.effect
    decimals = sentence_text.decimals_for(effect, metric)
    least = sentence_text.at_least(effect.detectable or 0.0, metric, decimals) + sentence_text.points(metric)
    seen = sentence_text.signed(effect.difference, metric, decimals) + sentence_text.points(metric)
    return (
        f"{held.names[0]} against {held.names[1]}: undecided; the difference of {seen} in {metric.name} could be chance "
        f"({_support(held, wording)}), and these runs could only have seen {least} or more (with 80 % probability)"
        f"{_qualified(held, wording, facts)}."
    )


def _measured(held: _LevelComparison, wording: Wording) -> str:
    decimals = sentence_text.decimals_for(held.effect, wording.metric)
    seen = sentence_text.signed(held.effect.difference, wording.metric, decimals) + sentence_text.points(wording.metric)
    return f"{seen} ({_support(held, wording)})"


def _support(held: _LevelComparison, wording: Wording) -> str:
    """95 % interval +1.1 to +5.3, 5 against 5 runs, Welch"""
    effect = held.effect
    parts = [
        sentence_text.interval(effect, wording.metric, sentence_text.decimals_for(effect, wording.metric), wording.confidence)
    ]
    if isinstance(effect, Comparison | MainEffect):
        parts.append(f"{effect.n} against {sentence_text.runs(effect.n_baseline)}")
    how = "Dunnett" if isinstance(effect, Comparison) and effect.method == "pooled" else HOW[effect.method]
    return ", ".join([*parts, *([how] if how else []), *([held.averaged] if held.averaged else [])])


def _qualified(held: _LevelComparison, wording: Wording, facts: Facts) -> str:
    """The learning rate that the claim is about, and the scope."""
    said = f", {wording.scope}" if wording.scope else ""
    ours, theirs = (_values(side, facts, "learning_rates") for side in (held.treatment, held.control))
    if not (ours and theirs):
        return said
    if facts.tuned_over:
        return f"{said}, the learning rate tuned for every arm over {sentence_text.numbers(facts.tuned_over)}"
    if held.factor in facts.rate_factors:
        return said
    if ours != theirs:
        rates = f"{sentence_text.numbers(ours)} against {sentence_text.numbers(theirs)}"
        return f"{said}, the learning rate changed along with it ({rates})"
    rates = "rate" if len(ours) == 1 else "rates"
    return f"{said}, at the learning {rates} {sentence_text.numbers(ours)}, not tuned per arm"


def _depends(one: Interaction, factor: str, wording: Wording) -> str:
    """The interaction as seen from `factor`; it is the same number from either side."""
    first, second = (one.first, one.first_level, one.first_baseline), (one.second, one.second_level, one.second_baseline)
    (name, level, base), (other, at, instead) = (first, second) if factor == one.first else (second, first)
    decimals = sentence_text.decimals_for(one, wording.metric)
    size = sentence_text.plain(abs(one.difference), wording.metric, decimals) + sentence_text.points(wording.metric)
    direction = "higher" if one.difference > 0 else "lower"
    return (
        f"It depends on {other}: what {name}={level} adds to {name}={base} is {size} {direction} with {other}={at} than with "
        f"{other}={instead} ({sentence_text.interval(one, wording.metric, decimals, wording.confidence)})."
    )
