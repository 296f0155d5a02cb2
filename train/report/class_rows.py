"""The section of a page on classes: a sentence and the rows of its table."""

from __future__ import annotations

from dataclasses import dataclass

from train.report import table_text
from train.report.analysis import Analysis
from train.report.classes import ClassEffect
from train.report.selection import Shown
from train.report.table import EffectRow
from train.text import percent, plural

MOST_ROWS = 200


@dataclass(frozen=True)
class ClassSection:
    """What a page says of classes. `heading`: what is seen before it is opened."""

    heading: str
    sentence: str
    rows: Shown[EffectRow]


def class_section(analysis: Analysis) -> ClassSection | None:
    """Return the section; None where nothing is known of classes."""
    found = analysis.classes
    if not found.effects:
        return None
    size = f"{len(found.names)} classes x {plural(len(found.arms), 'arm')}"
    heading = f"{size}: {found.excluding_zero} of {plural(found.intervals, 'interval')} exclude zero"
    sentence = (
        "Accuracy on the test images of each class minus the baseline's: means over the runs that trained, of the arms that are "
        f"comparable. The 95 % intervals are simultaneous (Sidak) over the {found.intervals} differences that have one, of all "
        "classes and arms: a family of its own beside that of the claims."
    )
    shown = found.clearest(MOST_ROWS)
    rows = tuple(_row(analysis, effect) for effect in shown)
    return ClassSection(heading, sentence, Shown(rows, len(found.effects) - len(rows)))


def _row(analysis: Analysis, effect: ClassEffect) -> EffectRow:
    metric = analysis.metric
    change = f"{percent(effect.baseline)} -> {percent(effect.accuracy)}"
    return EffectRow(
        name=f"{effect.name} with {analysis.study.labels[effect.arm]}",
        difference=table_text.difference(metric, effect.difference),
        interval=table_text.interval(metric, effect),
        p=table_text.p_value(effect.p_adjusted),
        detectable=table_text.difference(metric, effect.detectable).lstrip("+"),
        excludes_zero=effect.excludes_zero,
        note="; ".join(filter(None, (change, effect.note))),
    )
