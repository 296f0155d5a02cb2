"""The content of a report in the order of the page, before layout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from train.figures.style import ReportFigure
from train.report import sentence_text, table, table_text
from train.report.analysis import Analysis
from train.report.class_rows import ClassSection, class_section
from train.report.contracts import Claim
from train.report.evidence import SignalRow
from train.report.frame import MOST_ARMS, MOST_LISTED, Frame, history_problems, runs_of_page
from train.report.header import header_fields
from train.report.more_seeds import MoreSeeds, more_seeds
from train.report.outcome import rule
from train.report.selection import MOST_DOTS, Shown, first_of
from train.report.tuning_text import LevelRow, level_rows, tuning_paragraphs
from train.text import plural

NO_CLAIM = "No claim: there is no second arm with results to compare with the baseline."
MOST_PAIRS = 60
"""What a page lists of pairs; `pairs.csv` has all."""


@dataclass(frozen=True)
class Content(Frame):
    """All content of a comparison of arms. `scale`: the ends of the strip of dots; `named_by`: what names of arms consist of;
    `unknown`: why differences have no interval, where no claim says so."""

    counted: ClassVar[str] = ": an outcome, counted in the table"

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

    @property
    def fewer_dots(self) -> str:
        """That not every run has a dot, if so."""
        if not any(row.dots_note for row in self.rows):
            return ""
        return f"Of an arm with more than {MOST_DOTS} runs, so many are drawn, evenly from the lowest to the highest."


def build_content(analysis: Analysis, figures: Sequence[ReportFigure]) -> Content:
    """Return the content of the report on `analysis`."""
    study, metric = analysis.study, analysis.metric
    values = [analysis.value(run) for arm in study.arms for run in analysis.runs_with_value(arm)]
    scale = (table_text.value(metric, min(values)), table_text.value(metric, max(values))) if values else ("", "")
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
        untrained=first_of(table.untrained_runs(analysis), MOST_LISTED),
        no_claim=analysis.nothing_trained or NO_CLAIM,
        rule=rule(metric, analysis.outcomes.values()),
        listed_in=study.collection.folders[0].name if study.collection.table else "results.csv",
        **runs_of_page(study, analysis.ranked, analysis.histories, _notes(analysis)),
    )


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
    if len({plan.manifest.tune for plan in analysis.study.collection.plans}) > 1 and not analysis.study.tune:
        yield "the sweeps tuned different keys (sweep.tune), so every level is an arm here; name the tuned keys with --tune KEY"
    for arm in analysis.study.arms:
        for run in arm.runs:
            yield from history_problems([run], analysis.histories)
            if run.state == "done" and not math.isfinite(analysis.value(run)):
                yield f"{run.folder}: the run completed without a numeric {analysis.metric.name}; it is counted as missing"
