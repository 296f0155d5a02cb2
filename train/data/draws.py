"""The random numbers of the augmentation, drawn and moved to the device ahead of the steps that use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch

from train.parts.augment import draws_per_image, send
from train.parts.contracts import Draws, Op, Shape, Visit

AHEAD = 32
"""At most, steps whose draws move to a GPU together: a copy takes the host longer than the few bytes of one step are worth."""
FIRST = 2
"""Steps in the first of these blocks. Each is drawn while the one before is used, a few draws a step, since a GPU would have to
wait for many at once; so it may be twice as long."""


def drawn_ahead(op: Op, steps: Iterable[tuple[torch.Generator, Visit]], shape: Shape, device: torch.device) -> Iterator[Draws]:
    """Yield what `op` draws in each of `steps`, for the images of its visit, which are of `shape`; on `device`.

    A step's draws depend on its generator and its visit alone, whatever the steps before it and after it.
    """
    waiting = (drawn(op, generator, visit, shape) for generator, visit in steps)
    block = list(islice(waiting, FIRST))
    while block:
        size, following = min(2 * len(block), AHEAD), list[Draws]()
        each = -(-size // len(block))
        for draws in moved(block, device):
            yield draws
            following += islice(waiting, min(each, size - len(following)))
        block = following


def drawn(op: Op, generator: torch.Generator, visit: Visit, shape: Shape) -> Draws:
    """Return what `op` draws for the images of a visit."""
    if draws_per_image(op):
        return op.draw_for(generator, visit, shape)
    return op.draw(generator, len(visit.indices), shape)


def moved(block: Sequence[Draws], device: torch.device) -> Sequence[Draws]:
    """Return the draws on `device`, each step's as views of what was copied there at once.

    An op whose draws change their shape from step to step has each copied by itself.
    """
    if any(_shapes(draws) != _shapes(block[0]) for draws in block):
        return [{name: send(value, device) for name, value in draws.items()} for draws in block]
    columns = {name: send(torch.stack([draws[name] for draws in block]), device).unbind() for name in block[0]}
    return [{name: column[step] for name, column in columns.items()} for step in range(len(block))]


def _shapes(draws: Draws) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in draws.items()}
