"""Texts for the start and the end of a run, shared by the sinks that display them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.command import TO_RESUME
from train.sinks.contracts import RunInfo, Summary
from train.text import duration, number, percent, scaled, size

FEW = 10


@dataclass(frozen=True)
class SummaryRow:
    """One line of the summary; a narrow terminal omits `detail`."""

    label: str
    value: str
    detail: str = ""


def header_lines(info: RunInfo) -> list[str]:
    """Return the lines that describe a run before it starts: model, data, device; the last line is the folder."""
    images = [("train", info.train_size), ("validation", info.val_size), ("test", info.test_size)]
    sizes = ", ".join(f"{count:,} {split}" for split, count in images if count)
    return [
        info.name,
        f"{info.data}: {info.classes} classes, {sizes} images",
        f"{info.parameters:,} parameters, {scaled(info.flops_per_image)}FLOPs per image",
        f"{info.epochs:g} epochs = {info.total_steps:,} steps of {info.batch_size} images, {info.device}, {info.precision}",
        str(info.folder),
    ]


def summary_rows(summary: Summary, total_steps: int, plus_minus: str = "±") -> list[SummaryRow]:
    """Return the rows of the summary; values that were not measured have no row."""
    steps = f"{summary.steps:,} of {total_steps:,} steps" if summary.steps < total_steps else f"{summary.steps:,} steps"
    losses = (("train loss", summary.train_loss), ("validation loss", summary.val_loss), ("test loss", summary.test_loss))
    table = [
        _accuracy("validation accuracy", summary.val_accuracy, summary.val_examples, plus_minus),
        _accuracy("test accuracy", summary.test_accuracy, summary.test_examples, plus_minus),
        *(SummaryRow(label, number(loss)) for label, loss in losses if loss is not None),
        SummaryRow("parameters", f"{summary.parameters:,}"),
        SummaryRow("FLOPs per image", scaled(summary.flops_per_image).strip()),
        SummaryRow("time", duration(summary.time_s), steps),
        SummaryRow("speed", f"{summary.images_per_s:,.0f} images/s") if summary.images_per_s is not None else None,
        SummaryRow("peak memory", size(summary.peak_memory_bytes), summary.memory_of)
        if summary.peak_memory_bytes is not None
        else None,
    ]
    return [row for row in table if row is not None]


def outcome_lines(summary: Summary) -> list[str]:
    """Return the outcome of the run in one sentence and, if it can be resumed, a line with the command, which stays one line."""
    reason, separator, command = summary.reason.partition(TO_RESUME)
    outcome = f"{summary.status}: {reason}" if reason else summary.status
    return [outcome, f"to resume: {command}"] if separator else [outcome]


def binomial_standard_error(p: float, n: int) -> float:
    """Return sqrt(p (1 - p) / n), the standard error of an accuracy p measured on n examples.

    It does not include the spread between seeds.
    """
    return math.sqrt(p * (1 - p) / n)


def wilson_interval(p: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927, JASA 22) of an accuracy p measured on n examples."""
    z2 = 1.959964**2
    middle, half = p + z2 / (2 * n), math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def is_near_the_edge(p: float, n: int) -> bool:
    """Return whether so few examples are right, or wrong, that a standard error says too little."""
    return n * min(p, 1 - p) < FEW


def _accuracy(label: str, accuracy: float | None, examples: int, plus_minus: str) -> SummaryRow | None:
    if accuracy is None:
        return None
    if examples < 1:
        return SummaryRow(label, percent(accuracy, 2))
    if is_near_the_edge(accuracy, examples):
        low, high = wilson_interval(accuracy, examples)
        detail = f"95 % interval {100 * low:.2f} to {percent(high, 2)} (Wilson), n = {examples:,}"
        return SummaryRow(label, percent(accuracy, 2), detail)
    error = binomial_standard_error(accuracy, examples)
    return SummaryRow(label, f"{100 * accuracy:.2f} {plus_minus} {percent(error, 2)}", f"standard error, n = {examples:,}")
