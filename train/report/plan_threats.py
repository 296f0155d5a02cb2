"""Compare what a report uses with what the plan of its sweep chose before the first run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from train.errors import UsageError
from train.report.arms import Study
from train.report.contracts import SMALLEST_EFFECT, Threat
from train.report.metric import Metric
from train.store.manifest import Manifest, read_manifest
from train.store.overrides import dotted_key
from train.text import listed, plural

BY_RESULT = "They were chosen by what came out, so that their means are not those of their settings: claim nothing from them."
EXPLORATORY = "What is chosen after results are seen proves nothing by itself: read the claims as exploratory."


def metric_origin(study: Study, metric: Metric) -> str:
    """Return who chose the metric, and when, in a few words; empty without a plan."""
    planned = _planned_metrics(study)
    if not study.collection.plans:
        return ""
    if "" in planned:
        return "an earlier version made the plan, which does not name its metric"
    return "as planned before the first run" if planned == {metric.tag} else f"the plan names {listed(sorted(planned))}"


def plan_threats(study: Study, metric: Metric, smallest_effect: float) -> Iterator[Threat]:
    """Yield a caution for everything that is not the plan's, and for runs that were chosen; for runs without a plan, a note.

    `smallest_effect`: the one that the report uses.
    """
    if chosen := chosen_threats(study):
        yield from chosen
        return
    if not study.collection.plans:
        yield from _without_plan(study)
        return
    if changes := changes_of_plan(study, metric, smallest_effect):
        yield Threat("not_as_planned", f"The report does not follow the plan: {'; '.join(changes)}. {EXPLORATORY}", "caution")


def chosen_threats(study: Study) -> tuple[Threat, ...]:
    """Return a threat if runs of the study were chosen by a condition."""
    if (subset := study.collection.subset) is None or not subset.is_chosen:
        return ()
    advice, severity = (BY_RESULT, "serious") if subset.by_result else (EXPLORATORY, "caution")
    return (Threat("chosen_runs", f"{subset.sentence} {advice}", severity),)


def changes_of_plan(study: Study, metric: Metric, smallest_effect: float) -> list[str]:
    """Return what of a report is not as its plans have it. `smallest_effect`: the one that the report uses."""
    return list(_changes(study, metric, smallest_effect)) if study.collection.plans else []


def _changes(study: Study, metric: Metric, smallest_effect: float) -> Iterator[str]:
    manifests = [plan.manifest for plan in study.collection.plans]
    metrics = _planned_metrics(study) - {"", metric.tag}
    if metrics:
        yield f"the metric is {metric.tag}, not {listed(sorted(metrics))}"
    if all(manifest.baseline not in study.baseline.ids for manifest in manifests):
        yield f"the baseline is {study.baseline.all_levels}, not {_planned_baseline(study, manifests[0])}"
    sizes = {SMALLEST_EFFECT if m.smallest_effect is None else m.smallest_effect for m in manifests if m.metric}
    if sizes and smallest_effect not in sizes:
        unit = " (fractions, not percentage points)" if metric.is_share else ""
        planned = listed([f"{size:g}" for size in sorted(sizes)])
        yield f"the smallest effect of interest is {smallest_effect:g}, not {planned}{unit}"
    tuned = {tuple(map(dotted_key, manifest.tune)) for manifest in manifests}
    if tuned != {study.tune}:
        yield f"the tuned keys are {listed(list(study.tune)) or 'none'}"


def _planned_metrics(study: Study) -> set[str]:
    return {plan.manifest.metric for plan in study.collection.plans}


def _planned_baseline(study: Study, manifest: Manifest) -> str:
    labels = {name: arm.all_levels for arm in study.arms for name in arm.ids}
    return labels.get(manifest.baseline, "the arm that the sweep planned")


def _without_plan(study: Study) -> Iterator[Threat]:
    for folder in dict.fromkeys(run.folder.parent for run in study.runs):
        if manifest := _manifest_of(folder):
            picked = f"{plural(len(study.runs), 'run')} picked from the {len(manifest.runs)} of the sweep in {folder}"
            yield Threat("not_as_planned", f"The report is on {picked}. {EXPLORATORY}", "caution")
            return
    sentence = "No plan names a metric, a baseline and a smallest effect that were chosen before the runs."
    yield Threat("not_as_planned", f"{sentence} {EXPLORATORY}", "note")


def _manifest_of(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except UsageError:
        return None
