"""The observer's values for a step, against a slow reference that stores every output, gradient and weight."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.harness import settings_for
from tests.observe.reference import (
    BASE,
    Net,
    SignalRecorder,
    images_for_net,
    measured_values,
    observed_values,
    observer_of,
    prepared,
    reference_values,
)
from train.errors import UsageError
from train.observe.observer import LayerInfo
from train.run.setup import prepare
from train.tags import STATISTICS, measured, split

MODELS = {
    "mlp": ["model.depth=2", "model.width=16", "model.activation=tanh"],
    "convnet": ["model.stages=2", "model.width=8", "norm=none", "init=gaussian", "init.std=0.1"],
    "plain": ["model.depth=6", "model.width=4", "model.activation=sigmoid"],
    "resnet": ["model.depth=8", "model.width=4", "norm=group", "norm.groups=2"],
    "torchvision": ["model.name=shufflenet_v2_x0_5", "data.shape=[3,32,32]"],
}
CASES = [(model, precision) for model in MODELS for precision in ("float32", "bfloat16")] + [("convnet", "float16")]


@pytest.mark.parametrize(("model", "precision"), CASES)
def test_observer_values_match_the_reference(model: str, precision: str) -> None:
    choice = [f"model={model}", *MODELS[model], f"trainer.precision={precision}"]
    setup, readers = prepared([*BASE, *choice])
    train_state, reference = setup.train_state(readers), setup.train_state(readers)
    observer = observer_of(train_state.model, setup.parts.input_shape)
    batches = list(readers.train.epoch(0))
    torch.manual_seed(0)
    values = observed_values(train_state, observer, batches)
    torch.manual_seed(0)
    expected = reference_values(reference, batches)
    assert values.keys() == expected.keys()
    for tag, value in expected.items():
        # A mean near zero is a difference of large sums: its float32 error is proportional to the std.
        scale = expected[tag.replace("_mean/", "_std/")] if "_mean/" in tag else 0.0
        assert values[tag] == pytest.approx(value, rel=2e-4, abs=1e-7 + 1e-6 * scale), tag
    assert {split(tag)[0] for tag in values} >= measured("full") - {"activation_saturated"}
    states = (train_state.model.state_dict(), reference.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_observer_basic_level_measures_basic_statistics() -> None:
    setup, readers = prepared([*BASE, "model=mlp", "model.width=8", "model.activation=tanh"])
    train_state = setup.train_state(readers)
    observer = observer_of(train_state.model, setup.parts.input_shape, level="basic")
    values = observed_values(train_state, observer, [next(readers.train.epoch(0))])
    assert {split(tag)[0] for tag in values} == measured("basic")


def test_observer_measures_exactly_the_statistics_of_the_table() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    images = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    observer = observer_of(model, (1, 4, 4), probe=images)
    with observer.observing_weights(), observer.observing_signals(torch.ones(())):
        model(images).square().sum().backward()
    observer.observe_probe(nullcontext())
    assert {split(tag)[0] for tag in observer.collect().values} == {statistic.name for statistic in STATISTICS}


def test_gradients_are_measured_before_clipping() -> None:
    values_by_clip: dict[str, dict[str, float]] = {}
    for clip in ("null", "1e-3"):
        setup, readers = prepared([*BASE, "model.width=4", f"trainer.grad_clip={clip}"])
        train_state = setup.train_state(readers)
        observer = observer_of(train_state.model, setup.parts.input_shape)
        torch.manual_seed(0)
        values_by_clip[clip] = observed_values(train_state, observer, [next(readers.train.epoch(0))])
    gradient_tags = [tag for tag in values_by_clip["null"] if "gradient" in tag]
    assert all(values_by_clip["null"][tag] == values_by_clip["1e-3"][tag] for tag in gradient_tags)
    assert values_by_clip["1e-3"]["update_ratio/head"] < 0.1 * values_by_clip["null"]["update_ratio/head"]


# Layers


def test_observer_layers_are_in_order_of_execution() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.act, self.conv = nn.Linear(4, 3), nn.LeakyReLU(), nn.Conv2d(1, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.conv(x)).mean((2, 3)))

    observer = observer_of(Backwards(), (1, 5, 5))
    expected = (LayerInfo("conv", "conv", ""), LayerInfo("act", "activation", "leaky_relu"), LayerInfo("head", "linear", ""))
    assert observer.layers == expected
    values = measured_values(Backwards(), torch.ones(2, 1, 5, 5))
    assert [tag for tag in values if tag.startswith("gradient_std")] == [
        f"gradient_std/{name}" for name in ("conv", "act", "head")
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["stage1.conv1", "stage1.act1", "stage2.conv1", "stage2.act1", "head"]),
        ("stage2.*", ["stage2.conv1", "stage2.act1"]),
        (["head", "*.act?"], ["stage1.act1", "stage2.act1", "head"]),
    ],
)
def test_observe_layers_pattern_selects_layers(pattern: str | list[str], expected: list[str]) -> None:
    setup, readers = prepared([*BASE, "model.stages=2", "model.convs=1", "model.width=4"])
    train_state = setup.train_state(readers)
    observer = observer_of(train_state.model, setup.parts.input_shape, layers=pattern)
    assert [layer.name for layer in observer.layers] == expected
    values = observed_values(train_state, observer, [next(readers.train.epoch(0))])
    assert {split(tag)[1] for tag in values} == set(expected)


@pytest.mark.parametrize("pattern", ["stage9.*", "[head,convolution]"])
def test_observe_layers_without_match_is_a_usage_error(pattern: str, tmp_path: Path) -> None:
    """It is raised before any data is read."""
    choice = [
        "data=cifar10",
        f"data.root={tmp_path}",
        "data.download=false",
        "model.stages=1",
        "model.convs=1",
        f"observe.layers={pattern}",
    ]
    with pytest.raises(UsageError) as caught:
        prepare(settings_for(choice))
    assert "observe.layers=" in str(caught.value)
    assert "stage1.conv1, stage1.act1, head" in str(caught.value)


# Unusual models


def test_observer_separates_calls_and_survives_in_place_operations() -> None:
    torch.manual_seed(0)
    out_of_place, in_place = Net(False), Net(True)
    in_place.load_state_dict(out_of_place.state_dict())
    expected, values = (measured_values(model, images_for_net()) for model in (out_of_place, in_place))
    assert values == pytest.approx(expected, rel=1e-6)
    assert {"activation_std/conv", "activation_std/conv#2", "gradient_std/act", "gradient_std/act#2"} <= values.keys()
    assert values["activation_zero/conv"] == 0
    assert values["activation_zero/act"] > 0.3
    recorder = SignalRecorder(out_of_place)
    out_of_place.zero_grad()
    with recorder.recording():
        out_of_place(images_for_net()).mean().backward()
    reference = recorder.statistics_by_tag(1.0)
    assert {tag: values[tag] for tag in reference} == pytest.approx(reference, rel=1e-5, abs=1e-9)
    gradient = torch.cat([p.grad.flatten() for p in out_of_place.conv.parameters() if p.grad is not None])
    assert values["parameter_gradient_norm/conv"] == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_observer_omits_unused_layers_and_frozen_gradients() -> None:
    torch.manual_seed(0)
    model = Net(False)
    model.conv.requires_grad_(False)
    values = measured_values(model, images_for_net())
    assert not any("unused" in tag for tag in values)
    assert "activation_std/conv" in values
    assert not any(tag.startswith(("gradient", "parameter_gradient")) and "conv" in tag for tag in values)
    assert "gradient_std/head" in values


def test_observer_counts_nonfinite_values_per_layer() -> None:
    torch.manual_seed(0)
    model = Net(False)
    with torch.no_grad():
        model.conv.bias.copy_(torch.tensor([math.nan, 0.0, 0.0]))  # pyright: ignore[reportOptionalMemberAccess]
    values = measured_values(model, images_for_net())
    assert values["activation_nonfinite/conv"] == 4 * 36
    assert values["activation_nonfinite/conv#2"] == 3 * 4 * 36
    assert math.isnan(values["activation_std/conv"])


def test_observer_finds_channels_last_after_linear_layers() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc, self.act = nn.Conv2d(3, 5, 2, 2), nn.Linear(5, 7), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc(self.embed(x).flatten(2).transpose(1, 2)))

    torch.manual_seed(0)
    model = Mixer()
    with torch.no_grad():
        model.fc.bias.copy_(torch.tensor([-100.0] * 3 + [100.0] * 4))
    assert measured_values(model, images_for_net())["activation_dead/act"] == pytest.approx(3 / 7)
