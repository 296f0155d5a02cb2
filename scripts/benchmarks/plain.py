"""The plain PyTorch loop of tutorials, on a setup's data and model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from train.data.contracts import Arrays, Source
from train.data.readers import Readers
from train.errors import UsageError
from train.parts.augment import geometry
from train.parts.regularization import parameter_groups
from train.run.device import configure_determinism
from train.run.setup import Setup

PIL_CHANNELS = (1, 3)
CUDNN: Any = torch.backends.cudnn
TORCH_DEFAULTS = torch.backends.cuda.matmul.fp32_precision, CUDNN.conv.fp32_precision
"""torch's defaults, read before a setup changes them."""


def use_torch_defaults() -> None:
    """Restore what `configure_determinism` sets to the defaults of a plain program."""
    configure_determinism(deterministic=False)
    CUDNN.benchmark = False
    torch.backends.cuda.matmul.fp32_precision, CUDNN.conv.fp32_precision = TORCH_DEFAULTS


class PilImages(Dataset[tuple[Any, int]]):
    """Images as torchvision's own data sets give them: one PIL image at a time, through a transform."""

    def __init__(self, source: Arrays, transform: transforms.Compose) -> None:
        self.pixels = as_bytes(source.images).permute(0, 2, 3, 1).numpy()
        self.labels = source.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = self.pixels[index]
        return self.transform(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)), self.labels[index]


class PlainLoop:
    """PyTorch as tutorials teach it: a DataLoader of PIL images with torchvision's transforms, float32, loss and accuracy read
    with `.item()` at every step. The same model and initial weights, optimizer settings and augmentation as `setup`."""

    def __init__(self, name: str, setup: Setup, readers: Readers, workers: int) -> None:
        self.name = name
        self.detail = f"float32, contiguous, not deterministic, {workers} workers"
        self.setup = setup
        self.device = setup.placement.device
        self.loader = plain_loader(setup, readers, workers)
        self.batches = endless(self.loader)
        self.model = setup.initial_model(readers).to(self.device)
        self.optimizer = unfused(setup, self.model)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=setup.parts.regularization.label_smoothing)
        self.loss = 0.0
        self.correct = 0.0

    def window(self, steps: int) -> Callable[[], None]:
        use_torch_defaults()
        self.model.train()
        return partial(self.run, steps)

    def run(self, steps: int) -> None:
        grad_clip = self.setup.settings.trainer.grad_clip
        for _ in range(steps):
            images, labels = (part.to(self.device, non_blocking=True) for part in next(self.batches))
            self.optimizer.zero_grad()
            logits = self.model(images)
            loss = self.criterion(logits, labels)
            loss.backward()
            if grad_clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), grad_clip)
            self.optimizer.step()
            self.loss += loss.item()
            self.correct += (logits.argmax(dim=1) == labels).float().mean().item()

    def close(self) -> None:
        self.batches.close()
        del self.loader, self.batches


def plain_loader(setup: Setup, readers: Readers, workers: int) -> DataLoader[Any]:
    """Return the training loader. UsageError for data that nobody would read this way."""
    return DataLoader(
        as_pil(setup.splits.train, [*augmentation(setup), *normalisation(readers)]),  # pyright: ignore[reportArgumentType]
        batch_size=setup.settings.trainer.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=setup.placement.device.type == "cuda",
    )


def test_loader(setup: Setup, readers: Readers, source: Source) -> DataLoader[Any]:
    """Return a loader of every image once, not augmented."""
    return DataLoader(as_pil(source, normalisation(readers)), batch_size=setup.settings.trainer.batch_size)  # pyright: ignore[reportArgumentType]


def as_pil(source: Source, steps: Sequence[Any]) -> PilImages:
    if not isinstance(source, Arrays) or source.images.shape[1] not in PIL_CHANNELS:
        raise UsageError(
            "The plain loop reads grey or coloured images held in memory: choose data=fashion_mini, cifar10 or their like, "
            "or leave it out with --only."
        )
    return PilImages(source, transforms.Compose(steps))


def as_bytes(images: Tensor) -> Tensor:
    """Return images as uint8. Noise becomes grey with the same work to do; what it is of does not matter here."""
    return images if images.dtype == torch.uint8 else (images * 32 + 128).clamp(0, 255).to(torch.uint8)


def normalisation(readers: Readers) -> list[Any]:
    return [transforms.ToTensor(), transforms.Normalize(readers.preprocess.mean, readers.preprocess.std)]


def augmentation(setup: Setup) -> list[nn.Module]:
    """Return the torchvision counterparts of the chosen augmentation."""
    _, height, width = setup.parts.dataset.shape
    found: list[nn.Module] = []
    for op in setup.parts.pipeline.ops:
        if isinstance(op, geometry.Crop):
            found.append(transforms.RandomCrop((height, width), padding=op.pixels(height, width)))
        elif isinstance(op, geometry.Flip):
            found.append(transforms.RandomHorizontalFlip(op.p))
        else:
            raise UsageError(
                f"The plain loop has no counterpart of {type(op).__name__}: choose augment=flip_crop, flip, crop or none, "
                "or leave it out with --only."
            )
    return found


def unfused(setup: Setup, model: nn.Module) -> torch.optim.Optimizer:
    """Return the configured optimizer, not fused."""
    groups = parameter_groups(model, setup.parts.regularization)
    configured = setup.parts.optimizer(groups)
    accepted = inspect.signature(type(configured)).parameters
    settings = {name: value for name, value in configured.defaults.items() if name in accepted}
    make: Any = type(configured)
    return make(parameter_groups(model, setup.parts.regularization), **(settings | {"fused": None, "foreach": None}))


def endless(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    """Yield batches epoch after epoch."""
    while True:
        yield from loader
