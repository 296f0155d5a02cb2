"""State, for each factor, the claim that the runs support.

Every verdict follows from the simultaneous interval of a difference to the baseline, so the claims of one sweep contain a false
one in at most 5 % of sweeps:

    supported               the interval excludes 0
    no_effect_larger_than   the interval includes 0 and lies within +-x; x, its farther end, is at most `smallest_effect`
    underpowered            the interval includes 0 and reaches beyond `smallest_effect`; the sentence gives the minimum
                            detectable effect of the design (80 % power) at the measured spread
    not_comparable          the accuracy alone does not compare the two: runs on either side diverged or failed (the completed
                            ones are a selection), or the two sides had different training budgets

Divergence is an outcome, too: when diverged runs prevent a comparison by accuracy, the sentence says whether the divergence rates
differ significantly. These tests are a family of their own, beside the intervals' 5 %.

A learning rate that was not tuned per arm qualifies a claim but does not void it: the difference was measured at that rate, and
the sentence says so. A factor that sets the budget (or the rate) is compared across budgets (or rates), since that is the
question. Interactions in a grid do not change a verdict either. Those whose interval excludes 0 are added, because an average
over combinations hides them.
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
from train.report.statistics.rates import divergence, equal_rates_p
from train.text import plural, settings

ORDER: tuple[Verdict, ...] = ("supported", "not_comparable", "underpowered", "no_effect_larger_than")
SMALLEST_EFFECT = 0.005
"""Half a percentage point: 1.7 binomial standard errors of an accuracy of 90 % on 10,000 test images."""
BUDGET_TOLERANCE = 0.01


@dataclass(frozen=True)
class Wording:
    """What sentences need besides the numbers.

    `smallest_effect`: the smallest effect of interest, in units of the metric; `confidence`: that of the intervals; `scope`: text
    that ends every claim, such as "with everything else at its baseline".
    """

    metric: MetricInfo
    smallest_effect: float = SMALLEST_EFFECT
    confidence: float = 0.95
    scope: str = ""


@dataclass(frozen=True)
class _LevelComparison:
    """A level and its baseline: `treatment` and `control` are all arms on either side, `names` their names in this order."""

    factor: str
    level: str
    names: tuple[str, str]
    effect: Effect
    treatment: tuple[Sample, ...]
    control: tuple[Sample, ...]
    pairs: tuple[tuple[Sample, Sample], ...]
    """A treatment and a control arm that differ in this factor alone."""
    family_size: int
    """How many levels the report compares with a baseline."""
    averaged_over: str = ""


def claims_of_arms(
    factors: Mapping[str, Sequence[str]],
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    baseline: str,
    wording: Wording,
    facts: Facts | None = None,
) -> tuple[Claim, ...]:
    """Return one claim per factor, for sweeps of one factor and for designs whose arms are single changes of the baseline.

    `factors`: factor -> the arms in which it differs from the baseline. An arm without a comparison has no value.
    """
    by_arm = {sample.arm: sample for sample in samples}
    effects: dict[str, Effect] = {comparison.arm: comparison for comparison in comparisons}
    family_size = sum(map(len, factors.values()))
    claims = []
    for factor, arms in factors.items():
        levels = []
        for arm in arms:
            treatment, control = by_arm[arm], by_arm[baseline]
            effect = effects.get(arm, Effect(nan))
            levels.append(
                _LevelComparison(
                    factor, arm, (arm, baseline), effect, (treatment,), (control,), ((treatment, control),), family_size
                )
            )
        claims.append(_claim(factor, levels, wording, facts or Facts()))
    return tuple(claims)


def claims_of_grid(grid: Grid, cells: Sequence[Cell], wording: Wording, facts: Facts | None = None) -> tuple[Claim, ...]:
    """Return one claim per factor from its main effects. Diverged runs count in every cell of the grid."""
    claims = []
    for factor in dict.fromkeys(effect.factor for effect in grid.main):
        levels = [_grid_comparison(effect, cells, len(grid.main)) for effect in grid.main if effect.factor == factor]
        interactions = [i for i in grid.interactions if factor in (i.first, i.second) and i.excludes_zero]
        claims.append(_claim(factor, levels, wording, facts or Facts(), interactions))
    return tuple(claims)


def _grid_comparison(effect: MainEffect, cells: Sequence[Cell], family_size: int) -> _LevelComparison:
    at_level, at_baseline = ([c for c in cells if c.levels[effect.factor] == level] for level in (effect.level, effect.baseline))
    partners = {_other_levels(cell, effect.factor): cell.sample for cell in at_baseline}
    pairs = {rest: (c.sample, partners[rest]) for c in at_level if (rest := _other_levels(c, effect.factor)) in partners}
    averaged_over = ""
    if effect.of_combinations > 1:
        total = "" if effect.combinations == effect.of_combinations else f" of the {effect.of_combinations}"
        averaged_over = f"over {effect.combinations}{total} combinations of the other factors"
    names = (f"{effect.factor}={effect.level}", f"{effect.factor}={effect.baseline}")
    treatment, control = (tuple(cell.sample for cell in side) for side in (at_level, at_baseline))
    return _LevelComparison(
        effect.factor, effect.level, names, effect, treatment, control, (*pairs.values(),), family_size, averaged_over
    )


def _other_levels(cell: Cell, factor: str) -> tuple[tuple[str, str], ...]:
    """Return the cell's levels of all factors but `factor`."""
    return tuple(sorted((name, level) for name, level in cell.levels.items() if name != factor))


