"""Same command, same bits; and each role's seed decides its own draws and no others."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.harness import run_here, settings_for
from train.data.contracts import Arrays
from train.data.readers import open_readers
from train.rng import ROLES
from train.run.folder import RunFolder
from train.run.session import prepare
from train.sinks.jsonl import read_records

Train = Callable[..., "subprocess.CompletedProcess[str]"]

EVERYTHING = [
    "data=noise",
    "data.shape=[3,12,12]",
    "data.classes=3",
    "data.train_size=60",
    "data.test_size=12",
    "data.val_fraction=0.2",
    "data.preprocess=standardize",
    "augment=flip_crop",
    "init=xavier",
    "norm=batch",
    "regularization=weight_decay_dropout",
    "model.width=6",
    "model.stages=2",
    "trainer.batch_size=8",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "trainer.record_every=1",
    "observe.every=3",
]
"""Every role of randomness is at work."""

Values = list[tuple[int, float, dict[str, float]]]


def outcome(folder: Path) -> tuple[Values, bytes]:
    """All that a run says but the time, and its weights as they are on the disk."""
    values = [(record.step, record.epoch, dict(record.values)) for record in read_records(folder / "metrics.jsonl")]
    return values, (folder / "weights.pt").read_bytes()


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["trainer.precision=bfloat16", "augment=lecture"]], ids=["", "bfloat16"])
def test_the_same_command_gives_the_same_bits(train: Train, tmp_path: Path, extra: list[str]) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for number, folder in enumerate(folders):
        result = train(*EVERYTHING, *extra, f"hydra.run.dir={folder}", PYTHONHASHSEED=str(number))
        assert result.returncode == 0, result.stderr
    assert outcome(folders[0]) == outcome(folders[1])


def test_what_ran_before_in_the_process_does_not_matter(tmp_path: Path) -> None:
    """Neither the global generators nor a run of another kind reach into a run."""
    first = run_here(tmp_path / "first", EVERYTHING)
    torch.manual_seed(99)
    torch.rand(5)
    random.seed(99)
    run_here(
        tmp_path / "between", [*EVERYTHING, "seed=4", "trainer.precision=bfloat16", "norm=layer", "trainer.deterministic=false"]
    )
    assert outcome(first.path) == outcome(run_here(tmp_path / "again", EVERYTHING).path)


def test_zero_is_a_seed_like_any_other(tmp_path: Path) -> None:
    runs = {seed: run_here(tmp_path / str(seed), [*EVERYTHING, f"seed={seed}"]).path for seed in (0, 1, -1)}
    default = run_here(tmp_path / "default", EVERYTHING).path
    assert same(weights(runs[0]), weights(default))
    for one, other in ((0, 1), (0, -1), (1, -1)):
        assert not same(weights(runs[one]), weights(runs[other]))


def test_a_run_of_fewer_steps_is_the_beginning_of_a_longer_one(tmp_path: Path) -> None:
    """With a schedule that does not look at the end; the draws of a step depend on the step alone."""
    constant = [*EVERYTHING, "schedule=constant", "observe=off"]
    short = outcome(run_here(tmp_path / "short", [*constant, "trainer.max_steps=4"]).path)[0]
    long = outcome(run_here(tmp_path / "long", constant).path)[0]

    def losses(values: Values) -> list[float]:
        return [row["loss/train"] for step, _, row in values if step <= 4 and "loss/train" in row]

    assert len(losses(short)) == 4
    assert losses(short) == losses(long)


# Workers


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    chance = random.Random(0)
    for split, count in (("train", 9), ("val", 3)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                width, height = chance.randint(30, 60), chance.randint(30, 60)
                image = Image.frombytes("RGB", (width, height), chance.randbytes(width * height * 3))
                image.save(root / split / label / f"{number}.png")
    return root


FOLDER = [
    "data=image_folder",
    "augment=lecture",
    "augment.multi_scale.short_side=[26,40]",
    "augment.multi_scale.crop=24",
    "augment.multi_scale.test_short_side=26",
    "regularization=dropout",
    "model.width=4",
    "model.stages=2",
    "trainer.batch_size=4",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "trainer.record_every=1",
]


@pytest.mark.slow
def test_the_number_of_workers_does_not_matter(images: Path, tmp_path: Path) -> None:
    runs = [
        run_here(tmp_path / f"{workers}", [*FOLDER, f"data.root={images}", f"data.workers={workers}"]).path
        for workers in (0, 1, 2)
    ]
    assert outcome(runs[0]) == outcome(runs[1]) == outcome(runs[2])
    assert any("accuracy/val" in row for _, _, row in outcome(runs[0])[0])


# The roles, one at a time


def start(*overrides: str) -> dict[str, object]:
    """What a run has in its hands before the first step."""
    session = prepare(settings_for([*EVERYTHING, *overrides]), RunFolder(Path("/nowhere")))
    readers = open_readers(session.parts.dataset, session.splits, session.parts.pipeline, session.reader_settings())
    batch = next(readers.train.epoch(0))
    assert isinstance(session.splits.val, Arrays)
    return {
        "split": session.splits.val.images,
        "initial weights": torch.cat([p.detach().flatten() for p in session.train_state(readers).model.parameters()]),
        "labels": batch.labels,
        "images": batch.images,
    }


CHANGES = {
    "init": {"initial weights"},
    "order": {"labels", "images"},
    "augment": {"images"},
    "dropout": set(),
    "split": {"split", "labels", "images"},
}


def test_every_role_has_its_row() -> None:
    assert set(CHANGES) == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_changes_its_own_draws_and_no_others(role: str) -> None:
    base, other = start(), start(f"seeds.{role}=1")
    changed = {name for name, value in base.items() if not torch.equal(torch.as_tensor(value), torch.as_tensor(other[name]))}
    assert changed == CHANGES[role]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_matters_for_the_outcome_when_it_is_at_work(role: str, tmp_path: Path) -> None:
    idle = {"augment": ["augment=none"], "dropout": ["regularization.dropout=0"], "split": ["data.val_fraction=0"]}
    base = weights(run_here(tmp_path / "base", EVERYTHING).path)
    assert not same(base, weights(run_here(tmp_path / "other", [*EVERYTHING, f"seeds.{role}=1"]).path))
    if role in idle:
        without = [run_here(tmp_path / name, [*EVERYTHING, *idle[role], f"seeds.{role}={name}"]).path for name in ("0", "1")]
        assert outcome(without[0]) == outcome(without[1])


def test_the_seed_is_nothing_but_the_default_of_the_roles(tmp_path: Path) -> None:
    roles = [f"seeds.{role}=1" for role in ROLES]
    one, by_role = (
        run_here(tmp_path / name, [*EVERYTHING, *more]).path for name, more in (("seed", ["seed=1"]), ("roles", roles))
    )
    assert outcome(one) == outcome(by_role)
