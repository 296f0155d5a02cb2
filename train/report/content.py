"""The content of a report in the order of the page, before layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from train.command import kept, train_command
from train.escape import shell_command
from train.figures.style import ReportFigure
from train.report import sentence_text, table, table_text
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.class_rows import ClassSection, class_section
from train.report.collect import FAILED, ExcludedRun
from train.report.contracts import Claim, Threat
from train.report.evidence import SignalRow
from train.report.header import header_fields, versions
from train.report.more_seeds import MoreSeeds, more_seeds
from train.report.outcome import rule
from train.report.selection import MOST_DOTS, Shown, first_of
from train.report.tuning_text import LevelRow, level_rows, tuning_paragraphs
from train.store.manifest import Dropped
from train.text import plural

NO_CLAIM = "No claim: there is no second arm with results to compare with the baseline."
MOST_ARMS, MOST_LISTED, MOST_PAIRS, MOST_COMMANDS = 400, 100, 60, 20
"""What a page lists of arms, of runs of a kind, of pairs, and of the commands of an arm; the files beside it have all."""


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
    more_seeds: MoreSeeds
    final: tuple[Claim, ...]
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
        final=analysis.final.claims if analysis.final else (),
        claims=analysis.claims,
        named_by="all levels" if study.has_combinations else "differences from the baseline",
        rows=table.rows(analysis, MOST_ARMS),
        unknown=table.unknown(analysis),
        signals=first_of(table.signals(analysis), MOST_LISTED),
        tuning=tuning_paragraphs(study.tune, analysis.chosen, metric, study.tuning) if study.tune else (),
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
        versions=tuple(versions(study.runs)),
    )


def _arm_commands(analysis: Analysis, arm: Arm) -> ArmCommands:
    return ArmCommands(analysis.study.labels[arm.id], first_of(table.commands(arm), MOST_COMMANDS))


def smallest_effect(analysis: Analysis) -> str:
    """Return the smallest effect of interest, and that it is the default if nobody has set it."""
    wording = analysis.wording
    size = sentence_text.exact(wording.smallest_effect, analysis.metric)
    return f"{size} {table_text.unit(analysis.metric)}{', the default' if wording.is_default else ''}"


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
