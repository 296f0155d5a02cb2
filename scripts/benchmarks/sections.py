"""The sections of the benchmark: which contestants each has, and which ratios it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from train.errors import UsageError, did_you_mean
from train.run.setup import Setup

from . import fixed_cost, sweep
from .bare import BareGraph, BareStep
from .folder import QUALITY, READERS, TorchvisionReading, missing_decoders, reading, write_photographs
from .host_time import HOST_PARTS
from .lightning_loop import LightningLoop, lightning_package
from .plain import PlainLoop
from .training import TrainLoop, prepare_setup
from .windows import Contestant, Procedure, Window, interleave

DEFAULT_STEPS = {"loop": 100, "observing": 100, "folder": 20, "sweep": 140, "fixed": 1}
WHOLE_RUNS = ("sweep", "fixed")
"""Sections that time whole runs, not the steady state of their steps."""
EXTRA_LEAD_IN = 4
PREFETCH = 2
"""Batches that each worker of a DataLoader prepares ahead."""


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    overrides: Sequence[str]
    only: frozenset[str]
    rounds: int
    steps: int | None
    repeats: int
    tolerance: float
    workers: int
    images: int
    image_width: int
    batch_size: int


@dataclass(frozen=True)
class Section:
    """The measurements of one section. `ratios`: pairs of contestants, speed of the first over speed of the second."""

    name: str
    title: str
    contestants: Mapping[str, str]
    ratios: Sequence[tuple[str, str]]
    procedure: Procedure
    windows: Sequence[Window]
    notes: Sequence[str]


Makers = Mapping[str, Callable[[], Contestant]]
"""Contestant's name -> its factory; a contestant that `--only` excludes is never made."""

NAMES = {
    "loop": ("train", "train_eager", "plain", "bare", "bare_graph", "lightning", "train_float32"),
    "observing": ("train", "train_full", "train_unobserved"),
    "folder": (*READERS, "torchvision_folder"),
    "sweep": (*sweep.POOLS, "sweep_plain"),
    "fixed": tuple(f"run_{steps}" for steps in fixed_cost.LENGTHS),
}
TITLES = {
    "loop": "Training: the loop of `train`, a plain PyTorch loop, the bare step, Lightning",
    "observing": "The cost of observing: `train` with its observation, with observe=full and with observe=off",
    "folder": "Image files: the reader of image_folder, its decoders and caches, and torchvision's ImageFolder",
    "sweep": "A sweep, command to end: `train -m` with and without MPS and with one run per GPU, and a plain program run by run",
    "fixed": "The fixed cost of a run: seconds in a worker of the fork server, as in a sweep",
}
RATIOS = {
    "loop": (
        ("train", "plain"),
        ("train_float32", "plain"),
        ("train", "lightning"),
        ("train", "train_eager"),
        ("train", "bare"),
        ("train_eager", "bare"),
        ("train", "bare_graph"),
        ("bare_graph", "bare"),
    ),
    "observing": (("train", "train_unobserved"), ("train_full", "train_unobserved")),
    "folder": (("folder_reader", "torchvision_folder"), *((name, "folder_reader") for name in list(READERS)[1:])),
    "sweep": (
        ("sweep_mps", "sweep_plain"),
        ("sweep_pool", "sweep_plain"),
        ("sweep_one_per_gpu", "sweep_plain"),
        ("sweep_mps", "sweep_pool"),
        ("sweep_mps", "sweep_one_per_gpu"),
    ),
    "fixed": (),
}


def check_only(names: Iterable[str]) -> None:
    """Raise UsageError for the name of a contestant that does not exist."""
    known = {name for names in NAMES.values() for name in names}
    for name in names:
        if name not in known:
            raise UsageError(f"--only={name}: there is no such contestant. {did_you_mean(name, known)}")


