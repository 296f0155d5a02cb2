"""Evaluations in a terminal, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from train.evaluation.arms import ArmScore
from train.evaluation.evaluate import Evaluation
from train.evaluation.words import (
    ARM_HEADS,
    CLASS_HEADS,
    CLASS_NOTE,
    arm_rows,
    class_mean_rows,
    class_rows,
    facts,
    left_out,
    shown_classes,
)
from train.sinks.console import shown

MOST_ARMS = 6
"""Arms up to which a terminal shows the accuracy of each class."""


def show_evaluation(console: Console, item: Evaluation) -> None:
    """Print the evaluation of one run."""
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for name, value in facts(item):
        table.add_row(shown(name, "cyan"), shown(value, "bold" if name == "accuracy" else ""))
    scores, more = shown_classes(item)
    console.print(table)
    console.print(table_of(CLASS_HEADS, class_rows(scores)))
    for note in filter(None, (more, CLASS_NOTE)):
        console.print(shown(note, "dim"))


def show_short(console: Console, item: Evaluation) -> None:
    """Print the evaluation of one of several runs in a line."""
    values = dict(facts(item))
    equal = f"equal to the run's own: {item.equality.sentence}"
    console.print(shown(f"{item.name}: {values['accuracy']}, loss {values['loss']}; {equal}"), soft_wrap=True)


def show_arms(console: Console, arms: Sequence[ArmScore]) -> None:
    """Print the means of arms, and of each class where there are few arms."""
    console.print(table_of(ARM_HEADS, arm_rows(arms)))
    heads, rows = class_mean_rows(arms)
    if len(heads) - 1 <= MOST_ARMS:
        console.print(table_of(heads, rows))
    for text in left_out(arms):
        console.print(shown(text, "dim"), soft_wrap=True)


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(shown(head, "bold"), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    return table
