"""A sequence of ops as one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from train.errors import UsageError
from train.parts.contracts import Draws, Framing, Mixing, Mixture, Op, PerImage, Shape, Visit


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy values to `device`; to a GPU out of pinned memory, so that the host does not wait."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def is_own(op: Op) -> bool:
    """Return whether `op`, or every op of a pipeline, is of this program. Others may do something else at each call."""
    if isinstance(op, Pipeline):
        return all(is_own(part) for part in op.ops)
    return type(op).__module__.partition(".")[0] == __name__.partition(".")[0]


def mixes(op: Op) -> bool:
    """Return whether `op`, or an op of a pipeline, mixes the images of a batch."""
    return any(map(mixes, op.ops)) if isinstance(op, Pipeline) else isinstance(op, Mixing)


def draws_per_image(op: Op) -> TypeGuard[PerImage]:
    """Return what `isinstance` would, which takes as long as ten draws when it is given a protocol in Python 3.11."""
    return hasattr(op, "draw_for")


@dataclass(frozen=True)
class Pipeline:
    """An op that applies several ops one after the other. The choice `name` of op number i is called "i.name".

    UsageError when an op that frames the image (`Framing`) is not the first: it needs the whole image. Also
    when more than one op mixes images (`Mixing`).
    """

    ops: Sequence[Op]

    def __post_init__(self) -> None:
        for op in self.ops[1:]:
            if isinstance(op, Framing):
                name = type(op).__name__
                raise UsageError(
                    f"augment: {name} cuts its crop out of the whole image, so it must be the first augmentation; "
                    "list it first, as in augment=[multi_scale,flip], and once."
                )
        mixing = [type(op).__name__ for op in self.ops if isinstance(op, Mixing)]
        if len(mixing) > 1:
            raise UsageError(f"augment: {' and '.join(mixing)} both mix the images and labels of a batch. Choose one of them.")

    @property
    def framing(self) -> Framing | None:
        """The first op if it frames the image. Readers of image files apply it themselves, and `rest` comes after."""
        return self.ops[0] if self.ops and isinstance(self.ops[0], Framing) else None

    @property
    def rest(self) -> Pipeline:
        """The ops after the framing; all of them where there is none."""
        return self if self.framing is None else Pipeline(self.ops[1:])

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:
        """Draw the random numbers of all ops for `count` images of `shape`. Each op has a generator of its own, so that the
        amount that it draws does not change what the others draw."""
        return self._drawn(generator, shape, lambda op, own, size: op.draw(own, count, size))

    def draw_for(self, generator: torch.Generator, visit: Visit, shape: Shape) -> Draws:
        """Draw as `draw` does, with the visit for the ops that ask for it."""

        def of(op: Op, own: torch.Generator, size: Shape) -> Draws:
            return op.draw_for(own, visit, size) if draws_per_image(op) else op.draw(own, len(visit.indices), size)

        return self._drawn(generator, shape, of)

    def _drawn(self, generator: torch.Generator, shape: Shape, draw: Callable[[Op, torch.Generator, Shape], Draws]) -> Draws:
        seeds = torch.randint(2**63 - 1, (len(self.ops),), generator=generator).tolist()
        draws: dict[str, Tensor] = {}
        for index, (op, seed) in enumerate(zip(self.ops, seeds, strict=True)):
            drawn = draw(op, torch.Generator().manual_seed(seed), shape)
            draws |= {f"{index}.{name}": value for name, value in drawn.items()}
            shape = op.output_shape(shape)
        return draws

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Apply all ops in order; draws that are still on the host are moved to the images' device."""
        moved = {name: send(value, images.device) for name, value in draws.items()}
        for index, op in enumerate(self.ops):
            start = f"{index}."
            images = op.apply(images, {name.removeprefix(start): moved[name] for name in moved if name.startswith(start)})
        return images

    def mixture(self, draws: Draws) -> Mixture | None:
        """Return what the mixing op, if there is one, makes of a batch."""
        for index, op in enumerate(self.ops):
            if isinstance(op, Mixing):
                start = f"{index}."
                return op.mixture({name.removeprefix(start): drawn for name, drawn in draws.items() if name.startswith(start)})
        return None

    def evaluate(self, images: Tensor) -> Tensor:
        """Return validation or test images as all ops change them."""
        for op in self.ops:
            images = op.evaluate(images)
        return images

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one image after all ops."""
        for op in self.ops:
            shape = op.output_shape(shape)
        return shape