def run_section(name: str, options: Options, folder: Path, say: Callable[[str], None]) -> Section:
    """Prepare and measure one section, below the empty `folder`. UsageError for what cannot be compared."""
    makers, setup, notes = PREPARE[name](options, folder)
    procedure = procedure_for(name, options, setup)
    with ExitStack() as stack:
        contestants: list[Contestant] = []
        for key in wanted(name, options):
            if key in makers:
                say(f"preparing {key}")
                contestants.append(makers[key]())
                stack.callback(contestants[-1].close)
        windows = interleave(contestants, procedure, waiter(setup.placement.device), say)
    details = {contestant.name: contestant.detail for contestant in contestants}
    ratios = [pair for pair in RATIOS[name] if set(pair) <= set(details)]
    notes = notes if name in WHOLE_RUNS else [*notes, *steadiness(procedure)]
    return Section(name, TITLES[name], details, ratios, procedure, windows, notes)


def wanted(section: str, options: Options) -> list[str]:
    """Return the names of the section's contestants that `--only` includes."""
    return [name for name in NAMES[section] if not options.only or name in options.only]


def procedure_for(section: str, options: Options, setup: Setup) -> Procedure:
    steps = options.steps or default_steps(section, setup)
    lead_in = PREFETCH * options.workers + EXTRA_LEAD_IN
    batch_size = setup.settings.trainer.batch_size
    if section == "fixed":
        lead_in, steps, batch_size = 0, 1, 1
    if section == "sweep":  # nothing needs to warm up, since whole commands are timed; a step is one of every run
        lead_in, batch_size = 0, batch_size * sweep.RUNS
    return Procedure(options.rounds, steps, batch_size, lead_in, options.repeats, options.tolerance)


