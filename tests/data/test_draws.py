"""Draws that are made ahead equal those made step by step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from train.data.draws import AHEAD, FIRST, drawn_ahead
from train.parts.augment import Pipeline, color, crop, erase, flip, multi_scale, rotate
from train.parts.contracts import Draws, Op, Shape, Visit
from train.rng import generator

CPU = torch.device("cpu")
SHAPE = (3, 12, 10)


class Uneven:
    """Draws a different number of columns, or another type, from step to step."""

    def draw(self, generator: torch.Generator, count: int, shape: Shape) -> Draws:  # noqa: ARG002
        columns = int(torch.randint(3, (), generator=generator))
        dtype = torch.float32 if columns else torch.float64
        return {"mask": torch.rand(count, columns, generator=generator, dtype=dtype)}


OPS = {
    "none": Pipeline([]),
    "flip and crop": Pipeline([crop(), flip()]),
    "all": Pipeline([multi_scale(), rotate(), color(), erase(), flip(), crop(2)]),
    "bare": erase(),
    "uneven": Uneven(),
}


def turns(steps: int, made: list[int] | None = None) -> Iterator[tuple[torch.Generator, Visit]]:
    for step in range(steps):
        if made is not None:
            made.append(step)
        yield generator(3, "augment", 1, step), Visit(1, torch.arange(4), 4, 0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("steps", [0, 1, AHEAD - 1, AHEAD, AHEAD + 1, 2 * AHEAD + 5])
@pytest.mark.parametrize("name", OPS)
def test_drawn_ahead_equals_step_by_step(name: str, steps: int, device: str) -> None:
    op: Op = OPS[name]
    drawn = list(drawn_ahead(op, turns(steps), SHAPE, torch.device(device)))
    assert len(drawn) == steps
    for draws, (alone, _) in zip(drawn, turns(steps), strict=True):
        expected = op.draw(alone, 4, SHAPE)
        assert list(draws) == list(expected)
        for key, value in expected.items():
            assert draws[key].dtype == value.dtype
            assert draws[key].device.type == device
            assert torch.equal(draws[key].cpu(), value)


def test_drawn_ahead_draws_a_few_at_each_step() -> None:
    """A GPU would wait for many; and no more than a block is drawn in vain when a run ends."""
    made: list[int] = []
    drawn = drawn_ahead(OPS["flip and crop"], turns(5 * AHEAD, made), SHAPE, CPU)
    assert made == []
    before = 0
    for step in range(3 * AHEAD):
        next(drawn)
        assert len(made) - before <= FIRST
        assert step < len(made) <= step + 1 + AHEAD
        before = len(made)
