"""Models that end their run in every possible way. The sweeps of the tests train them in processes of their own."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn


def fail() -> None:
    raise ValueError("this model fails on purpose")


def leave() -> None:
    sys.exit(7)


def crash() -> None:
    ctypes.string_at(0)


def exhaust() -> None:
    raise MemoryError


def sleep() -> None:
    time.sleep(600)


def dawdle() -> None:
    time.sleep(0.1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once() -> None:
    mark = Path(os.environ["AWKWARD_MARK"])
    if not mark.exists():
        mark.touch()
        die()


def be_cut_off() -> None:
    """Die, and leave a process that has nothing of this one but the lock of its run folder."""
    if os.fork():
        time.sleep(1)  # till the other has left the process group, which is killed with this process
        die()
    os.setsid()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if file.readlink().name != ".lock":
                os.close(int(file.name))
    time.sleep(600)
    os._exit(0)


def break_under_mps() -> None:
    if "CUDA_MPS_PIPE_DIRECTORY" in os.environ:
        raise RuntimeError("CUDA error: unspecified launch failure")


def hog() -> None:
    torch.empty(2**50, dtype=torch.uint8, device="cuda")


def violate() -> None:
    """Read outside a tensor: CUDA ends everything that this process does on the GPU."""
    values, index = torch.zeros(4, device="cuda"), torch.tensor([5], device="cuda")
    values.gather(0, index).sum().item()


BEHAVIOURS: dict[str, Callable[[], None]] = {
    "fails": fail,
    "leaves": leave,
    "crashes": crash,
    "exhausts": exhaust,
    "sleeps": sleep,
    "dawdles": dawdle,
    "dies": die,
    "dies_once": die_once,
    "is_cut_off": be_cut_off,
    "breaks_under_mps": break_under_mps,
    "hogs": hog,
    "violates": violate,
}


class Awkward(nn.Module):
    """A linear net that first does what `how` names in each train step."""

    def __init__(self, pixels: int, classes: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.head = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and not images.is_meta:
            BEHAVIOURS.get(self.how, lambda: None)()
        return self.head(images.flatten(1)) * (math.nan if self.how == "diverges" else 1.0)


def awkward(*, input_shape, classes, norm, activation, dropout, how: str) -> nn.Module:  # noqa: ARG001
    """Build the model. `how=early` crashes here, before the run has created its folder."""
    if how == "early":
        crash()
    return Awkward(math.prod(input_shape), classes, how)
