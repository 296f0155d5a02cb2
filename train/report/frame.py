"""What every page has around its results: the head, the runs without a result, the commands and the versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from train.command import kept, train_command
from train.escape import shell_command
from train.figures.style import ReportFigure
from train.report.arms import Arm, Study
from train.report.collect import FAILED, ExcludedRun
from train.report.contracts import Threat
from train.report.header import versions
from train.report.history import History
from train.report.run_rows import RunRow, commands, listed_runs
from train.report.selection import Shown, first_of
from train.store.manifest import Dropped

MOST_ARMS, MOST_LISTED, MOST_COMMANDS = 400, 100, 20
"""What a page lists of arms, of runs of a kind, and of the commands of an arm; the files beside it have all."""


@dataclass(frozen=True)
class ArmCommands:
    """The commands that reproduce the runs of one arm."""

    label: str
    commands: Shown[str]


@dataclass(frozen=True)
class Frame:
    """The content of a page around its results. `header`: (name, value) of the fields at the top.

    `listed_in`: the file beside the page that has what its lists leave out; `counted`: what is said of runs that diverged.
    """

    counted: ClassVar[str] = ""

    title: str
    header: tuple[tuple[str, str], ...]
    figures: tuple[ReportFigure, ...]
    threats: tuple[Threat, ...]
    running: Shown[RunRow]
    failed: Shown[RunRow]
    diverged: Shown[RunRow]
    untrained: Shown[RunRow]
    missing: Shown[str]
    dropped: Shown[Dropped]
    unreadable: Shown[ExcludedRun]
    duplicates: Shown[ExcludedRun]
    notes: Shown[str]
    arm_commands: Shown[ArmCommands]
    versions: tuple[tuple[str, str], ...]
    listed_in: str

    def figures_named(self, *names: str) -> tuple[ReportFigure, ...]:
        return tuple(figure for figure in self.figures if figure.name in names)

    def figures_except(self, *names: str) -> tuple[ReportFigure, ...]:
        return tuple(figure for figure in self.figures if figure.name not in names)


def runs_of_page(study: Study, arms: Sequence[Arm], histories: Mapping[Path, History], notes: Iterable[str]) -> dict[str, Any]:
    """Return the fields of `Frame` from `running` on but `untrained`. `arms`: in the order of the page."""
    collection = study.collection
    plans = [plan.manifest for plan in collection.plans]

    def listed(*states: str) -> Shown[RunRow]:
        return first_of(listed_runs(arms, study.labels, histories, *states), MOST_LISTED)

    dropped = (Dropped((shell_command(kept(item.overrides)),), item.reason) for plan in plans for item in plan.dropped)
    return {
        "running": listed("running", "queued"),
        "failed": listed(*FAILED, "incomplete", "interrupted"),
        "diverged": listed("diverged"),
        "missing": first_of((train_command(run.overrides) for run in collection.missing), MOST_LISTED),
        "dropped": first_of(dropped, MOST_LISTED),
        "unreadable": first_of(collection.unreadable, MOST_LISTED),
        "duplicates": first_of(collection.duplicates, MOST_LISTED),
        "notes": first_of(dict.fromkeys((*(note for plan in plans for note in plan.notes), *notes)), MOST_LISTED),
        "arm_commands": first_of(
            (ArmCommands(study.labels[arm.id], first_of(commands(arm), MOST_COMMANDS)) for arm in arms if not collection.table),
            MOST_ARMS,
        ),
        "versions": () if collection.table else tuple(versions(study.runs)),
    }


def history_problems(runs: Iterable[Any], histories: Mapping[Path, History]) -> Iterable[str]:
    """Yield why the records of runs could not be read."""
    return (f"{run.folder}: {problem}" for run in runs if (problem := histories[run.folder].problem))
