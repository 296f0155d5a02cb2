"""Planned looks at a sweep that grows in blocks of seeds: the decision of every arm, and what a page shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, isfinite, log
from pathlib import Path

from scipy import optimize

from train.report import sentence_text
from train.report.arms import Arm, Study, build_study
from train.report.collect import of_sweep
from train.report.contracts import Comparison, Effect, Sample
from train.report.history import CURVE_TAGS, History, read_histories
from train.report.metric import Metric, check_metric
from train.report.outcome import Outcome, outcomes
from train.report.samples import build_sample
from train.report.statistics import sequential
from train.report.statistics.compare import compare
from train.report.statistics.contrasts import contrast, effect_numbers, moments, two_sided_p, two_sided_quantile
from train.store.decisions import Decision, PlannedLooks
from train.store.manifest import Manifest
from train.store.run import Run
from train.text import listed, plural


def take_look(
    manifest: Manifest, runs: Sequence[Run], look: int, names: Sequence[str]
) -> tuple[dict[str, Decision], Mapping[str, str]]:
    """Compare the arms of these names with the baseline, by the runs that a look counts; return decisions and labels by name.

    `manifest`: with planned looks; `runs`: in the folder of the sweep. UsageError when no run has the metric.
    """
    planned = manifest.planned_looks
    assert planned is not None
    study, metric = build_study(of_sweep(manifest, runs)), Metric(planned.metric)
    histories = read_histories(study.runs, (*CURVE_TAGS, metric.tag))
    check_metric(metric, study.runs, histories)
    found = outcomes(study.runs, metric, histories)
    arms = {_name(arm): arm for arm in study.arms}
    samples = {
        name: build_sample(counted(arms[name], manifest, look), metric, histories, found) for name in (planned.arms[0], *names)
    }
    baseline, *treatments = samples.values()
    contrasts = len(planned.arms) - 1
    taken = sequential.decide(baseline, treatments, planned.looks, look, planned.margin, contrasts)
    decisions = {
        name: _record(decision, look, planned, [baseline, samples[name]]) for name, decision in zip(names, taken, strict=True)
    }
    return decisions, {name: study.labels[arm.id] for name, arm in arms.items()}


def counted(arm: Arm, manifest: Manifest, look: int) -> Arm:
    """Return the arm with the runs alone that a look counts, of all that were planned."""
    planned = manifest.planned_looks
    assert planned is not None
    identities = {run.identity for run in manifest.runs if run.arm == arm.id and planned.counts(run.overrides, look)}
    return replace(arm, runs=tuple(run for run in arm.runs if run.identity in identities), planned=planned.looks[look - 1])


def _record(decision: sequential.Decision, look: int, planned: PlannedLooks, sides: Sequence[Sample]) -> Decision:
    lost = _lost(sides)
    verdict = decision.verdict
    if verdict == "open" and look == len(planned.looks) and not lost:
        verdict = "undecided"
    numbers = (decision.difference, decision.low, decision.high)
    known = [number if isfinite(number) else None for number in numbers]
    return Decision(look, planned.looks[look - 1], verdict, decision.level, *known, note=lost if verdict == "open" else "")


def _lost(sides: Sequence[Sample]) -> str:
    """Return how many runs of either side have no result, empty if all have."""
    failed, missing = (sum(getattr(side, name) for side in sides) for name in ("failed", "missing"))
    return listed(
        [f"{plural(count, 'run')} {what}" for count, what in ((failed, "failed"), (missing, "without a result")) if count]
    )


@dataclass(frozen=True)
class LookedAt:
    """An arm at the last look at it: its sample, that of the baseline, and their comparison at the level of that look."""

    treatment: Sample
    control: Sample
    comparison: Comparison
    level: float


def looked_at(
    study: Study, metric: Metric, histories: Mapping[Path, History], found: Mapping[Path, Outcome]
) -> dict[str, LookedAt]:
    """Return the arms that were looked at as planned, by id; nothing where the metric or the baseline is not the planned one."""
    manifest = study.manifest
    planned = manifest.planned_looks if manifest else None
    if manifest is None or planned is None or metric.tag != planned.metric or _name(study.baseline) != planned.arms[0]:
        return {}
    looked: dict[str, LookedAt] = {}
    for arm in study.arms[1:]:
        decision = manifest.decisions.get(_name(arm))
        if decision is None or _name(arm) not in planned.arms:
            continue
        treatment, control = (
            build_sample(counted(side, manifest, decision.look), metric, histories, found) for side in (arm, study.baseline)
        )
        for plain in compare(control, [treatment], higher_is_better=metric.higher_is_better is not False):
            looked[arm.id] = LookedAt(treatment, control, _at_level(plain, treatment, control, decision, planned), decision.level)
    return looked


def _name(arm: Arm) -> str:
    return arm.tuned or arm.id


def _at_level(plain: Comparison, treatment: Sample, control: Sample, decision: Decision, planned: PlannedLooks) -> Comparison:
    """Return the comparison with the interval of its look, and with the p value that all looks together give."""
    if plain.low is None:
        return plain
    found = contrast([-1.0, 1.0], [moments(control.values), moments(treatment.values)])
    critical = two_sided_quantile(decision.level, found.df)
    note = f"Welch, look {decision.look} of {len(planned.looks)} after {plural(decision.seeds, 'seed')}"
    if not isfinite(critical):
        return replace(plain, low=None, high=None, p_adjusted=None, detectable=None, note=f"no interval: {note} decides nothing")
    p = repeated_p(two_sided_p(found.estimate / found.standard_error, found.df), decision.look, planned)
    return replace(plain, note=note, **effect_numbers(found, critical, p))


def repeated_p(p: float, look: int, planned: PlannedLooks) -> float:
    """Return the smallest error rate of all looks and arms together at which this look would find a difference.

    `p`: two-sided, of this look alone. (Jennison & Turnbull 2000, "Group sequential methods", section 9.5.)
    """

    def excess(log_alpha: float) -> float:
        return sequential.look_level(planned.looks, look, len(planned.arms) - 1, exp(log_alpha)) - p

    lowest, highest = log(1e-12), log(1 - 1e-9)
    if excess(highest) <= 0:
        return 1.0
    found = optimize.brentq(excess, lowest, highest, xtol=1e-3) if excess(lowest) < 0 else lowest
    return exp(float(found))  # type: ignore[arg-type]


def looks_text(planned: PlannedLooks) -> str:
    """Return in a sentence how a sweep with planned looks compares its arms."""
    when = f"after {listed([str(seeds) for seeds in planned.looks])} seeds per arm"
    stops = ", and gets no more seeds once it is decided" if planned.stops else ""
    return (
        f"planned before the first run, {when}; each arm is compared by the runs of the look that decided it, or else of the "
        f"last one, at the level of that look{stops}. All looks at all arms together make a false claim in at most 5 % of sweeps"
    )


def decision_line(label: str, decision: Decision, planned: PlannedLooks) -> str:
    """Return the decision in words, as `norm=none: different after 10 seeds, +2.7 [+1.6, +3.8]; no more seeds`.

    Empty for an arm that is open because its interval is wide.
    """
    if decision.verdict == "open":
        remedy = "repeat the sweep to make them again"
        return decision.note and f"{label}: not decided after {plural(decision.seeds, 'seed')}, as {decision.note}; {remedy}"
    numbers = f", {_interval(decision, Metric(planned.metric))}" if decision.low is not None else ""
    more = "" if decision.seeds == planned.looks[-1] else "; no more seeds" if planned.stops else "; its seeds go on"
    return f"{label}: {decision.verdict.replace('_', ' ')} after {plural(decision.seeds, 'seed')}{numbers}{more}"


def _interval(decision: Decision, metric: Metric) -> str:
    assert decision.difference is not None
    assert decision.low is not None
    assert decision.high is not None
    effect = Effect(decision.difference, decision.low, decision.high)
    decimals = sentence_text.decimals_for(effect, metric)
    middle, low, high = (
        sentence_text.signed(value, metric, decimals) for value in (effect.difference, decision.low, decision.high)
    )
    return f"{middle} [{low}, {high}]{sentence_text.points(metric)}"
