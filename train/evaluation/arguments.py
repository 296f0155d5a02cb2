"""The arguments of `train-eval`: folders, and overrides of the images and the device. Imports no torch."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.command import expanded
from train.errors import UsageError
from train.help.parser import Parser
from train.store.run import Run, find_runs, read_run

DESCRIPTION = """\
Evaluates the weights of runs: accuracy, loss, accuracy of each class, confusions, calibration, the worst mistakes.

  train-eval RUN                     # its test split, as the run itself evaluated it
  train-eval RUN --split val         # its validation split
  train-eval RUN data.root=photos    # other images of the same classes
  train-eval RUN data=image_folder data.root=photos data.size=32 data.short_side=32
  train-eval SWEEP                   # every run below a folder, and the means of its arms
"""

EPILOG = """\
data.root=FOLDER holds test/<class>/ or <class>/ with image files. The pre-processing is that of the run's training images.
Other overrides: data.KEY=VALUE, trainer.device, trainer.precision, trainer.batch_size, and trust=PACKAGE for parts of your own.

Writes evaluation.json, evaluation.md and, of a single run, figures as PNG and SVG into RUN/evaluation/.
A choice that is made by its result on the test split is no longer judged by it: choose by --split val.
"""

OVERRIDE = re.compile(r"[~+]*(data|trainer|trust)([./@][^=]*)?=")
TRAINER = ("trainer.device", "trainer.precision", "trainer.batch_size")


@dataclass(frozen=True)
class Asked:
    """What is asked for. `choice`: the override that chooses another data set, empty without one."""

    folders: tuple[Path, ...]
    split: str
    output: Path | None
    overrides: tuple[str, ...]
    choice: str
    trust: tuple[str, ...]


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="train-eval", description=DESCRIPTION, epilog=EPILOG)
    made.add_argument("words", nargs="+", metavar="FOLDER|KEY=VALUE", help="runs, or folders above them; then overrides")
    made.add_argument("--split", choices=("test", "val"), default="test", help="split to evaluate; default: %(default)s")
    made.add_argument("--output", type=_path, metavar="DIR", help="folder for the results; default: RUN/evaluation")
    return made


def read_arguments(arguments: Sequence[str]) -> Asked:
    """Return what the arguments ask for. UsageError for an override that has no place here."""
    found = parser().parse_intermixed_args(arguments)
    words = [expanded(word) for word in found.words]
    overrides = [word for word in words if OVERRIDE.match(word) and not Path(word).is_dir()]
    folders = tuple(_path(word) for word in words if word not in overrides)
    if not folders:
        raise UsageError(f"{' '.join(overrides)}: name the folder of a run first, as in: train-eval FOLDER {overrides[0]}")
    choices, values, trust = _sorted(overrides)
    if len(choices) > 1:
        raise UsageError(f"{choices[-1]}: there is another choice before it, {choices[0]}. Leave one out.")
    return Asked(folders, found.split, found.output, values, next(iter(choices), ""), trust)


def _sorted(overrides: Sequence[str]) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """Return the choices of a data set, the other overrides, and the packages that are trusted."""
    choices, values, trust = [], [], []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "trust":
            trust += [name for part in value.strip("[]").split(",") if (name := part.strip())]
        elif key == "data":
            choices.append(override)
        elif key == "data.preprocess":
            raise UsageError(f"{override}: an evaluation takes the pre-processing that was fitted to the run. Leave it out.")
        elif key in TRAINER or re.fullmatch(r"data(\.\w+)+", key):
            values.append(override)
        else:
            keys = ", ".join(("data.KEY", "data", "trust", *TRAINER))
            raise UsageError(f"{override}: an evaluation takes overrides of {keys}. Leave it out.")
    return choices, tuple(values), tuple(trust)


def runs_of(folders: Sequence[Path]) -> list[Run | str]:
    """Return the runs in and below folders, each once, or the reason why one of several cannot be read. UsageError for none."""
    for folder in folders:
        if not folder.is_dir():
            if "=" in folder.name:
                raise UsageError(f"{folder}: this is no folder, and no override of data. Name a run folder, or data.KEY=VALUE.")
            raise UsageError(f"{folder}: there is no such folder. Name the folder of a run, or one above it.")
        if next(find_runs([folder]), None) is None:
            raise UsageError(f"{folder}: there is no run in or below this folder (no status.json).")
    unreadable: list[str] = []
    below = list(find_runs(folders, lambda path, why: unreadable.append(f"{path}: {why}")))
    return [*(_read(path, alone=len(below) == 1) for path in below), *unreadable]


def _read(path: Path, alone: bool) -> Run | str:
    try:
        return read_run(path)
    except UsageError as error:
        if alone:
            raise
        return str(error)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111  # pathlib raises for a user who does not exist
