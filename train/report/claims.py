"""State, for each factor, what the runs support: a claim for each of its levels (`level_claim.py`), and its interactions.

Interactions in a grid do not change a verdict. Those whose interval excludes 0 are added, because an average over combinations
hides them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

from train.report import sentence_text
from train.report.contracts import Claim, Comparison, Effect, Sample, Wording
from train.report.grid_contracts import Cell, Grid, Interaction, MainEffect, named
from train.report.level_claim import LevelComparison
from train.report.looks import LookedAt


def claims_of_arms(
    factors: Mapping[str, Sequence[str]],
    comparisons: Mapping[str, Comparison],
    samples: Mapping[str, Sample],
    baseline: str,
    wording: Wording,
    looked: Mapping[str, LookedAt] | None = None,
) -> tuple[Claim, ...]:
    """Return one claim per factor, for sweeps of one factor and for designs whose arms are single changes of the baseline.

    `factors`: factor -> the arms in which it differs from the baseline. Arms are named by their ids, the keys of `comparisons`
    and `samples`. An arm without a comparison has no value. `looked`: those that planned looks compared; their samples stand
    for those in `samples`.
    """
    family_size = sum(map(len, factors.values()))
    claims = []
    for factor, arms in factors.items():
        compared = [_comparison(arm, factor, comparisons, samples, baseline, wording, looked, family_size) for arm in arms]
        claims.append(_claim(factor, compared, wording))
    return tuple(claims)


def comparable_arms(
    factors: Mapping[str, str],
    comparisons: Mapping[str, Comparison],
    samples: Mapping[str, Sample],
    baseline: str,
    wording: Wording,
    looked: Mapping[str, LookedAt] | None = None,
) -> frozenset[str]:
    """Return the arms whose means can be compared with the baseline's. `factors`: arm -> the factors in which it differs."""
    return frozenset(
        arm
        for arm, factor in factors.items()
        if _comparison(arm, factor, comparisons, samples, baseline, wording, looked, len(factors)).is_comparable
    )


def _comparison(
    arm: str,
    factor: str,
    comparisons: Mapping[str, Comparison],
    samples: Mapping[str, Sample],
    baseline: str,
    wording: Wording,
    looked: Mapping[str, LookedAt] | None,
    family_size: int,
) -> LevelComparison:
    label, look = wording.facts.label, (looked or {}).get(arm)
    treatment, control = (look.treatment, look.control) if look else (samples[arm], samples[baseline])
    return LevelComparison(
        wording=wording,
        factor=factor,
        level=label(arm),
        names=(label(arm), label(baseline)),
        effect=comparisons.get(arm, Effect(nan)),
        treatment=(treatment,),
        control=(control,),
        pairs=((treatment, control),),
        family_size=family_size,
        look_level=look.level if look else None,
    )


def claims_of_grid(grid: Grid, cells: Sequence[Cell], wording: Wording) -> tuple[Claim, ...]:
    """Return one claim per factor from its main effects. Diverged runs count in every cell of the grid."""
    claims = []
    for factor in dict.fromkeys(effect.factor for effect in grid.main):
        levels = [_grid_comparison(effect, cells, len(grid.main), wording) for effect in grid.main if effect.factor == factor]
        interactions = [i for i in grid.interactions if factor in (i.first, i.second) and i.excludes_zero]
        claims.append(_claim(factor, levels, wording, interactions))
    return tuple(claims)


def _grid_comparison(effect: MainEffect, cells: Sequence[Cell], family_size: int, wording: Wording) -> LevelComparison:
    at_level, at_baseline = ([c for c in cells if c.levels[effect.factor] == level] for level in (effect.level, effect.baseline))
    partners = {_other_levels(cell, effect.factor): cell.sample for cell in at_baseline}
    pairs = {rest: (c.sample, partners[rest]) for c in at_level if (rest := _other_levels(c, effect.factor)) in partners}
    averaged_over = ""
    if effect.of_combinations > 1:
        total = "" if effect.combinations == effect.of_combinations else f" of the {effect.of_combinations}"
        averaged_over = f"over {effect.combinations}{total} combinations of the other factors"
        if any(side.untrained for pair in pairs.values() for side in pair):
            averaged_over += " in which every run trained"
    return LevelComparison(
        wording=wording,
        factor=effect.factor,
        level=effect.level,
        names=(named(effect.factor, effect.level), named(effect.factor, effect.baseline)),
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
    factor: str, comparisons: Sequence[LevelComparison], wording: Wording, interactions: Sequence[Interaction] = ()
) -> Claim:
    levels = tuple(comparison.claim() for comparison in comparisons)
    return Claim(factor, levels, tuple(_interaction(interaction, factor, wording) for interaction in interactions))


def _interaction(i: Interaction, factor: str, wording: Wording) -> str:
    """Describe the interaction from the side of `factor`; the number is the same from either side."""
    first, second = (i.first, i.first_level, i.first_baseline), (i.second, i.second_level, i.second_baseline)
    (name, level, base), (other, other_level, other_base) = (first, second) if factor == i.first else (second, first)
    decimals = sentence_text.decimals_for(i, wording.metric)
    size = sentence_text.plain(abs(i.difference), wording.metric, decimals) + sentence_text.points(wording.metric)
    direction = "higher" if i.difference > 0 else "lower"
    return (
        f"Interaction with {other}: the effect of {named(name, level)} against {named(name, base)} is {size} {direction} with "
        f"{named(other, other_level)} than with {named(other, other_base)} "
        f"({sentence_text.interval(i, wording.metric, decimals, wording.confidence)})."
    )
