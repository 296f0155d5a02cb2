"""What stands on the page, in its order, before anything is laid out."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.report import table, table_text
from train.report.analysis import Analysis, code_version
from train.report.collect import FAILED, ExcludedRun
from train.report.contracts import Claim, Threat
from train.report.figures.style import ReportFigure
from train.report.levels import text
from train.report.tuning_text import LevelRow, cost, level_rows, tuning_paragraphs
from train.sinks import number_text
from train.store.manifest import Dropped, PlannedRun
from train.store.run import Run

VERDICTS = {
    "supported": "supported",
    "no_effect_larger_than": "no effect larger than",
    "underpowered": "underpowered",
    "not_comparable": "not comparable",
}
DESIGNS = {
    "grid": "grid: all combinations of the levels",
    "one_at_a_time": "one at a time: the baseline, and each single change of it",
    "leave_one_out": "leave one out: the full recipe, and each single ingredient of it replaced",
}
_STATES = ("done", "diverged", "failed", "lost", "interrupted", "running", "queued")


@dataclass(frozen=True)
class ArmCommands:
    """The commands that give one arm's runs again."""

    label: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """`asked`: (what, answer) of the top of the page; `scale`: the ends of the strip of dots."""

    title: str
    asked: tuple[tuple[str, str], ...]
    metric: str
    higher_is_better: bool
    value_unit: str
    difference_unit: str
    scale: tuple[str, str]
    smallest_effect: str
    claims: tuple[Claim, ...]
    rows: tuple[table.ArmRow, ...]
    tuning: tuple[str, ...]
    levels: tuple[LevelRow, ...]
    main_effects: tuple[table.EffectRow, ...]
    interactions: tuple[table.EffectRow, ...]
    grid_notes: tuple[str, ...]
    pairs: tuple[table.EffectRow, ...]
    figures: tuple[ReportFigure, ...]
    threats: tuple[Threat, ...]
    running: tuple[table.RunRow, ...]
    failed: tuple[table.RunRow, ...]
    diverged: tuple[table.RunRow, ...]
    missing: tuple[PlannedRun, ...]
    dropped: tuple[Dropped, ...]
    unreadable: tuple[ExcludedRun, ...]
    repeated: tuple[ExcludedRun, ...]
    notes: tuple[str, ...]
    repeats: tuple[ArmCommands, ...]
    versions: tuple[tuple[str, str], ...]

    def drawing(self, *names: str) -> tuple[ReportFigure, ...]:
        return tuple(drawing for drawing in self.figures if drawing.name in names)

    def drawings_but(self, *names: str) -> tuple[ReportFigure, ...]:
        return tuple(drawing for drawing in self.figures if drawing.name not in names)


def build_content(analysis: Analysis, drawings: Sequence[ReportFigure]) -> Content:
    study, metric = analysis.study, analysis.metric
    values = [value for sample in analysis.samples.values() for value in sample.values]
    scale = (table_text.value(metric, min(values)), table_text.value(metric, max(values))) if values else ("", "")
    plans = [plan.manifest for plan in study.collection.plans]
    return Content(
        title=title_of(analysis),
        asked=tuple(header_fields(analysis)),
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        value_unit="%" if metric.is_share else "",
        difference_unit="points" if metric.is_share else "",
        scale=scale,
        smallest_effect=f"{table_text.difference(metric, analysis.smallest_effect).lstrip('+')} {table_text.unit(metric)}",
        claims=analysis.claims,
        rows=table.rows(analysis),
        tuning=tuning_paragraphs(study.tune, analysis.chosen, metric) if study.tune else (),
        levels=level_rows(analysis.chosen),
        main_effects=table.main_effects(analysis),
        interactions=table.interactions(analysis),
        grid_notes=analysis.grid.notes if analysis.grid else (),
        pairs=table.pairs(analysis),
        figures=tuple(drawings),
        threats=analysis.threats,
        running=table.listed_runs(analysis, "running", "queued"),
        failed=table.listed_runs(analysis, *FAILED, "interrupted"),
        diverged=table.listed_runs(analysis, "diverged"),
        missing=study.collection.missing,
        dropped=tuple(dropped for plan in plans for dropped in plan.dropped),
        unreadable=study.collection.unreadable,
        repeated=study.collection.repeated,
        notes=tuple(_notes(analysis)),
        repeats=tuple(ArmCommands(analysis.samples[arm.id].arm, table.commands(arm)) for arm in analysis.ranked),
        versions=tuple(_versions(study.runs)),
    )


