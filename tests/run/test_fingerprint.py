"""`fingerprint` and `contradictions`, for models that use the chosen ingredients and for models that ignore them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from tests import harness
from train.data.contracts import Batch
from train.data.preprocess import Preprocess
from train.errors import UsageError
from train.parts import init, norm
from train.parts.model.resnet import ResidualBlock
from train.parts.model.trace import trace
from train.parts.regularization import parameter_groups
from train.run.build import Parts, TrackedNorm, build
from train.run.contradictions import contradictions
from train.run.fingerprint import fingerprint

SMALL = ["data=noise", "data.shape=[3,16,16]", "model.width=16"]
settings_for = cache(lambda *overrides: harness.settings_for(overrides))
PREPROCESS = Preprocess("zero_center", (0.5, 0.25, 0.125), (1.0, 1.0, 1.0))


class RMS(nn.Module):
    """A user's norm whose class name does not end in Norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x / x.square().mean(1, keepdim=True).sqrt()


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(8, 3, 16, 16, generator=generator), torch.randint(10, (8,), generator=generator))


def fingerprint_of(
    overrides: list[str],
    change: Callable[[nn.Module], Any] = lambda _: None,
    parts_change: Callable[[Parts], Parts] = lambda parts: parts,
    decay: float | None = None,
    size: Sequence[str] = SMALL,
) -> dict[str, Any]:
    """Return the fingerprint of a run with these overrides, whose model `change` edits after the init."""
    settings = settings_for(*size, *overrides)
    parts = parts_change(build(settings))
    model = parts.new_model()
    parts.initialise(model, batch().images, torch.Generator().manual_seed(0))
    change(model)
    regularization = parts.regularization if decay is None else replace(parts.regularization, weight_decay=decay)
    optimizer = parts.optimizer(parameter_groups(model, regularization))
    result = fingerprint(model, trace(model, parts.input_shape), settings, parts, optimizer, batch(), PREPROCESS)
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    return result


NORMS = {"batch": "BatchNorm", "layer": "LayerNorm", "instance": "InstanceNorm", "group": "GroupNorm", "rms": "RMSNorm"}
NORMS |= {"ghost": "GhostBatchNorm", "group_ws": "GroupNorm"}
INITS = ["gaussian", "xavier", "glorot", "kaiming", "orthogonal", "lsuv", "pytorch", "dirac"]


@pytest.mark.parametrize("name", NORMS)
def test_fingerprint_counts_the_norms_and_biases_before_them(name):
    result = fingerprint_of([f"norm={name}", "model=convnet", "model.stages=2"])
    assert result["norm"]["built"] == {NORMS[name]: 4}
    assert result["norm"]["others"] == {}
    assert result["norm"]["biases_before"] == 0
    assert result["norm"]["standardized_convolutions"] == 4 * (name == "group_ws")
    assert (result["norm"]["scales"], result["norm"]["shifts"]) == (4, 0 if name == "rms" else 4)
    assert contradictions(result) == []


def test_fingerprint_shows_norms_without_scale_and_shift():
    result = fingerprint_of(["norm.scale=false", "norm.shift=false", "model=convnet", "model.stages=2"])
    assert (result["norm"]["built"], result["norm"]["scales"], result["norm"]["shifts"]) == ({"BatchNorm": 4}, 0, 0)
    assert contradictions(result) == []


@pytest.mark.parametrize(("name", "model"), [*((name, "convnet") for name in INITS), ("glorot", "mlp"), ("kaiming", "resnet")])
def test_weights_have_the_std_that_the_init_requests(name, model):
    result = fingerprint_of([f"init={name}", f"model={model}", "regularization=weight_decay_dropout"])
    assert contradictions(result) == []
    has_request = name not in ("lsuv", "pytorch")
    assert all((layer["requested_std"] is not None) == has_request for layer in result["init"]["layers"].values())


