"""What stands above a page: what was run, on what data and device, how it is compared, and the versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from train.command import stored_command
from train.report import table_text
from train.report.analysis import Analysis
from train.report.arms import Study
from train.report.facts import code_version, hosts_of
from train.report.looks import looks_text
from train.report.plan_threats import metric_origin
from train.report.subset import others_text
from train.report.tuning_text import cost
from train.store.overrides import text
from train.store.run import Run
from train.text import plural

DESIGNS = {
    "grid": "grid: all combinations of the levels",
    "one_at_a_time": "one at a time: the baseline, and variants with a single change",
    "leave_one_out": "leave one out: the full recipe, and variants with one ingredient replaced",
}
MOST_MACHINES = 6
"""Machines that a page names; results.csv has that of every run."""
_STATES = ("done", "diverged", "failed", "lost", "incomplete", "interrupted", "running", "queued")


def header_fields(analysis: Analysis) -> Iterable[tuple[str, str]]:
    """Yield the (name, value) fields at the top: what was run, on what data and device, and how it is compared."""
    yield from (
        ("Verdicts", found.standing.sentence) for found in (analysis.final, analysis) if found and found.standing.sentence
    )
    study, metric, runs = analysis.study, analysis.metric, analysis.study.runs
    if study.collection.table:
        yield from _of_table(analysis)
        return
    yield from plan_fields(study)
    if study.manifest and study.manifest.planned_looks:
        yield "Looks", looks_text(study.manifest.planned_looks)
    if study.tune:
        yield "Tuned", f"{', '.join(study.tune)}, for every arm, by validation accuracy ({cost(analysis.chosen)})"
    origin = "; ".join(filter(None, ["after the last step, not at the best epoch", metric_origin(study, metric)]))
    yield "Baseline", f"{study.baseline.all_levels}: {study.baseline_reason}"
    yield "Metric", f"{metric.name} ({metric.tag}) {origin}. {metric.direction}."
    examples = sorted({count for run in runs if (count := metric.examples(run)) is not None})
    evaluated = f"; the metric is evaluated on {' or '.join(f'{count:,}' for count in examples)} images" if examples else ""
    yield from setup_fields(study, evaluated)


def plan_fields(study: Study) -> Iterable[tuple[str, str]]:
    """Yield what was planned and run."""
    commands = [stored_command(plan.manifest.command) for plan in study.collection.plans if plan.manifest.command]
    yield "Command", "; ".join(commands) or "runs collected from folders, without a sweep manifest"
    if study.collection.left_out:
        yield "Left out", study.collection.left_out
    if study.manifest and study.manifest.study:
        yield "Study", study.manifest.study
    if study.design:
        yield "Design", DESIGNS[study.design]
    yield "Runs", _counts(study)
    if study.collection.subset:
        yield "Subset", study.collection.subset.sentence
        if others := others_text(study.collection):
            yield "Not on this page", "; ".join(others)


def setup_fields(study: Study, evaluated: str = "") -> Iterable[tuple[str, str]]:
    """Yield on what data and device the runs trained, how long, and where they are. `evaluated`: added to the data."""
    runs = study.runs
    yield "Data", _varied(runs, lambda run: run.choices.get("data") or _value(run, "data", "_target_")) + evaluated
    yield (
        "Training",
        f"{_varied(runs, _budget)}, batch size {_varied(runs, lambda run: _value(run, 'trainer', 'batch_size'))}",
    )
    yield (
        "Device",
        _varied(
            runs, lambda run: ", ".join(filter(None, (str(run.status.get("device", "")), str(run.status.get("precision", "")))))
        ),
    )
    yield "Machine", _machines(runs)
    yield "Folders", ", ".join(map(str, study.collection.folders))


def _machines(runs: Sequence[Run]) -> str:
    """Return the machines, each with the number of runs that it made, the one with most first."""
    made = Counter(" then ".join(hosts_of(run)) for run in runs)
    found = [f"{name} ({plural(count, 'run')})" for name, count in made.most_common() if name]
    more = len(found) - MOST_MACHINES
    return ", ".join([*found[:MOST_MACHINES], *([f"{more} more"] if more > 0 else [])]) or table_text.UNKNOWN


def _of_table(analysis: Analysis) -> Iterable[tuple[str, str]]:
    study, metric = analysis.study, analysis.metric
    yield "Table", f"{study.collection.folders[0]}: {study.collection.table}"
    yield "Not there", "curves, layers, costs, classes, configurations, versions and commands: the page has none of them"
    yield "Runs", _counts(study)
    yield "Baseline", f"{study.baseline.all_levels}: {study.baseline_reason}"
    yield "Metric", f"{metric.name}. {metric.direction}."


def _counts(study: Study) -> str:
    states = Counter(run.state for run in study.runs)
    counts = [f"{states[state]} {state}" for state in _STATES if states[state]]
    missing = len(study.collection.missing)
    arms = plural(len(study.arms), "arm")
    return ", ".join(
        [f"{plural(len(study.runs), 'run')} of {arms}: {', '.join(counts) or 'none yet'}"]
        + ([f"{missing} not started"] if missing else [])
    )


def _budget(run: Run) -> str:
    steps = _value(run, "trainer", "max_steps")
    epochs = "1 epoch" if (number := _value(run, "trainer", "epochs")) == "1" else f"{number} epochs"
    return f"{epochs}, at most {steps} steps" if steps not in ("", "null") else epochs


def _value(run: Run, *keys: str) -> str:
    value: Any = run.config
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else ""
    return text(value)


def _varied(runs: Sequence[Run], read: Callable[[Run], str]) -> str:
    """Return the distinct values of `read` over the runs, the most frequent first."""
    values = [value for value, _ in Counter(filter(None, map(read, runs))).most_common()]
    return " or ".join(values[:4]) + (f" or {len(values) - 4} others" if len(values) > 4 else "") or table_text.UNKNOWN


def versions(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    yield "code", _varied(runs, code_version)
    names = dict.fromkeys(name for run in runs for name in _versions_of(run))
    for name in names:
        yield name, _varied(runs, lambda run, name=name: str(_versions_of(run).get(name, "")))


def _versions_of(run: Run) -> Mapping[str, Any]:
    versions = run.status.get("versions")
    return versions if isinstance(versions, dict) else {}
