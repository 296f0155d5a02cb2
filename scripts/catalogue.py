"""Small trainings of everything that `conf` offers, for the tests and for scripts/same_bits.py. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SMALL = [
    "data=noise",
    "data.shape=[1,16,16]",
    "data.train_size=48",
    "data.test_size=16",
    "data.val_fraction=0.25",
    "model.width=8",
    "trainer.batch_size=8",
    "trainer.epochs=1",
    "trainer.max_steps=2",
]
"""A run of a second: real code on little data."""

NEEDS = {
    "norm=ghost": ["norm.size=4"],
    "norm=instance": ["model.stages=2"],
    "model=fixup": ["norm=none", "model.depth=8"],
    "model=mlp": [],
    "model=plain": ["model.depth=5"],
    "model=resnet": ["model.depth=8"],
    "model=torchvision": ["data.shape=[3,64,64]", "~model.width"],
    "regularization=stochastic_depth": ["model=resnet", "model.depth=8"],
    "study=lecture": ["model.stages=2"],
    "study=norms": ["model.stages=2"],
}
"""What a choice needs besides the small run: sizes, never the behaviour under test."""

OF_SWEEPS = "study="
"""How a choice begins that no single run has."""

IMAGE_FOLDER = "data=image_folder"
WITHOUT_DOWNLOAD = {"data=fashion_mini"}
ELSEWHERE = {"data=cifar10", "data=cifar100", "data=svhn", "data=fashion_mnist", *WITHOUT_DOWNLOAD}
"""Data sets of a fixed size. Only the bundled one is certain to be here."""

RECIPE_SHAPES = {"lecture_init": "[4096,1,1]", "imagenet_resnet50": "[3,32,32]", "cifar10_resnet20": "[3,32,32]"}


def groups(conf: Path) -> list[str]:
    """Return the names of the groups of choices below `conf`."""
    return sorted(path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra")


def choices(conf: Path) -> list[str]:
    """Return every choice below `conf` as `group=name`."""
    return [f"{group}={path.stem}" for group in groups(conf) for path in sorted((conf / group).glob("*.yaml"))]


def overrides_of(choice: str) -> list[str]:
    """Return the arguments of a tiny run with this choice. An image folder still needs its `data.root`."""
    group, _, name = choice.partition("=")
    if group == "experiment":
        noise = ["data=noise", f"data.shape={RECIPE_SHAPES.get(name, '[1,28,28]')}", "data.train_size=16", "data.test_size=4"]
        narrow = ["model.width=64"] if name == "lecture_init" else []  # tests/run/test_observe_nothing.py has it at full width
        return [choice, *noise, *narrow, "trainer.batch_size=4", "trainer.epochs=1", "trainer.max_steps=2", "data.val_fraction=0"]
    if choice in ELSEWHERE:
        download = [] if choice in WITHOUT_DOWNLOAD else ["data.download=false"]
        return [choice, *download, "model.width=2", "trainer.batch_size=64", "trainer.epochs=1", "trainer.max_steps=2"]
    if choice == IMAGE_FOLDER:
        data = [choice, "data.size=32", "data.short_side=34", "data.workers=0", "data.val_fraction=0.25"]
        return [*data, "model.width=4", "trainer.batch_size=2", "trainer.epochs=1", "trainer.max_steps=2"]
    needs = NEEDS.get(choice, [])
    removed = tuple(f"{item.removeprefix('~')}=" for item in needs if item.startswith("~"))
    small = [item for item in SMALL if not item.startswith(removed)] if removed else SMALL
    return [*small, choice, *(item for item in needs if not item.startswith("~"))]


def write_images(root: Path) -> None:
    """Write a few small images below `root`, always the same bytes, in the layout of `data=image_folder`."""
    import numpy
    from PIL import Image

    draw = numpy.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = draw.integers(0, 256, (36, 40 + index, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")


@dataclass(frozen=True)
class Case:
    """Commands of `train` that are run one after the other in a folder of their own.

    `exit_code`: what each has to end with. `may_be_refused`: exit code 2 is as good, as when a data set has no copy here.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    exit_code: int = 0
    may_be_refused: bool = False


def cases(conf: Path, images: Path) -> list[Case]:
    """Return a case for every choice below `conf`, and what no choice covers. The long ones come first.

    `images`: a folder as `write_images` makes it.
    """
    names = choices(conf)
    studies = [_study(choice) for choice in names if choice.startswith(OF_SWEEPS)]
    return [
        *_sweeps(),
        *studies,
        *_single_runs(images),
        *(_choice(name, images) for name in names if not name.startswith(OF_SWEEPS)),
    ]


ACROSS = "resumed across revisions"
"""The case whose run is begun at one revision and resumed at another."""

ON_CPU = ("trainer.device=cpu",)
SMALL_SWEEP = ("-m", *SMALL, *ON_CPU, "report.tensorboard=false", "hydra.sweep.dir=sweep")
UNOBSERVED = ("hydra/launcher=basic", "observe=off")
"""What is seen inside a network is compared in single runs, and costs most of the time of a tiny one."""


def _sweeps() -> list[Case]:
    pool = (*SMALL_SWEEP, "norm=none,batch", "init=kaiming,xavier", "seed=0,1")
    return [Case("sweep", (pool,)), Case("sweep repeated", (pool, pool))]


def _study(choice: str) -> Case:
    sweep = (
        "report.tensorboard=false",
        "hydra.sweep.dir=sweep",
        "seed=0",
        "sweep.tune=null",
    )  # which runs tune is not in the bits
    return Case(choice, ((*overrides_of(choice), *ON_CPU, *UNOBSERVED, *sweep),))


def _single_runs(images: Path) -> list[Case]:
    watched = ["observe=full", "observe.every=2", "observe.histogram_every=2"]
    begun = _run(_longer(4), "schedule=constant", "augment=lecture", "regularization=dropout", *watched)
    diverging = _run(_longer(40), "schedule=constant", "norm=none", "optimizer.lr=1000", "observe.every=8")
    float32 = ("trainer.precision=float32", "trainer.memory_format=contiguous", "trainer.grad_clip=0.5")
    workers = ["data.workers=2" if item.startswith("data.workers=") else item for item in overrides_of(IMAGE_FOLDER)]
    resumed = (begun, ("resume=run", "trainer.max_steps=8"))
    return [
        Case("image folder with workers", (_run(workers, f"data.root={images}", "augment=[multi_scale,flip]"),)),
        Case("resumed", resumed),
        Case(ACROSS, resumed),
        Case("diverged", (diverging,), exit_code=3),
        Case("float32", (_run(_longer(8), *float32),)),
    ]


def _longer(steps: int) -> list[str]:
    """Return SMALL with several epochs of four steps each."""
    changed = {"trainer.epochs=1": f"trainer.epochs={max(2, steps // 4)}", "trainer.max_steps=2": f"trainer.max_steps={steps}"}
    return [changed.get(item, item) for item in SMALL]


def _choice(choice: str, images: Path) -> Case:
    root = [f"data.root={images}"] if choice == IMAGE_FOLDER else []
    may_be_refused = choice in ELSEWHERE - WITHOUT_DOWNLOAD
    return Case(choice, (_run(overrides_of(choice), *root),), may_be_refused=may_be_refused)


def _run(overrides: Sequence[str], *more: str) -> tuple[str, ...]:
    return (*overrides, *more, *ON_CPU, "hydra.run.dir=run")
