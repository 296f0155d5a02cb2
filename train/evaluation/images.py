"""The images on which a run is evaluated: a split of its own data, or others that the command line names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from train.config import Settings, check_call, parse
from train.data.content import content_of
from train.data.contracts import Batch, Dataset, Source, noted
from train.data.image_folder import image_folder
from train.data.new_images import has_training_images, new_images
from train.data.split import split_validation
from train.data.torchvision_sets import TorchvisionSet
from train.errors import UsageError
from train.evaluation.rebuild import Rebuilt
from train.parts.contracts import Shape
from train.progress import step
from train.run.build import build_dataset, input_shape
from train.run.unused import refuse_unread
from train.store.identity import current_target
from train.store.inputs import data_differences, read_data, some

Split: TypeAlias = Literal["test", "val"]


@dataclass(frozen=True)
class Images:
    """Images with the labels of a run's classes.

    `differences`: how the data differ from those that the run recorded, empty if they do not, None if it did not record them;
    `workers`: processes that decode image files; `notes`: sentences on what was left out.
    """

    dataset: Dataset
    source: Source
    differences: str | None
    workers: int
    notes: tuple[str, ...] = ()


def images_of(rebuilt: Rebuilt, data: Mapping[str, Any], split: Split, typed: Sequence[str] = ()) -> Images:
    """Return the images of a split. UsageError for classes that the run does not have, and images of another shape.

    `data`: the node of the configuration: the run's own, or with other values; `typed`: overrides, which may not be in vain.
    """
    run = rebuilt.run
    settings = parse({**run.config, "data": dict(data)})
    refuse_unread([override for override in typed if override.startswith("data.")], settings)
    dataset = _dataset(settings)
    _refuse_root_without_copy(dataset, typed)
    classes = rebuilt.parts.dataset.class_names
    labels = _labels(classes, dataset.class_names)
    _refuse_other_shape(rebuilt, dataset)
    whole = dataset.load()
    splits = whole if split == "test" else split_validation(whole, settings.data.val_fraction, settings.seeds.split)
    source = splits.test if split == "test" else splits.val
    if source is None or not len(source):
        raise UsageError(f"--split {split}: these data have no images of this split. Leave --split out.")
    recorded = read_data(run.folder)
    found = data_differences(recorded, content_of(whole, dataset.class_names, settings.data.verify)) if recorded else None
    missing = [name for name in classes if name not in dataset.class_names]
    notes = (f"no images of {_named(missing)}",) if missing else ()
    return Images(dataset, replace(source, labels=labels[source.labels]), found, settings.data.workers, (*noted(dataset), *notes))


def _dataset(settings: Settings) -> Dataset:
    """Return the data set; of image files without a training split those that are there."""
    node, root = settings.parts["data"], settings.data.root
    target = f"{image_folder.__module__}.{image_folder.__qualname__}"
    if root is None or current_target(str(node.get("_target_"))) != target or has_training_images(root):
        return build_dataset(settings)
    given = {name: value for name, value in node.items() if name not in ("_target_", "root")}
    offered = {"workers": settings.data.workers, "verify": settings.data.verify}
    return new_images(root, **check_call(image_folder, "data", given, ("root", *offered)), **offered)


def _refuse_root_without_copy(dataset: Dataset, typed: Sequence[str]) -> None:
    """Raise UsageError where a standard data set would be read from elsewhere than from the folder that is named."""
    if not isinstance(dataset, TorchvisionSet) or not any(override.startswith("data.root=") for override in typed):
        return
    if dataset.folder is not None and not dataset.has_copy(dataset.folder):
        height = dataset.shape[1]
        raise UsageError(
            f"data.root={dataset.root}: this folder holds no copy of {dataset.known.name}. For image files in <class>/ folders "
            f"choose data=image_folder data.size={height} data.short_side={height}."
        )


def _labels(classes: Sequence[str], found: Sequence[str]) -> torch.Tensor:
    """Return label of the data set -> label of the run."""
    if unknown := [name for name in found if name not in classes]:
        raise UsageError(
            f"data: these images have classes that the run was not trained on: {_named(unknown)}. It knows {_named(classes)}. "
            "Name images of its classes, in folders called so."
        )
    places = {name: label for label, name in enumerate(classes)}
    return torch.tensor([places[name] for name in found])


def _named(classes: Sequence[str]) -> str:
    return some([repr(name) for name in classes])


def _refuse_other_shape(rebuilt: Rebuilt, dataset: Dataset) -> None:
    expected = rebuilt.parts.input_shape
    found = input_shape(dataset, rebuilt.parts.pipeline)
    if found != expected:
        raise UsageError(
            f"data: these images have the shape {_shape(found)}, and the model takes {_shape(expected)} (channels x height x "
            "width). Image files are brought to a size with data.size, data.short_side and data.channels."
        )


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def file_of(source: Source, index: int) -> Path | None:
    """Return the file of an image; None where it is not one of its own."""
    paths = getattr(source, "paths", None)
    return None if paths is None else paths[index]


def told(batches: Iterator[Batch], images: int) -> Iterator[Batch]:
    """Yield the batches, and tell how many of the images they had."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.labels)
        step("evaluating", done, images)