def title_of(analysis: Analysis) -> str:
    factors = [factor for factor, levels in analysis.study.factors.items() if len(levels) > 1]
    if not 1 <= len(factors) <= 4:
        return (
            f"{number_text.plural(len(analysis.study.arms), 'arm')} compared by {analysis.metric.name}"
            if factors
            else "One arm, without a comparison"
        )
    named = factors[0] if len(factors) == 1 else f"{', '.join(factors[:-1])} and {factors[-1]}"
    return f"What {named} {'does' if len(factors) == 1 else 'do'} to {analysis.metric.name}"


def header_fields(analysis: Analysis) -> Iterable[tuple[str, str]]:
    """What was run, on what, and how it is judged."""
    study, metric, runs = analysis.study, analysis.metric, analysis.study.runs
    commands = [shlex.join(plan.manifest.command) for plan in study.collection.plans if plan.manifest.command]
    yield "Command", "; ".join(commands) or "runs collected from folders; no plan of a sweep among them"
    if study.manifest and study.manifest.study:
        yield "Study", study.manifest.study
    if study.design:
        yield "Design", DESIGNS[study.design]
    yield "Runs", _counts(analysis)
    if study.tune:
        yield "Tuned", f"{', '.join(study.tune)}, for every arm, by validation accuracy: {cost(analysis.chosen)}"
    yield "Baseline", f"{study.baseline.full_label}: {study.baseline_because}"
    yield (
        "Metric",
        (
            f"{metric.name} ({metric.tag}) after the last step of a run, never that of the best epoch; chosen in advance. "
            f"{'Higher' if metric.higher_is_better else 'Lower'} is better."
        ),
    )
    examples = sorted({count for run in runs if (count := metric.examples(run)) is not None})
    counted = f"; the metric is counted on {' or '.join(f'{count:,}' for count in examples)} images" if examples else ""
    yield "Data", _varied(runs, lambda run: run.choices.get("data") or _value(run, "data", "_target_")) + counted
    yield (
        "Training",
        f"{_varied(runs, _budget)}, batches of {_varied(runs, lambda run: _value(run, 'trainer', 'batch_size'))} images",
    )
    yield (
        "Device",
        _varied(
            runs, lambda run: ", ".join(filter(None, (str(run.status.get("device", "")), str(run.status.get("precision", "")))))
        ),
    )
    yield "Folders", ", ".join(map(str, study.collection.folders))


def _counts(analysis: Analysis) -> str:
    study = analysis.study
    states = Counter(run.state for run in study.runs)
    said = [f"{states[state]} {state}" for state in _STATES if states[state]]
    missing = len(study.collection.missing)
    arms = number_text.plural(len(study.arms), "arm")
    return ", ".join(
        [f"{number_text.plural(len(study.runs), 'run')} of {arms}: {', '.join(said) or 'none yet'}"]
        + ([f"{missing} not made"] if missing else [])
    )


def _budget(run: Run) -> str:
    steps = _value(run, "trainer", "max_steps")
    epochs = "1 epoch" if (number := _value(run, "trainer", "epochs")) == "1" else f"{number} epochs"
    return f"{epochs}, at most {steps} steps" if steps not in ("", "null") else epochs


def _value(run: Run, *keys: str) -> str:
    found: Any = run.config
    for key in keys:
        found = found.get(key, "") if isinstance(found, Mapping) else ""
    return text(found)


def _varied(runs: Sequence[Run], read: Callable[[Run], str]) -> str:
    """The different answers, the most frequent first."""
    found = [value for value, _ in Counter(filter(None, map(read, runs))).most_common()]
    return " or ".join(found[:4]) + (f" or {len(found) - 4} others" if len(found) > 4 else "") or table_text.UNKNOWN


def _notes(analysis: Analysis) -> Iterable[str]:
    """What else a reader has to know of the material."""
    for plan in analysis.study.collection.plans:
        yield from plan.manifest.notes
    if len({plan.manifest.tune for plan in analysis.study.collection.plans}) > 1 and not analysis.study.tune:
        yield "the sweeps tuned different keys (sweep.tune), so every level is an arm here; --tune KEY says what was tuned"
    for arm in analysis.study.arms:
        for run in arm.runs:
            if problem := analysis.history(run).problem:
                yield f"{run.folder}: {problem}"
            if run.state == "done" and run not in analysis.valued(arm):
                yield f"{run.folder}: it ended, but has no {analysis.metric.name} that is a number; it is counted as missing"


def _versions(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    yield "code", _varied(runs, code_version)
    names = dict.fromkeys(name for run in runs for name in _versions_of(run))
    for name in names:
        yield name, _varied(runs, lambda run, name=name: str(_versions_of(run).get(name, "")))


def _versions_of(run: Run) -> Mapping[str, Any]:
    found = run.status.get("versions")
    return found if isinstance(found, dict) else {}


def relative_path(path: Path | str, out: Path) -> str:
    """Relative to the report where it lies below it."""
    try:
        return str(Path(path).resolve().relative_to(out.resolve()))
    except ValueError:
        return str(path)
