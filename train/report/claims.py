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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isfinite, nan

from train.report import sentence_text
from train.report.contracts import (
    Cell,
    Claim,
    Comparison,
    Effect,
    Grid,
    Interaction,
    LevelClaim,
    MainEffect,
    MetricInfo,
    Sample,
    Verdict,
    Wording,
)
from train.report.statistics.rates import divergence, equal_rates_p
from train.text import plural, settings

ORDER: tuple[Verdict, ...] = ("supported", "not_comparable", "underpowered", "no_effect_larger_than")
BUDGET_TOLERANCE = 0.01


def claims_of_arms(
    factors: Mapping[str, Sequence[str]],
    comparisons: Mapping[str, Comparison],
    samples: Mapping[str, Sample],
    baseline: str,
    wording: Wording,
) -> tuple[Claim, ...]:
    """Return one claim per factor, for sweeps of one factor and for designs whose arms are single changes of the baseline.

    `factors`: factor -> the arms in which it differs from the baseline. Arms are named by their ids, the keys of `comparisons`
    and `samples`. An arm without a comparison has no value.
    """
    family_size = sum(map(len, factors.values()))
    label, control = wording.facts.label, samples[baseline]
    claims = []
    for factor, arms in factors.items():
        levels = [
            _LevelComparison(
                wording=wording,
                factor=factor,
                level=label(arm),
                names=(label(arm), label(baseline)),
                effect=comparisons.get(arm, Effect(nan)),
                treatment=(samples[arm],),
                control=(control,),
                pairs=((samples[arm], control),),
                family_size=family_size,
            )
            for arm in arms
        ]
        claims.append(_claim(factor, levels, wording))
    return tuple(claims)


def claims_of_grid(grid: Grid, cells: Sequence[Cell], wording: Wording) -> tuple[Claim, ...]:
    """Return one claim per factor from its main effects. Diverged runs count in every cell of the grid."""
    claims = []
    for factor in dict.fromkeys(effect.factor for effect in grid.main):
        levels = [_grid_comparison(effect, cells, len(grid.main), wording) for effect in grid.main if effect.factor == factor]
        interactions = [i for i in grid.interactions if factor in (i.first, i.second) and i.excludes_zero]
        claims.append(_claim(factor, levels, wording, interactions))
    return tuple(claims)


def _grid_comparison(effect: MainEffect, cells: Sequence[Cell], family_size: int, wording: Wording) -> _LevelComparison:
    at_level, at_baseline = ([c for c in cells if c.levels[effect.factor] == level] for level in (effect.level, effect.baseline))
    partners = {_other_levels(cell, effect.factor): cell.sample for cell in at_baseline}
    pairs = {rest: (c.sample, partners[rest]) for c in at_level if (rest := _other_levels(c, effect.factor)) in partners}
    averaged_over = ""
    if effect.of_combinations > 1:
        total = "" if effect.combinations == effect.of_combinations else f" of the {effect.of_combinations}"
        averaged_over = f"over {effect.combinations}{total} combinations of the other factors"
    return _LevelComparison(
        wording=wording,
        factor=effect.factor,
        level=effect.level,
        names=(f"{effect.factor}={effect.level}", f"{effect.factor}={effect.baseline}"),
        effect=effect,
        treatment=tuple(cell.sample for cell in at_level),
        control=tuple(cell.sample for cell in at_baseline),
        pairs=(*pairs.values(),),
        family_size=family_size,
        averaged_over=averaged_over,
    )


def _other_levels(cell: Cell, factor: str) -> tuple[tuple[str, str], ...]:
    """Return the cell's levels of all factors but `factor`."""
    return tuple(sorted((name, level) for name, level in cell.levels.items() if name != factor))


def _claim(
    factor: str, comparisons: Sequence[_LevelComparison], wording: Wording, interactions: Sequence[Interaction] = ()
) -> Claim:
    levels = tuple(comparison.claim() for comparison in comparisons)
    verdicts: list[Verdict] = [level.verdict for level in levels]
    sentences = [level.sentence for level in levels]
    sentences += [_interaction(interaction, factor, wording) for interaction in interactions]
    return Claim(factor, min(verdicts, key=ORDER.index), " ".join(sentences), levels)