@pytest.mark.parametrize(
    ("overrides", "rates"),
    [
        (["optimizer.lr=0.1"], {"0.1": 14}),
        (["optimizer.lr=0.1", "optimizer.norm_factor=2", "optimizer.head_factor=0.5"], {"0.1": 4, "0.05": 2, "0.2": 8}),
        (["optimizer=muon", "optimizer.lr=0.03"], {"0.03": 4, "0.001": 10}),
    ],
)
def test_fingerprint_shows_the_learning_rates(overrides, rates):
    settings = settings_for(*SMALL, "model=convnet", "model.stages=2", *overrides)
    parts = build(settings)
    model = parts.new_model()
    optimizer = parts.new_optimizer(model)
    found = fingerprint(model, trace(model, parts.input_shape), settings, parts, optimizer, batch(), PREPROCESS)
    assert {rate: entry["tensors"] for rate, entry in found["learning_rate"].items()} == rates
    assert contradictions({**found, "init": {**found["init"], "layers": {}}}) == []


FIXUP = ["model=fixup", "model.depth=8", "norm=none"]
DEPTH = ["model=resnet", "model.depth=8", "regularization=stochastic_depth"]


def test_fingerprint_shows_stochastic_depth_and_a_model_without_it():
    result = fingerprint_of(DEPTH)
    assert result["dropout"]["stochastic_depth"] == {f"{0.2 * n / 3:g}": 1 for n in (1, 2, 3)}
    assert contradictions(result) == []

    def without(model):
        for block in model.modules():
            if isinstance(block, ResidualBlock):
                block.drop = None

    (sentence,) = contradictions(fingerprint_of(DEPTH, without))
    assert "regularization.stochastic_depth=0.2, but the model contains no StochasticDepth module." in sentence


@pytest.mark.parametrize("model", ["convnet", "mlp", "plain", "torchvision"])
def test_stochastic_depth_needs_residual_branches(model):
    settings = settings_for(*SMALL[:2], f"model={model}", "regularization=stochastic_depth")
    with pytest.raises(UsageError, match=rf"regularization\.stochastic_depth=0\.2: model={model} .* Use model=resnet"):
        build(settings)


@pytest.mark.parametrize(
    ("model", "blocks"), [(["model=resnet", "model.depth=8", "model.width=4"], 3), (["model=torchvision"], 8)]
)
def test_zero_gammas_are_counted(model, blocks):
    changes = ([*model, f"init.zero_gamma={on}"] for on in ("false", "true"))
    assert [fingerprint_of(c, size=SMALL[:2])["init"]["zero_gammas"] for c in changes] == [0, blocks]


def test_weights_of_one_layer():
    layer = fingerprint_of(["init=kaiming", "model=convnet"])["init"]["layers"]["stage1.conv2"]
    assert (layer["fan_in"], layer["fan_out"], layer["count"]) == (16 * 9, 16 * 9, 16 * 16 * 9)
    assert layer["requested_std"] == pytest.approx(math.sqrt(2 / 144), rel=1e-5)
    assert layer["std_sqrt_fan_in"] == pytest.approx(math.sqrt(2), rel=0.1)


def test_requested_std_of_orthogonal_grouped_convolution():
    layer = nn.Conv2d(16, 32, 3, groups=4)
    start = init.orthogonal(gain=1.5)
    start(layer, torch.zeros(1), torch.Generator().manual_seed(0))
    assert isinstance(start, init.LayerByLayer)
    assert layer.weight.square().mean().sqrt().item() == pytest.approx(start.requested_std(layer), rel=1e-4)


def test_fingerprint_of_decay_dropout_activation_batch_preprocess():
    result = fingerprint_of(["regularization=weight_decay_dropout", "model=mlp", "model.activation=tanh", "norm=layer"])
    assert result["activation"]["built"] == {"Tanh": 3}
    assert result["dropout"] == {"chosen": 0.5, "modules": {"0.5": 3}, "chosen_depth": 0.0, "stochastic_depth": {}}
    assert result["weight_decay"]["decayed"]["names"] == ["fc1.weight", "fc2.weight", "fc3.weight", "head.weight"]
    assert result["weight_decay"]["not_decayed"]["tensors"] == 7
    images, labels = batch().images.numpy(), batch().labels.numpy()
    assert result["first_batch"]["sha256"] == hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert result["preprocess"]["mean"] == list(PREPROCESS.mean)


