"""Apply the statistics to a study: build samples from runs and collect all results by the id of the arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from train.report.arms import Arm, Study, build_study
from train.report.claims import claims_of_arms, claims_of_grid, comparable_arms
from train.report.classes import TAG, ClassEffects, class_effects
from train.report.contracts import (
    SMALLEST_EFFECT,
    Claim,
    Comparison,
    Rate,
    Sample,
    Threat,
    Wording,
)
from train.report.facts import collect_facts, scope_of
from train.report.grid_contracts import JOINED, Cell, Grid
from train.report.history import History
from train.report.looks import LookedAt, looked_at
from train.report.metric import Metric
from train.report.outcome import Outcome, outcomes, unknown_outcomes
from train.report.plan_threats import changes_of_plan, plan_threats
from train.report.samples import build_sample
from train.report.standing import NO_PLAN, FirstPlan, PageStanding, first_plan, standing_of, tagged
from train.report.statistics.compare import compare
from train.report.statistics.effects import factorial
from train.report.statistics.pairs import AllPairs, pairwise
from train.report.statistics.rates import divergence, training
from train.report.statistics.threats import RANK, find_threats
from train.report.tuning_text import Chosen, tuning_threats
from train.store.run import Run


@dataclass(frozen=True)
class Analysis:
    """All results for a study, by the id of the arm; the baseline and arms without values have no comparison."""

    study: Study
    metric: Metric
    histories: Mapping[Path, History]
    samples: Mapping[str, Sample]
    comparisons: Mapping[str, Comparison]
    rates: Mapping[str, Rate]
    outcomes: Mapping[Path, Outcome]
    grid: Grid | None
    pairs: AllPairs | None
    claims: tuple[Claim, ...]
    comparable: frozenset[str]
    threats: tuple[Threat, ...]
    wording: Wording
    standing: PageStanding = NO_PLAN
    plan: FirstPlan | None = None
    """What was planned before anybody saw final verdicts; None for runs of no sweep, or of several."""
    final: Analysis | None = None
    """Of a sweep that grew: the analysis of that plan alone."""

    def history(self, run: Run) -> History:
        return self.histories[run.folder]

    @property
    def is_open(self) -> bool:
        """Whether the verdicts of the plan may still change."""
        return self.plan is not None and self.plan.is_open

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """Labels and choices of the arms, in the order of the table; empty without tuned keys."""
        return tuple((self.study.labels[arm.id], arm.choice) for arm in self.ranked if arm.choice)

    def value(self, run: Run) -> float:
        """Return the metric of a completed run; NaN for any other."""
        return self.metric.value(run, self.history(run)) if run.state == "done" else math.nan

    def runs_with_value(self, arm: Arm) -> tuple[Run, ...]:
        """Return the runs that have a value of the metric."""
        return tuple(run for run in arm.runs if math.isfinite(self.value(run)))

    def averaged_runs(self, arm: Arm) -> tuple[Run, ...]:
        """Return the completed runs that means are over: those that trained, or of which nothing tells whether they did."""
        return tuple(run for run in arm.runs_in("done") if self.outcomes[run.folder].trained is not False)

    def untrained_runs(self, arm: Arm) -> tuple[Run, ...]:
        """Return the completed runs that learned nothing."""
        return tuple(run for run in arm.runs_in("done") if self.outcomes[run.folder].trained is False)

    @property
    def nothing_trained(self) -> str:
        """Why there is no comparison, in one sentence, where no run learned anything; empty otherwise."""
        if not nothing_trained(self.samples):
            return ""
        diverged, untrained = (
            sum(getattr(sample, name) for sample in self.samples.values()) for name in ("diverged", "untrained")
        )
        also = f", and {diverged} diverged" if diverged else ""
        return f"No run trained: {untrained} learned nothing{also}, so there is nothing to compare."

    def training(self, arm: Arm) -> Rate | None:
        """Return the rate of runs that trained; None where nothing tells of a run whether it did."""
        known = all(self.outcomes[run.folder].trained is not None for run in arm.runs_in("done"))
        return training([self.samples[arm.id]]) if known else None

    def effect(self, arm: Arm) -> float:
        """Return how much better (or, where nothing is better, higher) than the baseline the arm is; NaN without a value."""
        comparison = self.comparisons.get(arm.id)
        if arm.is_baseline and self.samples[arm.id].values:
            return 0.0
        change = comparison.difference if comparison else self.mean(arm)
        return -change if self.metric.higher_is_better is False else change

    def mean(self, arm: Arm) -> float:
        values = self.samples[arm.id].values
        return sum(values) / len(values) if values else math.nan

    def sd(self, arm: Arm) -> float:
        """Return the standard deviation between runs; NaN for fewer than two."""
        values = self.samples[arm.id].values
        return statistics.stdev(values) if len(values) > 1 else math.nan

    @cached_property
    def classes(self) -> ClassEffects:
        """The differences of comparable arms in each class; none where the metric is not the accuracy on the test split."""
        kept = [arm for arm in self.study.arms if arm.is_baseline or arm.id in self.comparable]
        arms = [(arm.id, self.averaged_runs(arm)) for arm in kept]
        return class_effects(arms) if self.metric.tag == TAG else ClassEffects()

    @cached_property
    def ranked(self) -> tuple[Arm, ...]:
        """The arms, best first; arms without a value last."""
        effects = {arm.id: self.effect(arm) for arm in self.study.arms}
        return tuple(sorted(self.study.arms, key=lambda arm: (math.isnan(effects[arm.id]), -_or_zero(effects[arm.id]))))


def analyse_by_plan(
    study: Study, metric: Metric, histories: Mapping[Path, History], *, pairs: bool, smallest_effect: float | None
) -> Analysis:
    """Run all statistics on a study, and tell which verdicts are final. Arguments as of `analyse`."""
    plan = first_plan(study.collection)
    found = analyse(study, metric, histories, pairs=pairs, smallest_effect=smallest_effect)
    follows = not changes_of_plan(study, metric, found.wording.smallest_effect)
    standing = standing_of(plan, follows_plan=follows, is_of_plan=plan is not None and not plan.later_runs)
    final = None
    if plan is not None and plan.later_runs and follows and plan.collection.runs and (plan.seen or not plan.is_unfinished):
        first = analyse(build_study(plan.collection), metric, histories, pairs=False, smallest_effect=smallest_effect)
        of_plan = standing_of(plan, follows_plan=True, is_of_plan=True)
        final = _standing(first, of_plan, plan, "final")
    return replace(_standing(found, standing, plan), final=final)


def _standing(found: Analysis, standing: PageStanding, plan: FirstPlan | None, if_final: str = "") -> Analysis:
    """Return an analysis that says of each verdict whether it is final; `if_final`: what is said where all are."""
    tags: dict[str, str] = {}
    if standing.kind == "interim" and plan is not None:
        tags = {found.study.labels[arm.id]: plan.tag(arm.tuned or arm.id) for arm in found.study.arms[1:]}
    every = {"exploratory": "exploratory", "final": if_final}.get(standing.kind or "", "")
    return replace(found, standing=standing, plan=plan, claims=tagged(found.claims, lambda level: tags.get(level, every)))


def analyse(
    study: Study,
    metric: Metric,
    histories: Mapping[Path, History],
    *,
    pairs: bool,
    smallest_effect: float | None,
    found: Mapping[Path, Outcome] | None = None,
) -> Analysis:
    """Run all statistics on a study. `histories`: by run folder; `pairs`: also compare all pairs of arms; `smallest_effect`: in
    units of the metric, None for the default; `found`: run folder -> outcome of every completed run, where it is known."""
    found = outcomes(study.runs, metric, histories) if found is None else found
    samples = {arm.id: build_sample(arm, metric, histories, found) for arm in study.arms}
    baseline, treatments = samples[study.baseline.id], [samples[arm.id] for arm in study.arms[1:]]
    compared = compare(baseline, treatments, higher_is_better=metric.higher_is_better is not False)
    looked = looked_at(study, metric, histories, found)
    comparisons = {comparison.arm: comparison for comparison in compared} | {arm: item.comparison for arm, item in looked.items()}
    has_values = any(sample.values for sample in samples.values())
    grid = factorial(cells_of(study, samples), varied_factors(study)) if study.is_grid and has_values else None
    facts = collect_facts(study, metric)
    chosen = [(study.labels[arm.id], arm.choice) for arm in study.arms if arm.choice]
    smallest = SMALLEST_EFFECT if smallest_effect is None else smallest_effect
    wording = Wording(metric, smallest, is_default=smallest_effect is None, scope=scope_of(study), facts=facts)
    families = [grid.main, grid.interactions, compared] if grid else [[*comparisons.values()]]
    intervals = [count for effects in families if (count := sum(effect.low is not None for effect in effects))]
    threats = [
        *tuning_threats(study.tune, chosen, metric),
        *plan_threats(study, metric, smallest),
        *([Threat("unknown_outcomes", sentence, "note")] if (sentence := unknown_outcomes(found.values())) else []),
        *find_threats(list(samples.values()), facts, metric, comparisons=sum(intervals), tables=len(intervals)),
    ]
    if nothing_trained(samples):  # the page says so in the place of its claims
        threats = [threat for threat in threats if threat.kind not in ("untrained_runs", "diverged_runs")]
    differing = {arm.id: JOINED.join(study.changes(arm)) for arm in study.arms[1:]}
    return Analysis(
        study=study,
        metric=metric,
        histories=histories,
        samples=samples,
        comparisons=comparisons,
        rates={name: divergence([sample]) for name, sample in samples.items()},
        outcomes=found,
        grid=grid,
        pairs=pairwise(list(samples.values())) if pairs else None,
        claims=make_claims(study, samples, comparisons, grid, wording, looked),
        comparable=comparable_arms(differing, comparisons, samples, study.baseline.id, wording, looked),
        threats=tuple(sorted(threats, key=lambda threat: RANK[threat.severity])),
        wording=wording,
    )


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def make_claims(
    study: Study,
    samples: Mapping[str, Sample],
    comparisons: Mapping[str, Comparison],
    grid: Grid | None,
    wording: Wording,
    looked: Mapping[str, LookedAt],
) -> tuple[Claim, ...]:
    """Return the claims: for a grid from its main effects, otherwise from the arms, grouped by the factors that differ."""
    if len(study.arms) < 2 or nothing_trained(samples):
        return ()
    if grid is not None:
        return claims_of_grid(grid, cells_of(study, samples), wording)
    arms: dict[str, list[str]] = {JOINED.join(group): [] for group in study.groups}
    for arm in study.arms[1:]:
        arms.setdefault(JOINED.join(study.changes(arm)) or "other settings", []).append(arm.id)
    by_factor = {factor: ids for factor, ids in arms.items() if ids}
    return claims_of_arms(by_factor, comparisons, samples, study.baseline.id, wording, looked)


def nothing_trained(samples: Mapping[str, Sample]) -> bool:
    """Return whether runs ended and none of them learned anything: then there is nothing to compare."""
    return any(sample.untrained for sample in samples.values()) and not any(sample.values for sample in samples.values())


def varied_factors(study: Study) -> dict[str, tuple[str, ...]]:
    """Return factor -> levels, the baseline's first, of the varied factors; those that move together are one."""
    levels = {group: [_level(arm, group) for arm in study.arms] for group in study.groups}
    return {JOINED.join(group): _in_order(study, group, found) for group, found in levels.items()}


def _in_order(study: Study, group: Sequence[str], found: Sequence[str]) -> tuple[str, ...]:
    """Return the levels in the order of those of a single factor, of joined ones in the order of the arms."""
    return study.factors[group[0]] if len(group) == 1 else tuple(dict.fromkeys(found))


def _level(arm: Arm, group: Sequence[str]) -> str:
    return JOINED.join(arm.levels[factor] for factor in group)


def cells_of(study: Study, samples: Mapping[str, Sample]) -> list[Cell]:
    """Return the cells of the grid, one per arm."""
    return [Cell({JOINED.join(group): _level(arm, group) for group in study.groups}, samples[arm.id]) for arm in study.arms]
