"""What an analysis returns: conclusions, tables and figures, as plain values, and what `report.analysis` can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from train.figures.style import ReportFigure
from train.report.arms import Study
from train.report.contracts import Threat
from train.report.history import History
from train.report.options import ReportOptions
from train.store.manifest import Manifest

Tone: TypeAlias = Literal["good", "bad", "even", "weak", "plain"]
"""The colour of a verdict: as wished, not as wished, no difference that matters, undecided, none."""


@dataclass(frozen=True)
class Remark:
    """A verdict of a few words, and the sentence that gives the numbers."""

    verdict: str
    sentence: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Conclusion:
    """What the runs say about one subject: the verdict on the whole, then the remarks on its parts."""

    subject: str
    heading: str
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class Row:
    """A row of a table, a text for each column; `is_clear`: shown in bold."""

    cells: tuple[str, ...]
    is_clear: bool = False


@dataclass(frozen=True)
class Table:
    """A table. `columns`: (name, what stands small below it); the first column is of names, those in `texts` are of words."""

    heading: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    note: str = ""
    texts: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Findings:
    """The result of an analysis.

    `header`: (name, value) of fields at the top of the page, besides those of every page; `numbers`: the rows of the file of
    numbers beside the page, the first are the names of its columns.
    """

    title: str
    conclusions: tuple[Conclusion, ...]
    tables: tuple[Table, ...] = ()
    figures: tuple[ReportFigure, ...] = ()
    threats: tuple[Threat, ...] = ()
    header: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    numbers: tuple[Sequence[Any], ...] = ()


@dataclass(frozen=True)
class AnalysisKind:
    """An analysis that `report.analysis` can name.

    `analyse(study, histories, options)`: `histories` by run folder, with the curves of `tags` and the first and the last value in
    every layer of `statistics`. `check(manifest, configs)`: called before the first run of a sweep, with what is planned and the
    configurations by arm's id; UsageError when the analysis could say nothing of such runs. `figures`: the names of its figures.
    """

    analyse: Callable[[Study, Mapping[Path, History], ReportOptions], Findings]
    check: Callable[[Manifest, Mapping[str, Mapping[str, Any]]], None]
    figures: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