def test_first_batch_hash_ignores_the_memory_format():
    settings = settings_for(*SMALL)
    parts = build(settings)
    model = parts.new_model()
    optimizer = parts.optimizer(parameter_groups(model, parts.regularization))
    calls = trace(model, parts.input_shape)
    channels_last = Batch(batch().images.contiguous(memory_format=torch.channels_last), batch().labels)
    first, second = (
        fingerprint(model, calls, settings, parts, optimizer, data, PREPROCESS)["first_batch"]
        for data in (batch(), channels_last)
    )
    assert first == second


def test_fingerprint_changes_nothing():
    before: dict[str, Any] = {}

    def remember(model: nn.Module) -> None:
        model.train()
        before["state"] = {name: value.clone() for name, value in model.state_dict().items()}
        before["model"] = model
        before["random"] = torch.get_rng_state()

    fingerprint_of([], remember)
    model = before["model"]
    assert all(torch.equal(value, before["state"][name]) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before["random"])


def swap(old: type[nn.Module], new: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if type(module) is old:
                model.set_submodule(name, new(module))

    return change


def scale(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(1.3)


def ignoring(**given: Any) -> Callable[[Parts], Parts]:
    """Return a change of the parts whose model receives `given` instead: it stands for a model that ignores an argument."""

    class Ignoring(Parts):
        def model_inputs(self) -> dict[str, Any]:
            return super().model_inputs() | given

    return lambda parts: Ignoring(**vars(parts))


CASES = [
    (
        ["norm=batch"],
        {"parts_change": ignoring(norm=None)},
        "norm=batch, but the model contains no such layer: it contains no norm layer",
    ),
    (
        ["norm=batch"],
        {"parts_change": ignoring(norm=norm.group(4))},
        "norm=batch, but the model contains no such layer: it contains 6 Group",
    ),
    (["norm=none"], {"parts_change": ignoring(norm=norm.batch())}, "norm=none, but the model contains norm layers: 6 BatchNorm"),
    (["norm=batch"], {"change": lambda m: m.add_module("more", nn.LayerNorm(10))}, "but the model also contains 1 LayerNorm"),
    (["model.activation=tanh"], {"parts_change": ignoring(activation=nn.ReLU)}, "activation=tanh, but the model contains 6 ReLU"),
    (
        ["regularization=dropout"],
        {"parts_change": ignoring(dropout=0.0)},
        "dropout=0.5, but the model contains no dropout module",
    ),
    (["regularization=dropout"], {"parts_change": ignoring(dropout=0.3)}, "contains dropout modules 1 with p=0.3"),
    (
        ["regularization=none"],
        {"parts_change": ignoring(dropout=0.3)},
        "dropout=0, but the model also contains dropout modules 1",
    ),
    (["regularization=weight_decay"], {"decay": 0.0}, "weight_decay=5e-05, but no parameter has weight decay"),
    (["regularization=weight_decay"], {"decay": 0.1}, "weight_decay=5e-05, but the optimizer uses 0.1"),
    (["regularization=none"], {"decay": 0.1}, "weight_decay=0, but the optimizer uses 0.1"),
    (["init=kaiming"], {"change": scale}, "but 1 layers do not have the requested weight std: head "),
    (["init=kaiming"], {"change": lambda m: m.get_parameter("head.weight").data.fill_(math.nan)}, "head not finite"),
]


@pytest.mark.parametrize("init", INITS)
def test_fixup_scales_what_the_init_draws(init):
    layers = fingerprint_of([*FIXUP, "model.depth=14", f"init={init}"])
    assert contradictions(layers) == []
    stds = {name: layer["std"] for name, layer in layers["init"]["layers"].items()}
    plain = {
        name: layer["std"]
        for name, layer in fingerprint_of(["model=resnet", *FIXUP[1:], "model.depth=14", f"init={init}"])["init"][
            "layers"
        ].items()
    }
    for name, std in stds.items():
        expected = 0 if name == "head" or name.endswith("conv2") else plain[name] * (6**-0.5 if name.endswith("conv1") else 1)
        assert std == pytest.approx(expected, rel=0.1 if init != "lsuv" else 0.5), name


def test_contradictions_find_a_fixup_whose_branches_do_not_begin_at_zero():
    def revive(model: nn.Module) -> None:
        nn.init.normal_(model.get_parameter("stage2.block1.conv2.weight"))

    (sentence,) = contradictions(fingerprint_of(FIXUP, revive))
    assert sentence.startswith("init=kaiming, but 1 layers do not have the requested weight std: stage2.block1.conv2 ")
    assert sentence.endswith(" instead of 0.")


@pytest.mark.parametrize(("overrides", "arguments", "message"), CASES)
def test_contradictions_name_a_missing_choice_once(overrides, arguments, message):
    (sentence,) = contradictions(fingerprint_of(overrides, **arguments))
    assert message in sentence


def test_contradictions_name_parameters_missing_from_the_optimizer():
    settings = settings_for(*SMALL)
    parts = build(settings)
    model = parts.new_model()
    parts.initialise(model, batch().images, torch.Generator().manual_seed(0))
    groups = parameter_groups(model, parts.regularization)
    groups[0]["params"] = groups[0]["params"][1:]
    calls = trace(model, parts.input_shape)
    (sentence,) = contradictions(fingerprint(model, calls, settings, parts, parts.optimizer(groups), batch(), PREPROCESS))
    assert sentence == "1 trainable parameters are not in the optimizer and never change: stage1.conv1.weight."


def test_fingerprint_recognises_a_custom_norm_by_its_type():
    def with_norm(parts: Parts) -> Parts:
        return replace(parts, norm=TrackedNorm(RMS))

    result = fingerprint_of([], parts_change=with_norm)
    assert result["norm"]["built"] == {"RMS": 6}
    assert contradictions(result) == []
    (sentence,) = contradictions(fingerprint_of([], swap(RMS, lambda _: nn.Identity()), with_norm))
    assert "norm=batch, but the model contains no such layer" in sentence


def test_fingerprint_counts_wrapped_norms_and_biases_before_norms():
    def with_norm(parts: Parts) -> Parts:
        return replace(parts, norm=TrackedNorm(lambda channels: nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout2d(0.0))))

    assert fingerprint_of([], parts_change=with_norm)["norm"]["built"]["BatchNorm2d"] == 6

    def bias(model: nn.Module) -> None:
        conv = model.get_submodule("stage1.conv2")
        conv.bias = nn.Parameter(torch.zeros(16))

    assert fingerprint_of([], bias)["norm"]["biases_before"] == 1


def test_norms_count_as_built_only_if_the_chosen_norm_made_them():
    """A model that ignores its argument may hold layers of the same type, with other settings."""
    result = fingerprint_of(["norm=batch", "norm.momentum=0.01"], parts_change=ignoring(norm=norm.batch()))
    assert (result["norm"]["built"], result["norm"]["others"]) == ({}, {"BatchNorm": 6})
    (sentence,) = contradictions(result)
    assert "norm=batch, but the model contains no such layer: it contains 6 BatchNorm instead" in sentence


def test_tracked_norm_remembers_the_types_of_every_width():
    made = TrackedNorm(lambda channels: nn.LayerNorm(channels) if channels < 4 else nn.GroupNorm(2, channels))
    assert [type(made(channels)) for channels in (2, 4)] == [nn.LayerNorm, nn.GroupNorm]
    assert made.types == {nn.LayerNorm, nn.GroupNorm}


def test_fingerprint_of_a_torchvision_model():
    given = ["data.shape=[3,64,64]", "model=torchvision", "model.name=shufflenet_v2_x0_5", "regularization=dropout", "norm=group"]
    result = fingerprint_of(["norm.groups=2", *given], size=["data=noise"])
    assert contradictions(result) == []
    assert result["norm"]["built"]["GroupNorm"] > 50
    assert result["norm"]["biases_before"] == 0
