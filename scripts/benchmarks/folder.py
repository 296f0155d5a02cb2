"""Contestants that read image files: `train`'s reader of image folders, with each decoder and cache, and torchvision's.

The latter is its ImageFolder in a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_pil_image

from train.data.contracts import Batch, DecoderName
from train.data.jpeg import refuse_missing
from train.data.preprocess import Preprocess
from train.data.readers import Readers
from train.errors import UsageError
from train.run.setup import Setup

from .training import prepare_setup

CLASSES = 4
QUALITY = 90
CROP = 224

READERS: Mapping[str, Sequence[str]] = {
    "folder_reader": (),
    "folder_turbojpeg": ("data.decoder=turbojpeg",),
    "folder_torchcodec": ("data.decoder=torchcodec",),
    "folder_uint8": ("data.cache=uint8",),
    "folder_jpeg": ("data.cache=jpeg",),
    "folder_jpeg_turbojpeg": ("data.cache=jpeg", "data.decoder=turbojpeg"),
}
"""Contestant -> its settings, besides those that all have."""


class FolderReading:
    """A contestant that reads batches with `train`'s FolderReader, epoch after epoch."""

    def __init__(self, name: str, setup: Setup, readers: Readers) -> None:
        self.name = name
        self.detail = ", ".join([*READERS[name], f"multi_scale + flip, {setup.settings.data.workers} workers"])
        self.readers = readers
        self.batches = self.endless()

    def endless(self) -> Iterator[Batch]:
        for epoch in count():
            yield from self.readers.train.epoch(epoch)

    def window(self, steps: int) -> Callable[[], None]:
        return partial(draw, self.batches, steps)

    def close(self) -> None:
        self.readers.close()


def reading(name: str, overrides: Sequence[str]) -> FolderReading:
    """Return the contestant of this name; its cache is made before."""
    setup = prepare_setup([*overrides, *READERS[name]])
    return FolderReading(name, setup, setup.open_readers())


def missing_decoders() -> dict[str, str]:
    """Return contestant -> why it is left out, for those whose decoder is not installed."""
    found: dict[str, str] = {}
    for name, settings in READERS.items():
        decoder = next((setting.partition("=")[2] for setting in settings if setting.startswith("data.decoder=")), "pillow")
        try:
            refuse_missing(cast(DecoderName, decoder))
        except UsageError as error:
            found[name] = f"No {name}: {error}"
    return found


class TorchvisionReading:
    """A contestant that reads batches with torchvision's usual pipeline for training on photographs."""

    def __init__(
        self, name: str, root: Path, preprocess: Preprocess, batch_size: int, workers: int, device: torch.device
    ) -> None:
        self.name = name
        self.detail = f"RandomResizedCrop + RandomHorizontalFlip, {workers} workers"
        self.device = device
        steps = [transforms.RandomResizedCrop(CROP), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        transform = transforms.Compose([*steps, transforms.Normalize(preprocess.mean, preprocess.std)])
        self.loader: DataLoader[Any] = DataLoader(
            ImageFolder(root, transform),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        self.batches = self.endless()

    def endless(self) -> Iterator[Batch]:
        while True:
            for images, labels in self.loader:
                yield Batch(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))

    def window(self, steps: int) -> Callable[[], None]:
        return partial(draw, self.batches, steps)

    def close(self) -> None:
        del self.batches, self.loader  # ends the workers


def draw(batches: Iterator[Batch], steps: int) -> None:
    for _ in range(steps):
        next(batches)


def write_photographs(root: Path, images: int, width: int) -> int:
    """A folder as `data=image_folder` wants it: `images` JPEGs to train on, one per class to test on, upright and lying,
    4 : 3. Returns the mean size of a file in bytes."""
    sizes = [
        write_photograph(root / "train" / f"class{index % CLASSES}" / f"{index:05}.jpg", index, width) for index in range(images)
    ]
    for index in range(CLASSES):
        write_photograph(root / "test" / f"class{index}" / "0.jpg", images + index, width)
    return sum(sizes) // len(sizes)


def write_photograph(path: Path, seed: int, width: int) -> int:
    """Write one JPEG and return its size in bytes."""
    height = width * 3 // 4
    pixels = photograph(seed, *((width, height) if seed // CLASSES % 3 == 0 else (height, width)))
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(pixels).save(path, quality=QUALITY)
    return path.stat().st_size


def photograph(seed: int, height: int, width: int) -> Tensor:
    """uint8 [3, H, W]: smooth shapes with ever finer and fainter ones on them, the spectrum of a photograph, and a sensor's
    noise."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for octave in range(9):
        cells = 2 + 2**octave
        grey = torch.randn(1, 1, cells, cells, generator=generator)
        colour = torch.randn(1, 3, cells, cells, generator=generator)
        layer = functional.interpolate(grey + 0.3 * colour, (height, width), mode="bilinear", align_corners=True)
        image += layer * 1.4**-octave
    image += 0.12 * torch.randn(1, 3, height, width, generator=generator)
    return (image[0] * 50 + 128).clamp(0, 255).to(torch.uint8)