def _claim(
    factor: str,
    comparisons: Sequence[_LevelComparison],
    wording: Wording,
    facts: Facts,
    interactions: Sequence[Interaction] = (),
) -> Claim:
    levels = tuple(_level_claim(comparison, wording, facts) for comparison in comparisons)
    verdicts: list[Verdict] = [verdict for verdict in ORDER if any(level.verdict == verdict for level in levels)]
    sentences = [level.sentence for level in levels] or [f"{factor}: no arm to compare with the baseline."]
    sentences += [_interaction(interaction, factor, wording) for interaction in interactions]
    return Claim(factor, verdicts[0] if verdicts else "underpowered", " ".join(sentences), levels)


def _level_claim(comparison: _LevelComparison, wording: Wording, facts: Facts) -> LevelClaim:
    effect, obstacles = comparison.effect, _obstacles(comparison, facts)
    if obstacles:
        return LevelClaim(comparison.level, "not_comparable", _not_comparable(comparison, obstacles, wording, facts), effect)
    if effect.bound is None:
        return LevelClaim(comparison.level, "underpowered", _no_interval(comparison, wording), effect)
    if effect.excludes_zero:
        return LevelClaim(comparison.level, "supported", _supported(comparison, wording, facts), effect)
    if effect.bound <= wording.smallest_effect:
        return LevelClaim(comparison.level, "no_effect_larger_than", _no_effect(comparison, wording, facts), effect)
    return LevelClaim(comparison.level, "underpowered", _underpowered(comparison, wording, facts), effect)


def _obstacles(comparison: _LevelComparison, facts: Facts) -> list[str]:
    """Return why the accuracies do not compare the two sides; empty when they do."""
    treatment, control = divergence(comparison.treatment), divergence(comparison.control)
    obstacles = []
    if treatment.count or control.count:
        rates = [
            f"{sentence_text.rate(rate)} with {name}" for rate, name in zip((treatment, control), comparison.names, strict=True)
        ]
        obstacles.append(f"{rates[0]} and {rates[1]} diverged")
    failed = [
        (sum(sample.failed for sample in side), name)
        for side, name in zip((comparison.treatment, comparison.control), comparison.names, strict=True)
    ]
    obstacles += [f"{plural(count, 'run')} with {name} failed" for count, name in failed if count]
    obstacles += [
        f"no run of {sample.arm} completed at any level tried"
        for sample in (*comparison.treatment, *comparison.control)
        if sample.arm in facts.lost_at_every_level
    ]
    if comparison.factor not in facts.budget_factors:
        left, right = (_values(side, facts, "budgets") for side in (comparison.treatment, comparison.control))
        if left and right and _differ(left, right):
            obstacles.append(f"the budgets differ ({settings(left)} against {settings(right)})")
    return obstacles


