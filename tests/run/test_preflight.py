"""The pre-flight check: it names an impossible layer before any data is loaded; its costs against counts by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.harness import compose_config, settings_for
from train.data.contracts import Dataset, Splits
from train.data.noise import noise
from train.errors import UsageError
from train.run import preflight
from train.run.build import build
from train.run.device import choose_placement
from train.run.dry_run import check_configs
from train.run.preflight import Cost
from train.run.setup import prepare

IMPOSSIBLE = {
    "data=noise norm=group norm.groups=7": ["layer stage1.norm1", "norm.groups=7", "24 channels"],
    "data=noise model=resnet norm=group norm.groups=32": ["layer stem.norm", "norm.groups=32", "16 channels"],
    "data=noise model=mlp norm=group norm.groups=512": ["layer norm1", "each mean is of one value"],
    "data=noise model=mlp norm=instance": ["layer norm1", "norm=instance"],
    "data=noise data.shape=[1,4,4] norm=instance": ["layer stage3.norm1", "norm=instance", "1x1"],
    "data=noise data.shape=[3,2,2] model=resnet norm=instance": ["layer stage2.block1.norm1", "norm=instance", "1x1"],
    "data=noise data.shape=[1,1,1] model.stages=1 trainer.batch_size=1": ["layer stage1.norm1", "trainer.batch_size"],
    "data=noise data.shape=[1,28,28] model=torchvision model.name=alexnet norm=none": [
        "layer features.5",
        "(192, 2, 2)",
        "28x28",
    ],
    "data=noise data.shape=[3,32,32] model=torchvision model.name=densenet121 norm=instance": ["norm=instance", "1x1"],
    "data=noise data.shape=[3,30,30] model=torchvision model.name=vit_b_16 norm=layer": ["model.name=vit_b_16", "30x30"],
    "data=noise data.shape=[3,30,40] model=torchvision model.name=vit_b_16 norm=layer": ["model.name=vit_b_16", "30x40"],
    "data=noise data.shape=[3,8,8] model.stages=9": ["model.stages=9", "model.stages=4"],
}


def check(overrides: str, batch_size: int = 8) -> Cost:
    settings = settings_for(overrides.split())
    return preflight.check_model(build(settings), batch_size, choose_placement(settings.trainer))


@pytest.mark.parametrize("overrides", IMPOSSIBLE)
def test_check_model_names_impossible_layer(overrides: str) -> None:
    batch_size = 1 if "trainer.batch_size=1" in overrides else 8
    with pytest.raises(UsageError) as caught:
        check(overrides, batch_size)
    for fragment in IMPOSSIBLE[overrides]:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def unreadable(classes: int = 10) -> Dataset:
    """Return a data set that must not be loaded."""

    class Unreadable:
        shape, class_names = noise().shape, tuple(map(str, range(classes)))

        def load(self) -> Splits:
            raise AssertionError("the data was loaded")

    return Unreadable()


UNREADABLE = ["data=noise", f"data._target_={__name__}.unreadable"] + [
    f"~data.{name}" for name in ("shape", "classes", "train_size", "test_size", "seed")
]


def test_prepare_checks_model_before_loading_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"stage1\.norm1"):
        prepare(settings_for([*UNREADABLE, "norm=group", "norm.groups=7"]))
    with pytest.raises(AssertionError, match="the data was loaded"):
        prepare(settings_for(UNREADABLE))
    assert not list(tmp_path.iterdir()), "preparing leaves no files"


@pytest.mark.parametrize(("classes", "found"), [(0, "none"), (1, "'0'")])
def test_prepare_refuses_fewer_than_two_classes(classes: int, found: str) -> None:
    with pytest.raises(UsageError, match=rf"unreadable: training needs at least two classes, and it has {found}\."):
        prepare(settings_for([*UNREADABLE, f"+data.classes={classes}"]))


def monotonous() -> Dataset:
    """Return a data set of three classes in which all training images have the same label."""

    class Monotonous:
        shape, class_names = noise().shape, ("a", "b", "c")

        def load(self) -> Splits:
            splits = noise(classes=3, train_size=64).load()
            return replace(splits, train=replace(splits.train, labels=splits.train.labels * 0 + 1))

    return Monotonous()


def test_training_images_of_one_class_are_refused_before_a_run_and_a_sweep() -> None:
    overrides = [line.replace("unreadable", "monotonous") for line in UNREADABLE]
    problem = "All 58 training images are of the class 'b', number 1 of 3."
    with pytest.raises(UsageError, match=problem):
        prepare(settings_for(overrides))
    (check,) = check_configs(([compose_config(overrides)], ("tests",), False, ()))
    assert str(check.problem).startswith(problem)


def test_prepare_refuses_split_smaller_than_batch() -> None:
    overrides = ["data=noise", "data.train_size=20", "data.val_fraction=0.5", "data.classes=2", "trainer.batch_size=11"]
    with pytest.raises(UsageError, match=r"trainer\.batch_size=11 is more than the (9|10) training images"):
        prepare(settings_for(overrides))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_check_model_cost_of_mlp(norm: str) -> None:
    """784 -> 100 -> 100 -> 10. Multiply-adds count as two; biases, norms and activations count nothing."""
    cost = check(f"data=noise data.shape=[1,28,28] model=mlp model.depth=2 model.width=100 norm={norm}")
    weights = 784 * 100 + 100 * 100 + 100 * 10
    biases = {"none": 100 + 100 + 10, "batch": 2 * (100 + 100) + 10}[norm]
    assert cost == Cost(parameters=weights + biases, flops=2 * weights)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_check_model_cost_of_convnet(norm: str) -> None:
    """Two stages of two 3x3 convolutions on 3x10x12: 8 channels at 10x12, 16 at 5x6; then the head."""
    cost = check(f"data=noise data.shape=[3,10,12] data.classes=7 model.width=8 model.stages=2 model.convs=2 norm={norm}")
    kernels = [9 * 3 * 8, 9 * 8 * 8, 9 * 8 * 16, 9 * 16 * 16]
    positions = [10 * 12, 10 * 12, 5 * 6, 5 * 6]
    per_channel = 1 if norm == "none" else 2
    parameters = sum(kernels) + per_channel * (8 + 8 + 16 + 16) + 16 * 7 + 7
    flops = 2 * (sum(k * p for k, p in zip(kernels, positions, strict=True)) + 16 * 7)
    assert cost == Cost(parameters, flops)


def test_check_model_cost_does_not_depend_on_batch() -> None:
    overrides = "data=noise model.width=8 norm=layer"
    assert check(overrides, 1) == check(overrides, 2) == check(overrides, 512)


def test_check_model_needs_no_memory_and_no_randomness() -> None:
    before = torch.random.get_rng_state()
    cost = check("data=noise data.shape=[3,64,64] model=mlp model.width=1000000 model.depth=2")  # 4 TB of weights
    assert cost.parameters > 10**12
    assert torch.equal(torch.random.get_rng_state(), before)


def narrow(**_: object) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))


def test_check_model_refuses_wrong_number_of_logits() -> None:
    with pytest.raises(UsageError, match=r"\(2, 3\) for 2 images; expected \(2, 10\)"):
        check(f"data=noise model=mlp ~model.width ~model.depth model._target_={__name__}.narrow")


def test_check_model_refuses_bfloat16_stride_larger_than_map() -> None:
    case = "model=resnet model.depth=8 data=noise data.shape=[3,2,2] norm=none augment=none data.val_fraction=0"
    with pytest.raises(UsageError, match=r"layer stage3\.block1\.conv1, .*trainer.precision=float32"):
        check(f"{case} trainer.precision=bfloat16 trainer.device=cpu")
    check(f"{case} trainer.precision=float32 trainer.device=cpu")
