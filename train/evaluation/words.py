"""An evaluation in words and rows of text, for the terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from train.evaluation.arms import ArmScore, Mean
from train.evaluation.evaluate import Evaluation
from train.evaluation.scores import BINS, ClassScore
from train.text import number, percent, plural

UNKNOWN = "\u2013"
MOST_CLASSES = 20
CLASS_HEADS = ("class", "accuracy", "95 % interval", "right", "images", "predicted")
ARM_HEADS = ("arm", "runs", "accuracy", "sd", "loss", "sd")
CLASS_NOTE = "Wilson's intervals, each for its class alone; they do not cover the spread between seeds."


def facts(item: Evaluation) -> list[tuple[str, str]]:
    """Return the rows that sum up an evaluation: (name, value)."""
    calibration = "unknown" if math.isnan(item.calibration.error) else percent(item.calibration.error, 2)
    return [
        ("run", str(item.run.folder)),
        ("images", f"{plural(item.score.examples, 'image')} of the {split_name(item)}, {item.device}, {item.precision}"),
        ("accuracy", f"{percent(item.score.accuracy, 2)}, 95 % interval {interval(item.interval)} (Wilson)"),
        ("loss", number(item.score.loss)),
        ("calibration error", f"{calibration} (expected, {BINS} bins of equal width)"),
        ("equal to the run's own", item.equality.sentence),
        *(("note", note) for note in item.notes),
    ]


def split_name(item: Evaluation) -> str:
    return {"test": "test split", "val": "validation split"}[item.split]


def interval(ends: tuple[float, float]) -> str:
    return f"[{100 * ends[0]:.2f}, {100 * ends[1]:.2f}] %"


def shown_classes(item: Evaluation) -> tuple[tuple[ClassScore, ...], str]:
    """Return the classes that a table lists, and a sentence on the others: all of them, or those with the lowest accuracy."""
    if len(item.classes) <= MOST_CLASSES:
        return item.classes, ""
    lowest = sorted(item.classes, key=lambda score: (math.isnan(score.accuracy), score.accuracy))[:MOST_CLASSES]
    return tuple(lowest), f"The {MOST_CLASSES} classes with the lowest accuracy of {len(item.classes)}; evaluation.json has all."


def class_rows(scores: Sequence[ClassScore]) -> list[tuple[str, ...]]:
    """Return the rows of the table of classes, under `CLASS_HEADS`."""
    return [
        (
            score.name,
            known(percent, score.accuracy),
            interval(score.interval) if score.images else "",
            f"{score.correct:,}",
            f"{score.images:,}",
            f"{score.predicted:,}",
        )
        for score in scores
    ]


def arm_rows(arms: Sequence[ArmScore]) -> list[tuple[str, ...]]:
    """Return the rows of the table of arms, under `ARM_HEADS`."""
    return [
        (arm.label, str(len(arm.evaluations)), *_mean(arm.accuracy, _two_digits), *_mean(arm.loss, number))
        for arm in arms
        if arm.evaluations
    ]


def class_mean_rows(arms: Sequence[ArmScore]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and rows of the mean accuracy of each class (rows) in each arm (columns)."""
    shown = [arm for arm in arms if arm.evaluations]
    tables = [dict(arm.classes) for arm in shown]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, *(known(_two_digits, table[name].mean) if name in table else UNKNOWN for table in tables)) for name in names]
    return ("class", *(arm.label for arm in shown)), rows


def left_out(arms: Sequence[ArmScore]) -> list[str]:
    """Return sentences on runs that the means are not over."""
    return [f"{item.run.folder}: {item.run.state}, not in the mean of its arm" for arm in arms for item in arm.others]


def _mean(value: Mean, form: Callable[[float], str]) -> tuple[str, str]:
    return known(form, value.mean), known(form, value.sd)


def _two_digits(value: float) -> str:
    return percent(value, 2)


def known(form: Callable[[float], str], value: float) -> str:
    """Return a number as text; a dash for NaN."""
    return UNKNOWN if math.isnan(value) else form(value)