def _differ(left: Sequence[float], right: Sequence[float]) -> bool:
    """Return whether the ranges of two sets of budgets differ by more than the tolerance."""
    return any(abs(a - b) > BUDGET_TOLERANCE * max(abs(a), abs(b)) for a, b in ((min(left), min(right)), (max(left), max(right))))


def _values(side: Sequence[Sample], facts: Facts, name: str) -> tuple[float, ...]:
    """Return the distinct values of the conditions' field `name` over the arms of one side."""
    arms = {sample.arm for sample in side}
    return tuple(sorted({value for item in facts.conditions if item.arm in arms for value in getattr(item, name)}))


def _not_comparable(comparison: _LevelComparison, obstacles: Sequence[str], wording: Wording, facts: Facts) -> str:
    text = (
        f"{comparison.names[0]} and {comparison.names[1]} cannot be compared by {wording.metric.name} alone: "
        f"{'; '.join(obstacles)}."
    )
    if isfinite(comparison.effect.difference):
        text += f" The completed runs differ by {_measured(comparison, wording)}, which supports no claim."
    if facts.tuned:  # chosen levels lost the fewest runs, so a test of these losses would prove nothing
        return f"{text} These are the runs at the level chosen for each arm; the tuning table lists the others."
    return text + _divergence(comparison, wording)


def _divergence(comparison: _LevelComparison, wording: Wording) -> str:
    """State whether one side diverges more often, by an exact test with Bonferroni's correction for all levels of the report."""
    rates = [(divergence((treatment,)), divergence((control,))) for treatment, control in comparison.pairs]
    excess = sum(a.count - (a.count + b.count) * a.total / max(1, a.total + b.total) for a, b in rates)
    if abs(excess) < 1e-9:
        return ""
    p = min(1.0, comparison.family_size * equal_rates_p(rates))
    within = " within the combinations of the other factors" if len(comparison.pairs) > 1 else ""
    test = f"exact test{within}, p = {p:.2g}" + (
        f", adjusted for {comparison.family_size} comparisons" if comparison.family_size > 1 else ""
    )
    if p >= 1 - wording.confidence:
        return f" The divergence rates do not differ significantly ({test})."
    more, less = comparison.names if excess > 0 else comparison.names[::-1]  # the sums over all pairs may have the other sign
    return f" The divergence rates differ significantly: {more} diverges more often than {less} ({test})."


def _no_interval(comparison: _LevelComparison, wording: Wording) -> str:
    counts = [sum(len(sample.values) for sample in side) for side in (comparison.treatment, comparison.control)]
    reason = comparison.effect.note or "one side has no value"
    return (
        f"{comparison.names[0]} against {comparison.names[1]}: no conclusion about {wording.metric.name} from "
        f"{counts[0]} against {plural(counts[1], 'run')} ({reason})."
    )


def _supported(comparison: _LevelComparison, wording: Wording, facts: Facts) -> str:
    metric, effect = wording.metric, comparison.effect
    decimals = sentence_text.decimals_for(effect, metric)
    direction = "higher" if effect.difference > 0 else "lower"
    size = sentence_text.plain(abs(effect.difference), metric, decimals) + sentence_text.points(metric)
    text = (
        f"{comparison.names[0]} has a {metric.name} {size} {direction} than {comparison.names[1]} "
        f"({_support(comparison, wording)})"
    )
    if effect.bound is not None and effect.bound <= wording.smallest_effect:
        smallest = sentence_text.at_least(wording.smallest_effect, metric, 2) + sentence_text.points(metric)
        text += f", below the smallest effect of interest ({smallest})"
    return text + _qualified(comparison, wording, facts) + "."