@dataclass(frozen=True)
class _LevelComparison:
    """A level and its baseline: `treatment` and `control` are all arms on either side, `names` their names in this order.

    `pairs`: a treatment and a control arm that differ in this factor alone; `family_size`: how many levels the report compares
    with a baseline.
    """

    wording: Wording
    factor: str
    level: str
    names: tuple[str, str]
    effect: Effect
    treatment: tuple[Sample, ...]
    control: tuple[Sample, ...]
    pairs: tuple[tuple[Sample, Sample], ...]
    family_size: int
    averaged_over: str = ""

    def claim(self) -> LevelClaim:
        verdict, sentence = self._verdict()
        return LevelClaim(self.level, verdict, sentence, self.effect)

    def _verdict(self) -> tuple[Verdict, str]:
        if obstacles := self._obstacles():
            return "not_comparable", self._not_comparable(obstacles)
        if self.effect.bound is None:
            return "underpowered", self._no_interval()
        if self.effect.excludes_zero:
            return "supported", self._supported(self.effect.bound)
        if self.effect.bound <= self.wording.smallest_effect:
            return "no_effect_larger_than", self._no_effect(self.effect.bound)
        return "underpowered", self._underpowered()

    def _obstacles(self) -> list[str]:
        """Return why the accuracies do not compare the two sides; empty when they do."""
        facts, sides = self.wording.facts, (self.treatment, self.control)
        rates = [divergence(side) for side in sides]
        obstacles = []
        if any(rate.count for rate in rates):
            texts = [f"{sentence_text.rate(rate)} with {name}" for rate, name in zip(rates, self.names, strict=True)]
            obstacles.append(f"{texts[0]} and {texts[1]} diverged")
        failed = [(sum(sample.failed for sample in side), name) for side, name in zip(sides, self.names, strict=True)]
        obstacles += [f"{plural(count, 'run')} with {name} failed" for count, name in failed if count]
        obstacles += [
            f"no run of {facts.label(sample.arm)} completed at any level tried"
            for sample in (*self.treatment, *self.control)
            if sample.arm in facts.lost_at_every_level
        ]
        if self.factor not in facts.budget_factors:
            left, right = self._values("budgets")
            ends = zip((left[0], left[-1]), (right[0], right[-1]), strict=True) if left and right else ()
            if not all(isclose(a, b, rel_tol=BUDGET_TOLERANCE) for a, b in ends):
                obstacles.append(f"the budgets differ ({settings(left)} against {settings(right)})")
        return obstacles

    def _values(self, name: str) -> list[tuple[float, ...]]:
        """Return the distinct values of the conditions' field `name` over the arms of either side."""
        sides = [{sample.arm for sample in side} for side in (self.treatment, self.control)]
        conditions = self.wording.facts.conditions
        return [tuple(sorted({v for item in conditions if item.arm in arms for v in getattr(item, name)})) for arms in sides]

    def _not_comparable(self, obstacles: Sequence[str]) -> str:
        text = f"{' and '.join(self.names)} cannot be compared by {self.wording.metric.name} alone: {'; '.join(obstacles)}."
        if isfinite(self.effect.difference):
            measured = self._sized(sentence_text.signed, self.effect.difference)
            text += f" The completed runs differ by {measured} ({self._support}), which supports no claim."
        if self.wording.facts.tuned:  # chosen levels lost the fewest runs, so a test of these losses would prove nothing
            return f"{text} These are the runs at the level chosen for each arm; the tuning table lists the others."
        return text + self._divergence()

    def _divergence(self) -> str:
        """State whether one side diverges more often, by an exact test with Bonferroni's correction for all levels."""
        rates = [(divergence((treatment,)), divergence((control,))) for treatment, control in self.pairs]
        excess = sum(a.count - (a.count + b.count) * a.total / max(1, a.total + b.total) for a, b in rates)
        if abs(excess) < 1e-9:
            return ""
        p = min(1.0, self.family_size * equal_rates_p(rates))
        within = " within the combinations of the other factors" if len(self.pairs) > 1 else ""
        adjusted = f", adjusted for {self.family_size} comparisons" if self.family_size > 1 else ""
        test = f"exact test{within}, p = {p:.2g}{adjusted}"
        if p >= 1 - self.wording.confidence:
            return f" The divergence rates do not differ significantly ({test})."
        more, less = self.names if excess > 0 else self.names[::-1]  # the sums over all pairs may have the other sign
        return f" The divergence rates differ significantly: {more} diverges more often than {less} ({test})."

    def _no_interval(self) -> str:
        counts = [sum(len(sample.values) for sample in side) for side in (self.treatment, self.control)]
        return (
            f"{' against '.join(self.names)}: no conclusion about {self.wording.metric.name} from "
            f"{counts[0]} against {plural(counts[1], 'run')} ({self.effect.note or 'one side has no value'})."
        )

    def _supported(self, bound: float) -> str:
        metric, smallest = self.wording.metric, self.wording.smallest_effect
        direction = "higher" if self.effect.difference > 0 else "lower"
        size = self._sized(sentence_text.plain, abs(self.effect.difference))
        text = f"{self.names[0]} has a {metric.name} {size} {direction} than {self.names[1]} ({self._support})"
        if bound <= smallest:
            limit = sentence_text.at_least(smallest, metric, 2) + sentence_text.points(metric)
            text += f", below the smallest effect of interest ({limit})"
        return f"{text}{self._qualification}."

    def _no_effect(self, bound: float) -> str:
        metric, measured = self.wording.metric, sentence_text.signed(self.effect.difference, self.wording.metric, self._decimals)
        limit = self._sized(sentence_text.at_least, bound)
        return (
            f"{' against '.join(self.names)}: no effect on {metric.name} larger than {limit} "
            f"(measured {measured}, {self._support}){self._qualification}."
        )

    def _underpowered(self) -> str:
        measured = self._sized(sentence_text.signed, self.effect.difference)
        detectable = self._sized(sentence_text.at_least, self.effect.detectable or 0.0)
        return (
            f"{' against '.join(self.names)}: inconclusive; the difference in {self.wording.metric.name} is {measured} "
            f"({self._support}){self._qualification}. At this spread, the minimum detectable effect is {detectable} (80 % power)."
        )

    @property
    def _decimals(self) -> int:
        return sentence_text.decimals_for(self.effect, self.wording.metric)

    def _sized(self, form: Callable[[float, MetricInfo, int], str], value: float) -> str:
        """Return `value` in the digits that the interval supports, with its unit."""
        return form(value, self.wording.metric, self._decimals) + sentence_text.points(self.wording.metric)

    @property
    def _support(self) -> str:
        """The evidence for the difference, such as `95 % CI +1.1 to +5.3, 5 against 5 runs, Welch`."""
        effect, wording = self.effect, self.wording
        parts = [sentence_text.interval(effect, wording.metric, self._decimals, wording.confidence)]
        if isinstance(effect, Comparison | MainEffect):
            parts.append(f"{effect.n} against {plural(effect.n_baseline, 'run')}")
        return ", ".join(filter(None, [*parts, "Welch" if effect.low is not None else "", self.averaged_over]))

    @property
    def _qualification(self) -> str:
        """The end of the claim: its scope and the learning rate at which it holds."""
        facts, scope = self.wording.facts, f", {self.wording.scope}" if self.wording.scope else ""
        left, right = self._values("learning_rates")
        if not (left and right):
            return scope
        if facts.tuned_over:
            return f"{scope}, with the learning rate tuned for every arm over {settings(facts.tuned_over)}"
        if self.factor in facts.rate_factors:
            return scope
        if left != right:
            rates = f"{settings(left)} against {settings(right)}"
            return f"{scope}, with the learning rate changed as well ({rates})"
        return f"{scope}, at the learning {'rate' if len(left) == 1 else 'rates'} {settings(left)}, not tuned per arm"


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
