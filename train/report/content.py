"""The content of a report in the order of the page, before layout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from train.command import kept, stored_command, train_command
from train.escape import shell_command
from train.figures.style import ReportFigure
from train.report import sentence_text, table, table_text
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.class_rows import ClassSection, class_section
from train.report.collect import FAILED, ExcludedRun, text
from train.report.contracts import Claim, Threat
from train.report.evidence import SignalRow
from train.report.facts import code_version
from train.report.outcome import rule
from train.report.plan_threats import metric_origin
from train.report.selection import MOST_DOTS, Shown, first_of
from train.report.tuning_text import LevelRow, cost, level_rows, tuning_paragraphs
from train.store.manifest import Dropped
from train.store.run import Run
from train.text import plural

DESIGNS = {
    "grid": "grid: all combinations of the levels",
    "one_at_a_time": "one at a time: the baseline, and variants with a single change",
    "leave_one_out": "leave one out: the full recipe, and variants with one ingredient replaced",
}
NO_CLAIM = "No claim: there is no second arm with results to compare with the baseline."
MOST_ARMS, MOST_LISTED, MOST_PAIRS, MOST_COMMANDS = 400, 100, 60, 20
"""What a page lists of arms, of runs of a kind, of pairs, and of the commands of an arm; the files beside it have all."""
MOST_SEEDS = 100
"""Of the command that a report suggests."""
_STATES = ("done", "diverged", "failed", "lost", "incomplete", "interrupted", "running", "queued")


@dataclass(frozen=True)
class ArmCommands:
    """The commands that reproduce the runs of one arm."""

    label: str
    commands: Shown[str]


@dataclass(frozen=True)
class Content:
    """All content of a report. `header`: (name, value) of the fields at the top; `scale`: the ends of the strip of dots;
    `named_by`: what names of arms consist of; `unknown`: why differences have no interval, where no claim says so."""

    title: str
    header: tuple[tuple[str, str], ...]
    metric: str
    order: str
    value_unit: str
    difference_unit: str
    scale: tuple[str, str]
    smallest_effect: str
    more_seeds: str
    claims: tuple[Claim, ...]
    no_claim: str
    rule: str
    named_by: str
    rows: Shown[table.ArmRow]
    unknown: tuple[str, ...]
    signals: Shown[SignalRow]
    tuning: tuple[str, ...]
    levels: tuple[LevelRow, ...]
    main_effects: tuple[table.EffectRow, ...]
    interactions: tuple[table.EffectRow, ...]
    grid_notes: tuple[str, ...]
    pairs: Shown[table.EffectRow]
    pairs_excluding_zero: int
    classes: ClassSection | None
    figures: tuple[ReportFigure, ...]
    threats: tuple[Threat, ...]
    running: Shown[table.RunRow]
    failed: Shown[table.RunRow]
    diverged: Shown[table.RunRow]
    untrained: Shown[table.RunRow]
    missing: Shown[str]
    dropped: Shown[Dropped]
    unreadable: Shown[ExcludedRun]
    duplicates: Shown[ExcludedRun]
    notes: Shown[str]
    arm_commands: Shown[ArmCommands]
    versions: tuple[tuple[str, str], ...]

    @property
    def fewer_dots(self) -> str:
        """That not every run has a dot, if so."""
        if not any(row.dots_note for row in self.rows):
            return ""
        return f"Of an arm with more than {MOST_DOTS} runs, so many are drawn, evenly from the lowest to the highest."

    def figures_named(self, *names: str) -> tuple[ReportFigure, ...]:
        return tuple(figure for figure in self.figures if figure.name in names)

    def figures_except(self, *names: str) -> tuple[ReportFigure, ...]:
        return tuple(figure for figure in self.figures if figure.name not in names)


def build_content(analysis: Analysis, figures: Sequence[ReportFigure]) -> Content:
    """Return the content of the report on `analysis`."""
    study, metric = analysis.study, analysis.metric
    values = [analysis.value(run) for arm in study.arms for run in analysis.runs_with_value(arm)]
    scale = (table_text.value(metric, min(values)), table_text.value(metric, max(values))) if values else ("", "")
    plans = [plan.manifest for plan in study.collection.plans]
    return Content(
        title=title_of(analysis),
        header=tuple(header_fields(analysis)),
        metric=metric.name,
        order=metric.order,
        value_unit="%" if metric.is_share else "",
        difference_unit="points" if metric.is_share else "",
        scale=scale,
        smallest_effect=smallest_effect(analysis),
        more_seeds=more_seeds(analysis),
        claims=analysis.claims,
        named_by="all levels" if study.has_combinations else "differences from the baseline",
        rows=table.rows(analysis, MOST_ARMS),
        unknown=table.unknown(analysis),
        signals=first_of(table.signals(analysis), MOST_LISTED),
        tuning=tuning_paragraphs(study.tune, analysis.chosen, metric) if study.tune else (),
        levels=level_rows(analysis.chosen),
        main_effects=table.main_effects(analysis),
        interactions=table.interactions(analysis),
        grid_notes=analysis.grid.notes if analysis.grid else (),
        pairs=Shown(table.pairs(analysis, MOST_PAIRS), max(0, len(analysis.pairs or ()) - MOST_PAIRS)),
        pairs_excluding_zero=analysis.pairs.excluding_zero if analysis.pairs else 0,
        classes=class_section(analysis),
        figures=tuple(figures),
        threats=analysis.threats,
        running=first_of(table.listed_runs(analysis, "running", "queued"), MOST_LISTED),
        failed=first_of(table.listed_runs(analysis, *FAILED, "incomplete", "interrupted"), MOST_LISTED),
        diverged=first_of(table.listed_runs(analysis, "diverged"), MOST_LISTED),
        untrained=first_of(table.untrained_runs(analysis), MOST_LISTED),
        no_claim=analysis.nothing_trained or NO_CLAIM,
        rule=rule(metric, analysis.outcomes.values()),
        missing=first_of((train_command(run.overrides) for run in study.collection.missing), MOST_LISTED),
        dropped=first_of(
            (Dropped((shell_command(kept(item.overrides)),), item.reason) for plan in plans for item in plan.dropped), MOST_LISTED
        ),
        unreadable=first_of(study.collection.unreadable, MOST_LISTED),
        duplicates=first_of(study.collection.duplicates, MOST_LISTED),
        notes=first_of(dict.fromkeys(_notes(analysis)), MOST_LISTED),
        arm_commands=first_of((_arm_commands(analysis, arm) for arm in analysis.ranked), MOST_ARMS),
        versions=tuple(_versions(study.runs)),
    )


def _arm_commands(analysis: Analysis, arm: Arm) -> ArmCommands:
    return ArmCommands(analysis.study.labels[arm.id], first_of(table.commands(arm), MOST_COMMANDS))


def smallest_effect(analysis: Analysis) -> str:
    """Return the smallest effect of interest, and that it is the default if nobody has set it."""
    wording = analysis.wording
    size = sentence_text.exact(wording.smallest_effect, analysis.metric)
    return f"{size} {table_text.unit(analysis.metric)}{', the default' if wording.is_default else ''}"


def more_seeds(analysis: Analysis) -> str:
    """Return the command that repeats the sweep with the seeds that would detect the smallest effect of interest at all levels
    that are inconclusive; empty if that takes too many."""
    levels = [level for claim in analysis.claims for level in claim.levels if level.verdict == "inconclusive"]
    wanted = analysis.wording.smallest_effect
    counts = [level.seeds or math.inf for level in levels if (level.effect.detectable or 0.0) > wanted]
    manifest, plans = analysis.study.manifest, analysis.study.collection.plans
    if not counts or max(counts) > MOST_SEEDS or manifest is None or set(manifest.seeds) - {"seed"}:
        return ""
    rest = [argument for argument in manifest.command if argument.partition("=")[0] != "seed"]
    return stored_command([*rest, f"seed=range({max(counts)})"], plans[0].folder)


def title_of(analysis: Analysis) -> str:
    """Return the title of the report."""
    factors = [factor for factor, levels in analysis.study.factors.items() if len(levels) > 1]
    if not 1 <= len(factors) <= 4:
        return (
            f"{plural(len(analysis.study.arms), 'arm')} compared by {analysis.metric.name}"
            if factors
            else "One arm, without a comparison"
        )
    names = factors[0] if len(factors) == 1 else f"{', '.join(factors[:-1])} and {factors[-1]}"
    return f"{'Effect' if len(factors) == 1 else 'Effects'} of {names} on {analysis.metric.name}"


def header_fields(analysis: Analysis) -> Iterable[tuple[str, str]]:
    """Yield the (name, value) fields at the top: what was run, on what data and device, and how it is compared."""
    study, metric, runs = analysis.study, analysis.metric, analysis.study.runs
    commands = [stored_command(plan.manifest.command) for plan in study.collection.plans if plan.manifest.command]
    yield "Command", "; ".join(commands) or "runs collected from folders, without a sweep manifest"
    if study.collection.left_out:
        yield "Left out", study.collection.left_out
    if study.manifest and study.manifest.study:
        yield "Study", study.manifest.study
    if study.design:
        yield "Design", DESIGNS[study.design]
    yield "Runs", _counts(analysis)
    if study.tune:
        yield "Tuned", f"{', '.join(study.tune)}, for every arm, by validation accuracy ({cost(analysis.chosen)})"
    origin = "; ".join(filter(None, ["after the last step, not at the best epoch", metric_origin(study, metric)]))
    yield "Baseline", f"{study.baseline.all_levels}: {study.baseline_reason}"
    yield "Metric", f"{metric.name} ({metric.tag}) {origin}. {metric.direction}."
    examples = sorted({count for run in runs if (count := metric.examples(run)) is not None})
    evaluated = f"; the metric is evaluated on {' or '.join(f'{count:,}' for count in examples)} images" if examples else ""
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
    yield "Folders", ", ".join(map(str, study.collection.folders))


def _counts(analysis: Analysis) -> str:
    study = analysis.study
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


def _notes(analysis: Analysis) -> Iterable[str]:
    """Yield what else affects the interpretation of the runs."""
    for plan in analysis.study.collection.plans:
        yield from plan.manifest.notes
    if len({plan.manifest.tune for plan in analysis.study.collection.plans}) > 1 and not analysis.study.tune:
        yield "the sweeps tuned different keys (sweep.tune), so every level is an arm here; name the tuned keys with --tune KEY"
    for arm in analysis.study.arms:
        for run in arm.runs:
            if problem := analysis.history(run).problem:
                yield f"{run.folder}: {problem}"
            if run.state == "done" and not math.isfinite(analysis.value(run)):
                yield f"{run.folder}: the run completed without a numeric {analysis.metric.name}; it is counted as missing"


def _versions(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    yield "code", _varied(runs, code_version)
    names = dict.fromkeys(name for run in runs for name in _versions_of(run))
    for name in names:
        yield name, _varied(runs, lambda run, name=name: str(_versions_of(run).get(name, "")))


def _versions_of(run: Run) -> Mapping[str, Any]:
    versions = run.status.get("versions")
    return versions if isinstance(versions, dict) else {}


def relative_path(path: Path | str, out: Path) -> str:
    """Return `path` relative to the report's folder if it is below it, else unchanged."""
    path = Path(path) if isinstance(path, str) else path
    parts, above = path.parts, out.parts
    if parts[: len(above)] == above and ".." not in parts:  # no link lies between a folder and the runs found in it
        return str(Path(*parts[len(above) :]))
    try:
        return str(path.resolve().relative_to(_resolved(out)))
    except ValueError:
        return str(path)


@lru_cache(maxsize=4)
def _resolved(folder: Path) -> Path:
    return folder.resolve()