def _no_effect(comparison: _LevelComparison, wording: Wording, facts: Facts) -> str:
    metric, effect = wording.metric, comparison.effect
    decimals = sentence_text.decimals_for(effect, metric)
    bound = sentence_text.at_least(effect.bound or 0.0, metric, decimals) + sentence_text.points(metric)
    measured = sentence_text.signed(effect.difference, metric, decimals)
    return (
        f"{comparison.names[0]} against {comparison.names[1]}: no effect on {metric.name} larger than {bound} "
        f"(measured {measured}, {_support(comparison, wording)}){_qualified(comparison, wording, facts)}."
    )


def _underpowered(comparison: _LevelComparison, wording: Wording, facts: Facts) -> str:
    metric, effect = wording.metric, comparison.effect
    decimals = sentence_text.decimals_for(effect, metric)
    detectable = sentence_text.at_least(effect.detectable or 0.0, metric, decimals) + sentence_text.points(metric)
    measured = sentence_text.signed(effect.difference, metric, decimals) + sentence_text.points(metric)
    return (
        f"{comparison.names[0]} against {comparison.names[1]}: inconclusive; the difference in {metric.name} is {measured} "
        f"({_support(comparison, wording)}){_qualified(comparison, wording, facts)}. At this spread, the minimum detectable "
        f"effect is {detectable} (80 % power)."
    )


def _measured(comparison: _LevelComparison, wording: Wording) -> str:
    decimals = sentence_text.decimals_for(comparison.effect, wording.metric)
    size = sentence_text.signed(comparison.effect.difference, wording.metric, decimals) + sentence_text.points(wording.metric)
    return f"{size} ({_support(comparison, wording)})"


def _support(comparison: _LevelComparison, wording: Wording) -> str:
    """Return the evidence for a difference, such as `95 % CI +1.1 to +5.3, 5 against 5 runs, Welch`."""
    effect = comparison.effect
    parts = [
        sentence_text.interval(effect, wording.metric, sentence_text.decimals_for(effect, wording.metric), wording.confidence)
    ]
    if isinstance(effect, Comparison | MainEffect):
        parts.append(f"{effect.n} against {sentence_text.runs(effect.n_baseline)}")
    parts += ["Welch"] if effect.low is not None else []
    return ", ".join([*parts, *([comparison.averaged_over] if comparison.averaged_over else [])])


def _qualified(comparison: _LevelComparison, wording: Wording, facts: Facts) -> str:
    """Return the end of a claim: its scope and the learning rate at which it holds."""
    scope = f", {wording.scope}" if wording.scope else ""
    left, right = (_values(side, facts, "learning_rates") for side in (comparison.treatment, comparison.control))
    if not (left and right):
        return scope
    if facts.tuned_over:
        return f"{scope}, with the learning rate tuned for every arm over {settings(facts.tuned_over)}"
    if comparison.factor in facts.rate_factors:
        return scope
    if left != right:
        rates = f"{settings(left)} against {settings(right)}"
        return f"{scope}, with the learning rate changed as well ({rates})"
    rates = "rate" if len(left) == 1 else "rates"
    return f"{scope}, at the learning {rates} {settings(left)}, not tuned per arm"


def _interaction(i: Interaction, factor: str, wording: Wording) -> str:
    """Describe the interaction from the side of `factor`; the number is the same from either side."""
    first, second = (i.first, i.first_level, i.first_baseline), (i.second, i.second_level, i.second_baseline)
    (name, level, base), (other, other_level, other_base) = (first, second) if factor == i.first else (second, first)
    decimals = sentence_text.decimals_for(i, wording.metric)
    size = sentence_text.plain(abs(i.difference), wording.metric, decimals) + sentence_text.points(wording.metric)
    direction = "higher" if i.difference > 0 else "lower"
    return (
        f"Interaction with {other}: the effect of {name}={level} against {name}={base} is {size} {direction} with "
        f"{other}={other_level} than with {other}={other_base} "
        f"({sentence_text.interval(i, wording.metric, decimals, wording.confidence)})."
    )
