"""Contestants that run a whole sweep, from the command to its end: `train -m`, and a plain program started by hand."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import torch

from train.cli import ENVIRONMENT
from train.errors import RunError
from train.store.run import find_runs, read_run
from train.sweep.mps import TOOL, find_tool

AXES: Mapping[str, Sequence[str]] = {"init": ("xavier", "kaiming"), "norm": ("none", "batch", "group"), "seed": ("0", "1")}
RUNS = len(list(itertools.product(*AXES.values())))
POOLS: Mapping[str, Sequence[str]] = {
    "sweep_mps": ["hydra.launcher.mps=true"],
    "sweep_pool": ["hydra.launcher.mps=false"],
    "sweep_one_per_gpu": ["hydra.launcher.jobs_per_device=1"],
}
"""What `train -m` is told of its launcher. Only the second can take part on a CPU."""
TAIL = 2000


class SweepCommands:
    """A contestant that runs one command or several in turn, which together train every configuration for some steps."""

    def __init__(self, name: str, detail: str, commands: Callable[[int], Iterator[list[str]]], folder: Path) -> None:
        self.name = name
        self.detail = detail
        self.commands = commands
        self.folder = folder
        folder.mkdir(parents=True)

    def window(self, steps: int) -> Callable[[], None]:
        return partial(self.run, steps)

    def run(self, steps: int) -> None:
        """Run the commands; none for zero steps. RunError with the end of the error output when a command fails."""
        environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
        for command in self.commands(steps) if steps else ():
            done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RunError(f"{self.name}: {' '.join(command)} ended with {done.returncode}.\n{done.stderr[-TAIL:]}")

    def close(self) -> None: ...


def contestants(
    overrides: Sequence[str], workers: int, folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, Callable[[], SweepCommands]]]:
    """Yield names and factories of the contestants: those of POOLS in `names`, and the plain program."""
    for name in names:
        commands = partial(multirun, [*POOLS[name], *overrides], folder / name, count())
        yield name, partial(SweepCommands, name, f"train -m {' '.join(POOLS[name])}", commands, folder / name)
    commands = partial(one_by_one, overrides, workers)
    detail = f"a plain PyTorch program, started once per configuration, {workers} workers"
    yield "sweep_plain", partial(SweepCommands, "sweep_plain", detail, commands, folder / "plain")


def pools(device: torch.device) -> tuple[list[str], list[str]]:
    """Return which of POOLS take part on this device, and why others do not."""
    if device.type != "cuda":
        return ["sweep_pool"], [f"No sweep_mps and no sweep_one_per_gpu: on {device.type} there is no GPU to share."]
    if find_tool() is None:
        return ["sweep_pool", "sweep_one_per_gpu"], [f"No sweep_mps: {TOOL} is neither on PATH nor beside nvidia-smi."]
    return list(POOLS), []


def multirun(overrides: Sequence[str], folder: Path, number: Iterator[int], steps: int) -> Iterator[list[str]]:
    """Yield the command of a sweep. RunError after it if it left out what cannot work, as sweeps do."""
    axes = [f"{axis}={','.join(levels)}" for axis, levels in AXES.items()]
    sweep = folder / str(next(number))
    train = str(Path(sys.executable).with_name("train"))
    yield [train, "-m", *axes, *overrides, f"trainer.max_steps={steps}", f"hydra.sweep.dir={sweep}"]
    made = sum(read_run(run).state in ("done", "diverged") for run in find_runs([sweep]))
    if made < RUNS:
        raise RunError(f"train {' '.join(axes)} {' '.join(overrides)}: made {made} of the {RUNS} runs that are compared.")


def one_by_one(overrides: Sequence[str], workers: int, steps: int) -> Iterator[list[str]]:
    program = str(Path(__file__).with_name("plain_run.py"))
    for levels in itertools.product(*AXES.values()):
        chosen = [f"{axis}={level}" for axis, level in zip(AXES, levels, strict=True)]
        yield [sys.executable, program, f"--workers={workers}", *chosen, *overrides, f"trainer.max_steps={steps}"]
