"""The same command is bit-exact, and each role's seed determines only its own randomness."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.harness import settings_for, train_in_process
from train.data.contracts import Arrays
from train.rng import ROLES
from train.run.setup import prepare
from train.store.metrics import read_records

Train = Callable[..., "subprocess.CompletedProcess[str]"]

ALL_ROLES = [
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
"""Every role of randomness is in use."""

UNOBSERVED = [*ALL_ROLES, "observe=off"]

Values = list[tuple[int, float, dict[str, float]]]


def run_content(folder: Path) -> tuple[Values, bytes]:
    """Return all records of a run without times, and the bytes of its weights."""
    values = [(record.step, record.epoch, dict(record.values)) for record in read_records(folder / "metrics.jsonl")]
    return values, (folder / "weights.pt").read_bytes()


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.long
def test_same_command_is_bit_exact(real_train: Train, tmp_path: Path) -> None:
    """In processes whose hashes of strings differ, so that no set or dictionary decides an order."""
    folders = [tmp_path / name for name in ("first", "second")]
    for number, folder in enumerate(folders):
        result = real_train(*ALL_ROLES, f"hydra.run.dir={folder}", PYTHONHASHSEED=str(number))
        assert result.returncode == 0, result.stderr
    assert run_content(folders[0]) == run_content(folders[1])


def test_same_configuration_in_bfloat16_is_bit_exact(tmp_path: Path) -> None:
    run = [*ALL_ROLES, "trainer.precision=bfloat16", "augment=lecture"]
    first, second = (train_in_process(tmp_path / name, run).path for name in ("first", "second"))
    assert run_content(first) == run_content(second)


def test_earlier_run_in_process_changes_nothing(tmp_path: Path) -> None:
    """Neither the global generators nor an earlier, different run affect a run."""
    first = train_in_process(tmp_path / "first", ALL_ROLES)
    torch.manual_seed(99)
    torch.rand(5)
    random.seed(99)
    train_in_process(
        tmp_path / "between", [*ALL_ROLES, "seed=4", "trainer.precision=bfloat16", "norm=layer", "trainer.deterministic=false"]
    )
    assert run_content(first.path) == run_content(train_in_process(tmp_path / "second", ALL_ROLES).path)


def test_seed_zero_differs_from_other_seeds(tmp_path: Path) -> None:
    runs = {seed: train_in_process(tmp_path / str(seed), [*UNOBSERVED, f"seed={seed}"]).path for seed in (0, 1, -1)}
    default = train_in_process(tmp_path / "default", UNOBSERVED).path
    assert equal(weights(runs[0]), weights(default))
    for left, right in ((0, 1), (0, -1), (1, -1)):
        assert not equal(weights(runs[left]), weights(runs[right]))


def test_max_steps_run_is_prefix_of_longer_run(tmp_path: Path) -> None:
    """With a schedule that does not depend on the end: the draws of a step depend only on its number."""
    constant = [*UNOBSERVED, "schedule=constant"]
    short = run_content(train_in_process(tmp_path / "short", [*constant, "trainer.max_steps=4"]).path)[0]
    long = run_content(train_in_process(tmp_path / "long", constant).path)[0]

    def losses(values: Values) -> list[float]:
        return [row["loss/train"] for step, _, row in values if step <= 4 and "loss/train" in row]

    assert len(losses(short)) == 4
    assert losses(short) == losses(long)


# Workers


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = random.Random(0)
    for split, count in (("train", 9), ("val", 3)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                width, height = generator.randint(30, 60), generator.randint(30, 60)
                image = Image.frombytes("RGB", (width, height), generator.randbytes(width * height * 3))
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
def test_data_workers_do_not_change_results(images: Path, tmp_path: Path) -> None:
    runs = [
        train_in_process(tmp_path / f"{workers}", [*FOLDER, f"data.root={images}", f"data.workers={workers}"]).path
        for workers in (0, 1, 2)
    ]
    assert run_content(runs[0]) == run_content(runs[1]) == run_content(runs[2])
    assert any("accuracy/val" in row for _, _, row in run_content(runs[0])[0])


# The roles, one at a time


def initial_draws(*overrides: str) -> dict[str, object]:
    """Return what the seeds determine before the first step."""
    setup = prepare(settings_for([*ALL_ROLES, *overrides]))
    readers = setup.open_readers()
    batch = next(readers.train.epoch(0))
    assert isinstance(setup.splits.val, Arrays)
    return {
        "split": setup.splits.val.images,
        "initial weights": torch.cat([p.detach().flatten() for p in setup.train_state(readers).model.parameters()]),
        "labels": batch.labels,
        "images": batch.images,
    }


CHANGED_DRAWS = {
    "init": {"initial weights"},
    "order": {"labels", "images"},
    "augment": {"images"},
    "dropout": set(),
    "split": {"split", "labels", "images"},
}


def test_changed_draws_cover_all_roles() -> None:
    assert set(CHANGED_DRAWS) == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_seed_of_role_changes_only_its_draws(role: str) -> None:
    base, draws = initial_draws(), initial_draws(f"seeds.{role}=1")
    changed = {name for name, value in base.items() if not torch.equal(torch.as_tensor(value), torch.as_tensor(draws[name]))}
    assert changed == CHANGED_DRAWS[role]


@pytest.mark.parametrize("role", ROLES)
def test_seed_of_role_changes_weights_only_when_in_use(role: str, tmp_path: Path) -> None:
    idle = {"augment": ["augment=none"], "dropout": ["regularization.dropout=0"], "split": ["data.val_fraction=0"]}
    base = weights(train_in_process(tmp_path / "base", UNOBSERVED).path)
    assert not equal(base, weights(train_in_process(tmp_path / "changed", [*UNOBSERVED, f"seeds.{role}=1"]).path))
    if role in idle:
        unused = [
            train_in_process(tmp_path / name, [*UNOBSERVED, *idle[role], f"seeds.{role}={name}"]).path for name in ("0", "1")
        ]
        assert run_content(unused[0]) == run_content(unused[1])


def test_seed_is_default_of_all_roles(tmp_path: Path) -> None:
    roles = [f"seeds.{role}=1" for role in ROLES]
    by_seed, by_role = (
        train_in_process(tmp_path / name, [*ALL_ROLES, *more]).path for name, more in (("seed", ["seed=1"]), ("roles", roles))
    )
    assert run_content(by_seed) == run_content(by_role)