def default_steps(section: str, setup: Setup) -> int:
    """Return the steps per window. Training windows are multiples of `observe.every`: they observe as often as a long run."""
    every = setup.settings.observe.every
    if section in ("folder", *WHOLE_RUNS) or not every:
        return DEFAULT_STEPS[section]
    return every * -(-DEFAULT_STEPS[section] // every)


def waiter(device: torch.device) -> Callable[[], None]:
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def prepare_loop(options: Options, folder: Path) -> tuple[Makers, Setup, list[str]]:
    setup = prepare_setup(options.overrides)
    readers = setup.open_readers()
    makers: dict[str, Callable[[], Contestant]] = {
        "train": lambda: TrainLoop("train", setup, folder / "train"),
        "plain": lambda: PlainLoop("plain", setup, readers, options.workers),
        "bare": lambda: BareStep("bare", setup, readers),
    }
    host_parts = "; ".join(f"{part}: {meaning}" for part, meaning in HOST_PARTS.items())
    notes = [f"The host's time. {host_parts}.", observed_share(setup, options)]
    if setup.placement.device.type == "cuda":
        makers["train_eager"] = partial(train_loop, "train_eager", [*options.overrides, "trainer.cuda_graph=false"], folder)
        makers["bare_graph"] = lambda: BareGraph("bare_graph", setup, readers)
    else:
        notes.append(f"No train_eager and no bare_graph: on {setup.placement.device.type} `train` is eager.")
    if lightning_package():
        makers["lightning"] = lambda: LightningLoop("lightning", setup, readers, options.workers)
    else:
        notes.append("No lightning: it is not installed (pip install lightning).")
    if setup.placement.mixed:
        makers["train_float32"] = partial(train_loop, "train_float32", [*options.overrides, "trainer.precision=float32"], folder)
    else:
        notes.append("No train_float32: `train` chooses float32 on this machine.")
    if "plain" in wanted("loop", options):
        notes.append(
            "`plain` runs in this process, with the memory and thread settings of `train`; where these help it, its ratio is an "
            "understatement. It uses torch's defaults for determinism."
        )
    return makers, setup, notes


def prepare_observing(options: Options, folder: Path) -> tuple[Makers, Setup, list[str]]:
    setup = prepare_setup(options.overrides)
    if not setup.settings.observe.every:
        raise UsageError("--cost-of-observing compares with observe=off: leave observe=off out of the overrides.")
    makers: Makers = {
        "train": lambda: TrainLoop("train", setup, folder / "observed"),
        "train_full": partial(train_loop, "train_full", observing(options.overrides, "full"), folder),
        "train_unobserved": partial(train_loop, "train_unobserved", observing(options.overrides, "off"), folder),
    }
    notes = [observed_share(setup, options)]
    if "train_full" in wanted("observing", options):
        notes.append("Histograms and the probe come once a window, at its first step; in a long run they are rarer.")
    return makers, setup, notes


def observing(overrides: Sequence[str], how: str) -> list[str]:
    return [*(override for override in overrides if not override.startswith("observe")), f"observe={how}"]


def train_loop(name: str, overrides: Sequence[str], folder: Path) -> TrainLoop:
    setup = prepare_setup(overrides)
    return TrainLoop(name, setup, folder / name)


def prepare_folder(options: Options, folder: Path) -> tuple[Makers, Setup, list[str]]:
    """Prepare the contestants that read image files; the overrides of the command line do not apply."""
    root = folder / "photographs"
    size = write_photographs(root, options.images, options.image_width)
    sizes = [f"trainer.batch_size={options.batch_size}", f"data.workers={options.workers}", "data.val_fraction=0.0"]
    overrides = ["data=image_folder", f"data.root={root}", "augment=[multi_scale,flip]", *sizes]
    setup, missing = prepare_setup(overrides), missing_decoders()
    device = setup.placement.device
    cached = [*overrides, f"data.cache_dir={folder / 'caches'}"]
    makers: dict[str, Callable[[], Contestant]] = {
        "torchvision_folder": lambda: TorchvisionReading(
            "torchvision_folder", root / "train", setup.open_readers().preprocess, options.batch_size, options.workers, device
        ),
        **{name: partial(reading, name, cached) for name in READERS if name not in missing},
    }
    width, height = options.image_width, options.image_width * 3 // 4
    note = f"{options.images} generated JPEGs, {width} x {height} or upright, quality {QUALITY}, {size / 1000:.0f} kB on average."
    absent = [missing[name] for name in wanted("folder", options) if name in missing]
    notes = [
        "The short side of cached images is 256 pixels; caches are made before the windows.",
        "A core: images per second of processor time, of this process and its workers; others on the machine change it little.",
        "The workers read, cut out and resize. This process mirrors and standardizes, which a GPU would do if there were one.",
    ]
    return makers, setup, [note, *absent, *notes]


def prepare_sweep(options: Options, folder: Path) -> tuple[Makers, Setup, list[str]]:
    setup = prepare_setup(options.overrides)
    names, absent = sweep.pools(setup.placement.device)
    makers = dict(sweep.contestants(options.overrides, options.workers, folder, names))
    axes = " ".join(f"{axis}={','.join(levels)}" for axis, levels in sweep.AXES.items())
    steps = options.steps or DEFAULT_STEPS["sweep"]
    note = f"{sweep.RUNS} runs ({axes}) of {steps} steps, timed from the command to its end: start, training, evaluation, report."
    return makers, setup, [note, *absent, "The plain program does not observe, writes no records and makes no report."]


def prepare_fixed(options: Options, folder: Path) -> tuple[Makers, Setup, list[str]]:
    setup = prepare_setup(options.overrides)
    fork_server = fixed_cost.warm_fork_server(options.overrides, folder)
    makers = dict(fixed_cost.contestants(options.overrides, folder, fork_server))
    notes = [f"{name}: {meaning}." for name, meaning in fixed_cost.PARTS.items()]
    return makers, setup, [*notes, "A run before the first window is not counted: it starts the fork server."]


PREPARE: Mapping[str, Callable[[Options, Path], tuple[Makers, Setup, list[str]]]] = {
    "loop": prepare_loop,
    "observing": prepare_observing,
    "folder": prepare_folder,
    "sweep": prepare_sweep,
    "fixed": prepare_fixed,
}


def observed_share(setup: Setup, options: Options) -> str:
    every = setup.settings.observe.every
    if not every:
        return "`train` does not observe here."
    steps = options.steps or default_steps("loop", setup)
    return f"`train` observes {-(-steps // every)} of the {steps} steps of a window; a long run observes 1 of {every}."


def steadiness(procedure: Procedure) -> list[str]:
    return [
        f"Windows of {procedure.steps} steps of {procedure.batch_size} images, the contestants in turn, "
        f"{procedure.rounds} rounds. {procedure.lead_in} untimed steps come before each, with workers running and their queues "
        "filled: only the steady state is timed, with the pauses between epochs that fall into it."
    ]
