"""`train.load`: a run from its folder alone, as plain data. Imports torch only to make the model."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train.errors import UsageError
from train.store.files import METRICS_FILE
from train.store.inputs import read_data
from train.store.inside import Folder
from train.store.kinds import NON_FINITE
from train.store.metrics import decode_float, read_records
from train.store.run import Run, State, read_run

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Column:
    """What was recorded under one tag, in the order of the steps. All arrays have the same length.

    `step`: int64, updates done; `epoch`: float64, passes over the training images; `time_s`: float64, seconds since the run
    started; `value`: float64.
    """

    step: NDArray[np.int64]
    epoch: NDArray[np.float64]
    time_s: NDArray[np.float64]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class DataFacts:
    """What a run recorded of its data.

    `class_names`: in the order of the labels; `images`: split -> the number of images of each class. The validation split is
    part of `train` unless the data set brings its own. Both are empty if the run did not record its data.
    """

    class_names: tuple[str, ...]
    images: Mapping[str, tuple[int, ...]]


class LoadedRun:
    """What a run knows. The folder is data: nothing stored in it is executed.

    `folder`: the run folder; `config`: the resolved configuration, mappings of plain values; `summary`: summary.json, empty until
    the run has ended; `status`: status.json; `state`: `done`, `diverged`, `running`, `lost`, ...; `trust`: packages whose
    functions the configuration may call.
    """

    def __init__(self, run: Run, trust: Sequence[str]) -> None:
        self.folder = run.folder
        self.config: Mapping[str, Any] = run.config
        self.summary: Mapping[str, Any] = {name: _decoded(value) for name, value in run.summary.items()}
        self.status: Mapping[str, Any] = run.status
        self.state: State = run.state
        self.trust = tuple(trust)
        self._run = run

    def __repr__(self) -> str:
        return f"<{self.state} run in {self.folder}>"

    @cached_property
    def records(self) -> Mapping[str, Column]:
        """The records as columns: tag -> `Column`, as in `records["loss/train"].value`.

        RunError names an invalid line; UsageError for a file that is not opened, such as a pipe or a link.
        """
        rows: dict[str, tuple[array[Any], ...]] = {}
        try:
            for record in read_records(self._run.metrics_file) if Folder(self.folder).exists(METRICS_FILE) else ():
                for tag, value in record.values.items():
                    columns = rows.setdefault(tag, (array("q"), array("d"), array("d"), array("d")))
                    for column, number in zip(columns, (record.step, record.epoch, record.time_s, value), strict=True):
                        column.append(number)
        except OSError as error:
            raise UsageError(f"{self.folder}: the records cannot be read ({error.strerror or error}).") from None
        return {tag: _column(*columns) for tag, columns in rows.items()}

    @cached_property
    def data(self) -> DataFacts:
        """Class names and numbers of images."""
        content = read_data(self.folder)
        counts = {name: tuple(split["counts"]) for name, split in (content.get("splits") or {}).items()}
        return DataFacts(tuple(content.get("classes") or ()), counts)

    def model(self) -> nn.Module:
        """Return the model with its trained weights, on the CPU in evaluation mode.

        UsageError when the folder has no weights, they do not fit the configuration, or it names functions of packages that are
        not trusted.
        """
        from train.evaluation.rebuild import rebuild

        return rebuild(self._run, self.trust).model()

    def preprocess(self) -> Callable[[Tensor], Tensor]:
        """Return the function that turns images, uint8 [N, C, H, W], into what the model takes, as it was fitted for the run.

        UsageError when the run did not record it.
        """
        from train.evaluation.rebuild import recorded_preprocess

        found = recorded_preprocess(self._run)
        if found is None:
            raise UsageError(f"{self.folder}: this run did not record its pre-processing.")
        return found.apply


def load(folder: str | PathLike[str], trust: str | Sequence[str] = ()) -> LoadedRun:
    """Return the run in `folder`: `config`, `records`, `summary`, `status`, `data`, and `model()` with its weights.

    `trust`: packages of your own whose functions the stored configuration may call, as `trust=` of the command `train`.
    UsageError (train.errors) when there is no run in the folder, or its files cannot be read.
    """
    return LoadedRun(read_run(Path(folder)), (trust,) if isinstance(trust, str) else trust)


def _decoded(value: Any) -> Any:
    """Return a value of summary.json, in which NaN and infinities are text."""
    return decode_float(value) if isinstance(value, str) and value in NON_FINITE else value


def _column(*columns: array[Any]) -> Column:
    """Return the columns in the order of the steps; of a step that is there twice the later row counts."""
    step = np.asarray(columns[0])
    _, last = np.unique(step[::-1], return_index=True)
    kept = len(step) - 1 - last
    return Column(*(np.asarray(column)[kept] for column in columns))
