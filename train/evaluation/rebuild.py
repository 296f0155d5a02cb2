"""A run's model from its folder alone: the configuration builds it, as for `train resume=FOLDER`, and weights.pt fills it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from train.config import Settings, parse
from train.data.contracts import Splits
from train.data.preprocess import Kind, Preprocess
from train.errors import RunError, UsageError
from train.parts.contracts import Shape
from train.run.build import Parts, build
from train.run.resumed_job import without_download
from train.run.setup import constructed_model
from train.run.tensor_file import decode_tensors, most_bytes
from train.run.trust import set_trusted, trusted
from train.store.files import WEIGHTS_FILE
from train.store.inputs import read_data
from train.store.inside import Folder
from train.store.run import Run


@dataclass
class RecordedData:
    """What a run recorded of its data, in the place of a data set. It has no images."""

    shape: Shape
    class_names: tuple[str, ...]

    def load(self) -> Splits:
        """Raise UsageError."""
        raise UsageError("The data of this run are not loaded.")


@dataclass(frozen=True)
class Rebuilt:
    """The parts of a stored run. `settings`: its checked configuration; `trust`: packages whose functions it may call."""

    run: Run
    settings: Settings
    parts: Parts
    trust: tuple[str, ...]

    def model(self) -> nn.Module:
        """Return the model with its weights, on the CPU in evaluation mode. UsageError when they are missing or do not fit."""
        folder, weights = self.run.folder, read_weights(self.run)
        with trusting(self.trust), one_message(folder, "its model cannot be built"):
            with torch.device("meta"):  # takes no memory, whatever sizes the configuration names
                expected = self.parts.new_model().state_dict()
            refuse_other_weights(folder, expected, weights)
            model = constructed_model(self.parts, self.settings.seeds.init)
            model.load_state_dict(weights)
        return model.eval()


def rebuild(run: Run, trust: Sequence[str]) -> Rebuilt:
    """Return the parts of a run, with what it recorded in the place of its data. UsageError for what cannot be built."""
    with trusting(trust), one_message(run.folder, "it cannot be built"):
        settings = parse(without_download(dict(run.config), ()))
        return Rebuilt(run, settings, _parts(run, settings), tuple(trust))


def _parts(run: Run, settings: Settings) -> Parts:
    names, shape = read_data(run.folder).get("classes"), run.status.get("input_shape")
    if names and shape and len(shape) == 3:
        recorded: Shape = (shape[0], shape[1], shape[2])
        return replace(build(settings, RecordedData(recorded, tuple(names))), input_shape=recorded)
    try:
        return build(settings)
    except UsageError as error:
        raise UsageError(f"input shape and classes are not recorded, so its data are needed: {error}") from None


def recorded_preprocess(run: Run) -> Preprocess | None:
    """Return the pre-processing as it was fitted to the run's training images; None if it is not recorded in full."""
    facts = run.status.get("preprocess") or {}
    mean, std = _numbers(facts.get("mean")), _numbers(facts.get("std"))
    if facts.get("kind") not in get_args(Kind) or not 0 < len(mean) == len(std) or min(std) <= 0:
        return None
    return Preprocess(facts["kind"], mean, std)


def _numbers(values: Any) -> tuple[float, ...]:
    """Return a list of finite numbers; empty for anything else."""
    is_list = isinstance(values, list) and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    return tuple(map(float, values)) if is_list else ()


def read_weights(run: Run) -> dict[str, Tensor]:
    """Return the state dict in weights.pt, on the CPU. Nothing in the file is executed. UsageError if there is none, or it is no
    state dict."""
    folder = Folder(run.folder)
    if not folder.exists(WEIGHTS_FILE):
        why = f"it is {run.state}" if run.state != "done" else "it was removed" if run.summary.get("steps") else "it made no step"
        raise UsageError(f"{run.folder}: this run has no {WEIGHTS_FILE}; {why}. Name a run that was trained to its end.")
    try:
        loaded = decode_tensors(folder.read(WEIGHTS_FILE, most_bytes()))
        _refuse_other_content(loaded)
    except (OSError, MemoryError) as error:
        raise UsageError(f"{run.folder}: {WEIGHTS_FILE} cannot be read ({error}).") from None
    except Exception as error:  # whatever a stranger's file makes the decoder raise
        raise UsageError(f"{run.folder}: {WEIGHTS_FILE} holds no weights of a run ({_short(error)}).") from None
    return dict(loaded)


def _refuse_other_content(loaded: object) -> None:
    """Raise TypeError unless it is a mapping of names to tensors."""
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise TypeError("not a mapping of names")
    for name, value in loaded.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name[:60]!r} is no tensor")


def refuse_other_weights(folder: Path, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise UsageError, naming the first difference, unless the weights have the names and shapes of the model's."""
    for name in [*expected, *weights]:
        here, there = (tuple(found[name].shape) if name in found else None for found in (expected, weights))
        if here != there:
            texts = ["nothing" if shape is None else f"shape {list(shape)}" for shape in (here, there)]
            raise UsageError(
                f"{folder}: {WEIGHTS_FILE} is not of this configuration: the model has {texts[0]} at {name[:80]}, the file "
                f"{texts[1]}."
            )


@contextmanager
def trusting(packages: Sequence[str]) -> Iterator[None]:
    """Let configurations call the functions of `packages` inside the context, and of no others."""
    before = trusted()
    set_trusted(packages)
    try:
        yield
    finally:
        set_trusted(before)


@contextmanager
def one_message(folder: Path, what: str) -> Iterator[None]:
    """Turn every error into a UsageError that names the folder."""
    try:
        yield
    except UsageError as error:
        raise error if str(folder) in str(error) else UsageError(f"{folder}: {error}") from None
    except RunError:
        raise
    except Exception as error:  # whatever a stranger's configuration makes a part raise
        raise UsageError(f"{folder}: {what} ({_short(error)}).") from None


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines else type(error).__name__
