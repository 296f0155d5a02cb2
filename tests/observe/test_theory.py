"""Mean-field theory against closed forms, brute force, and real networks with gradients from autograd."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from train.observe.theory import (
    Activation,
    Dropout,
    Expected,
    Flatten,
    GlobalPool,
    Norm,
    Uncovered,
    Weighted,
    Window,
    chain_of,
    gaussian_moments,
    predict,
)
from train.observe.theory.channels import inverse_variance
from train.parts import init, norm
from train.parts.activation import activation
from train.parts.model import convnet, mlp, plain, resnet
from train.parts.model.trace import trace

ACTIVATIONS = ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "hardswish", "softplus", "tanh", "sigmoid"]
WIDTH = 4096


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=3):
    return torch.randn(*shape, generator=seeded(seed))


def smooth(*shape):
    """Return images with correlated neighbouring pixels, brighter in the middle."""
    images = F.avg_pool2d(noise(*shape), 5, 1, 2) * 4
    return images * torch.hann_window(shape[-1], periodic=False).add(0.2)


def unit(batch=1):
    """Return a signal with a mean square of exactly 1."""
    return torch.ones(batch, 2)


def layer_stack(function, variance, depth, norms=False):
    stages = []
    for number in range(1, depth + 1):
        stages.append(Weighted(f"fc{number}", WIDTH, WIDTH, variance))
        stages += [Norm(f"norm{number}", True, eps=0.0)] if norms else []
        stages.append(Activation(f"act{number}", function))
    return [*stages, Weighted("head", WIDTH, WIDTH, variance)]


def run_theory(chain, images) -> Any:
    return predict(chain, images)


def build_chain(model, *shape) -> Any:
    return chain_of(trace(model, shape))  # pyright: ignore[reportArgumentType]


def with_prefix(expected, prefix) -> Any:
    return [layer for layer in expected if layer.name.startswith(prefix)]


# ---- closed forms


@pytest.mark.parametrize(
    ("std", "lecture"),
    [
        (0.01, [0.492, 0.289, 0.179, 0.113, 0.072, 0.046]),
        (0.05, [0.872, 0.853, 0.850, 0.849, 0.850, 0.850]),
        (1 / math.sqrt(WIDTH), [0.628, 0.486, 0.408, 0.358, 0.322, 0.294]),
    ],
)
def test_predict_tanh_networks_of_the_lecture(std, lecture):
    acts = with_prefix(run_theory(layer_stack(torch.tanh, std**2, 6), unit()), "act")
    assert [layer.std for layer in acts] == pytest.approx(lecture, abs=0.001)
    assert [layer.mean for layer in acts] == pytest.approx([0] * 6, abs=1e-12)


def test_predict_he_init_with_relu_preserves_the_signal():
    expected = run_theory(layer_stack(torch.relu, 2 / WIDTH, 30), unit())
    for act in with_prefix(expected, "act"):
        assert act.std == pytest.approx(math.sqrt(1 - 1 / math.pi), rel=1e-3)
        assert act.mean == pytest.approx(1 / math.sqrt(math.pi), rel=1e-3)
    for fc in with_prefix(expected, "fc"):
        assert fc.gradient_std == pytest.approx(1, rel=1e-3)


def test_predict_xavier_init_with_relu_fades_by_sqrt_2():
    expected = run_theory(layer_stack(torch.relu, 1 / WIDTH, 30), unit())
    for before, after in itertools.pairwise(with_prefix(expected, "act")):
        assert after.std / before.std == pytest.approx(1 / math.sqrt(2), rel=1e-3)
    for before, after in itertools.pairwise(with_prefix(expected, "fc")):
        assert before.gradient_std / after.gradient_std == pytest.approx(1 / math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("variance", [1e-6, 2 / WIDTH])
def test_predict_batch_norm_with_relu_gradient_growth(variance):
    expected = run_theory(layer_stack(torch.relu, variance, 20, norms=True), torch.tensor([[1.0], [-1.0]]))
    fc = with_prefix(expected, "fc")[1:]
    for before, after in itertools.pairwise(fc):
        assert before.gradient_std**2 / after.gradient_std**2 == pytest.approx(math.pi / (math.pi - 1), rel=1e-4)
    for layer in with_prefix(expected, "norm"):
        assert (layer.mean, layer.std) == (0, pytest.approx(1))


def test_predict_layer_norm_with_relu_preserves_gradients():
    stages = [Weighted("first", 8, WIDTH, 1 / 8)]
    for number in range(10):
        stages += [
            Norm(f"norm{number}", False, WIDTH, 0.0),
            Activation("act", torch.relu),
            Weighted("fc", WIDTH, WIDTH, 1 / WIDTH),
        ]
    expected = run_theory(stages, noise(64, 8))
    assert [layer.gradient_std for layer in with_prefix(expected, "fc")] == pytest.approx([1] * 10, rel=1e-2)


def test_predict_values_outside_float32():
    deep = with_prefix(run_theory(layer_stack(torch.relu, 1e-8, 60), unit()), "act")[-1]
    assert deep.std == pytest.approx(math.sqrt(1 - 1 / math.pi) * (1e-8 * WIDTH / 2) ** 30, rel=1e-2)
    exploded = run_theory(layer_stack(torch.relu, 1e6, 60), unit())[-1]
    assert exploded.std is None
    assert "overflows at" in exploded.forward_gap


# ---- Gaussian integrals


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("q", [1e-8, 0.3, 400.0])
def test_gaussian_moments_match_a_fine_sum(name, q):
    function = activation(name)()
    z = torch.linspace(-10, 10, 100_001, dtype=torch.float64)[1:] - 1e-4
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * 2e-4
    x = (z * math.sqrt(q)).requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    moments = gaussian_moments(function, torch.tensor([q], dtype=torch.float64))
    sums = [(v * density).sum().item() for v in (y.detach(), y.detach() ** 2, slope**2, slope, (x * slope).detach())]
    values = [moments.mean, moments.second, moments.slope_second, moments.slope_mean, moments.slope_along]
    jumps = name == "hardswish"  # its derivative jumps in the middle of a panel
    assert [v.item() for v in values] == pytest.approx(sums, rel=1e-2 if jumps else 2e-4, abs=1e-9 * math.sqrt(q))


def test_gaussian_moments_interpolate_many_variances():
    q = torch.cat([torch.zeros(1), torch.logspace(-6, 3, 500)]).double().reshape(3, 167)
    for function in (torch.relu, torch.tanh, torch.sigmoid):
        together = gaussian_moments(function, q)
        for index in ((0, 0), (0, 1), (1, 40), (2, 166)):
            alone = gaussian_moments(function, q[index].reshape(1))
            assert together.mean[index].item() == pytest.approx(alone.mean.item(), rel=3e-4, abs=1e-12)
            assert together.second[index].item() == pytest.approx(alone.second.item(), rel=3e-4)
            assert together.slope_second[index].item() == pytest.approx(alone.slope_second.item(), rel=3e-4)
    assert gaussian_moments(torch.sigmoid, torch.zeros(1).double()).mean.item() == pytest.approx(0.5)


# ---- real networks


def measure(model: nn.Module, images) -> dict[str, tuple[float, float, float]]:
    """Return name -> mean, std and gradient std of all layer outputs in training mode with a cross-entropy loss."""
    outputs = {}

    def recorder(name):
        def hook(_module, _inputs, output):
            output.retain_grad()
            outputs[name] = output

        return hook

    handles = [m.register_forward_hook(recorder(name)) for name, m in model.named_modules() if next(m.children(), None) is None]
    images = images.clone().requires_grad_()
    labels = torch.randint(0, 10, (len(images),), generator=seeded(9))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        F.cross_entropy(model.train()(images), labels).backward()
    for handle in handles:
        handle.remove()
    return {name: (x.mean().item(), x.std().item(), x.grad.std().item()) for name, x in outputs.items()}


def largest_errors(model: nn.Module, images, start, seeds=1) -> tuple[float, float, float]:
    """Return the largest errors of std, mean and gradient std over the layers.

    Errors of stds are |ln(measured / predicted)|, those of means are in stds; from root mean squares over `seeds` draws of the
    weights. The head's forward values are excluded: they are only ten draws.
    """
    rows = []
    for seed in range(1, seeds + 1):
        start(model, images, seeded(seed))
        measured = measure(model, images)
        expected = run_theory(build_chain(model, *tuple(images.shape[1:])), images)
        rows.append([ratios(layer, measured[layer.name], measured["head"][2]) for layer in expected])
    table = np.array(rows)
    std, gradient = (np.abs(np.log(np.mean(table[:, :, column] ** 2, axis=0)) / 2).max() for column in (0, 2))
    return std, np.abs(table[:, :, 1].mean(axis=0)).max(), gradient


def ratios(layer: Expected, measured, last_gradient):
    mean, std, gradient = measured
    backward = gradient / last_gradient / layer.gradient_std
    if layer.name == "head" or layer.std is None:
        return 1.0, 0.0, backward
    return std / layer.std, (mean - layer.mean) / std, backward


def settings(shape, make_norm, name, dropout=0.0):
    return {"input_shape": shape, "classes": 10, "norm": make_norm, "activation": activation(name), "dropout": dropout}


def perceptron(make_norm, name, dropout=0.0, width=700):
    return mlp(**settings((1, 8, 8), NORMS[make_norm], name, dropout), depth=5, width=width)


NORMS = {"none": None, "batch": norm.batch(), "layer": norm.layer(), "instance": norm.instance(), "group": norm.group(groups=4)}


@pytest.mark.parametrize(
    ("name", "make_norm", "start"),
    [
        ("tanh", "none", init.gaussian(0.04)),
        ("tanh", "batch", init.gaussian(0.04)),
        ("tanh", "layer", init.gaussian(0.04)),
        ("relu", "none", init.kaiming()),
        ("relu", "batch", init.kaiming()),
        ("relu", "layer", init.xavier()),
        ("gelu", "none", init.glorot()),
        ("gelu", "batch", init.glorot()),
        ("sigmoid", "none", init.xavier()),
        ("sigmoid", "batch", init.xavier()),
    ],
)
def test_predict_wide_perceptrons(name, make_norm, start):
    std, mean, gradient = largest_errors(perceptron(make_norm, name), noise(192, 1, 8, 8), start, seeds=2)
    assert std < 0.06
    assert mean < 0.05
    assert gradient < 0.08


@pytest.mark.parametrize("start", [init.orthogonal(gain=1.4), init.lsuv(), init.pytorch()], ids=["orthogonal", "lsuv", "pytorch"])
def test_predict_covers_every_init_through_its_weights(start):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = perceptron("none", "tanh", width=500)
    assert max(largest_errors(model, noise(128, 1, 8, 8), start)) < 0.09


def test_predict_handles_images_of_different_contrast():
    """tanh saturates only for bright images: one q for all images would be less exact."""
    images = noise(128, 1, 8, 8) * torch.logspace(-1.5, 1, 128)[:, None, None, None]
    assert max(largest_errors(perceptron("none", "tanh"), images, init.xavier())) < 0.03


def test_predict_dropout_increases_the_signal():
    assert max(largest_errors(perceptron("none", "relu", 0.5), noise(128, 1, 8, 8), init.xavier(), seeds=2)) < 0.09


@pytest.mark.parametrize(
    ("name", "make_norm", "gradient_within"),
    [
        ("relu", "none", 0.08),
        ("relu", "batch", 0.06),
        ("relu", "layer", 0.15),
        ("relu", "group", 0.15),
        ("relu", "instance", 0.3),  # few of the 9 positions of the last maps are independent
        ("tanh", "none", 0.06),
        ("tanh", "layer", 0.06),
    ],
)
def test_predict_convolutions_with_padding_and_strides(name, make_norm, gradient_within):
    """The maps are 12x12, 6x6 and 3x3, so that padding matters at their borders."""
    model = convnet(**settings((3, 12, 12), NORMS[make_norm], name), stages=3, convs=2, width=48)
    std, mean, gradient = largest_errors(model, noise(32, 3, 12, 12), init.kaiming(), seeds=2)
    assert std < 0.09
    assert mean < 0.1
    assert gradient < gradient_within


@pytest.mark.parametrize(("name", "start"), [("relu", init.kaiming()), ("tanh", init.xavier())])
def test_predict_plain_network_on_images_with_dark_corners(name, start):
    model = plain(**settings((1, 16, 16), None, name), depth=6, width=64)
    std, mean, gradient = largest_errors(model, smooth(32, 1, 16, 16), start, seeds=2)
    assert std < 0.15
    assert mean < 0.12
    assert gradient < 0.1


@pytest.mark.parametrize("kind", [{}, {"padding_mode": "circular"}, {"padding": 0, "dilation": 2}, {"stride": 3}, {"groups": 2}])
def test_predict_wide_convolution(kind):
    """Forward and backward, for images that vary between positions."""
    conv = nn.Conv2d(4, 4000, 3, **{"padding": 1, "bias": False} | kind)
    images = smooth(64, 4, 8, 9).requires_grad_()
    init.gaussian(0.3)(conv, images, seeded())
    y = conv(images)
    y.backward(noise(*y.shape))
    assert images.grad is not None
    chain = [Activation("input", lambda x: x), *build_chain(nn.Sequential(conv), 4, 8, 9)]
    before, after = run_theory(chain, images)
    assert after.std == pytest.approx(y.square().mean().sqrt().item(), rel=0.02)
    assert before.gradient_std == pytest.approx(images.grad.std().item(), rel=0.02)


@pytest.mark.parametrize("kind", [{}, {"padding": (1, 0), "dilation": (1, 2)}, {"stride": (3, 2), "padding": 2}])
def test_window_tap_means_match_autograd(kind):
    conv = nn.Conv2d(2, 1, (3, 2), bias=False, **kind)
    images = noise(3, 2, 8, 9)
    chain = build_chain(nn.Sequential(conv), 2, 8, 9)
    conv(images[:1]).mean().backward()  # its gradient with respect to the weight is the tap mean
    assert conv.weight.grad is not None
    torch.testing.assert_close(chain[0].window.tap_means(images)[:1], conv.weight.grad)


@pytest.mark.parametrize("across_batch", [True, False])
def test_inverse_variance_matches_many_channels(across_batch):
    images = smooth(4, 1, 10, 10).double()
    window = Window(kernel=(3, 3), padding=(1, 1, 1, 1))
    layer = Weighted("conv", 9, 9, 0.25, window=window, size=(10, 10))
    channels = F.conv2d(images, 0.5 * noise(200_000, 1, 3, 3).double(), padding=1)
    variance = channels.var(dim=(0, 2, 3) if across_batch else (2, 3), correction=0)
    expected = (1 / (variance + 0.01)).mean(dim=-1).reshape(-1)
    predicted = inverse_variance(Norm("norm", across_batch, eps=0.01), layer, images)
    assert predicted.flatten().tolist() == pytest.approx(expected.tolist(), rel=0.03)


# ---- chains of models


def test_chain_of_a_perceptron():
    model = mlp(**settings((1, 3, 5), norm.layer(), "tanh", 0.25), depth=1, width=7)
    init.gaussian(0.5)(model, noise(1), seeded())
    chain = build_chain(model, 1, 3, 5)
    assert [stage.name for stage in chain] == ["flatten", "fc1", "norm1", "act1", "dropout1", "head"]
    assert [type(stage) for stage in chain] == [Flatten, Weighted, Norm, Activation, Dropout, Weighted]
    _, fc, layer_norm, _, drop, head = chain
    assert (fc.fan_in, fc.fan_out, fc.bias_variance) == (15, 7, 0)
    assert fc.weight_variance == pytest.approx(model.get_parameter("fc1.weight").square().mean().item())
    assert (layer_norm.across_batch, layer_norm.channels, drop.p, head.fan_in) == (False, 7, 0.25, 7)


def test_chain_of_a_convolutional_network():
    model = convnet(**settings((3, 9, 8), norm.group(groups=4), "relu"), stages=2, convs=1, width=8)
    stages = {stage.name: stage for stage in build_chain(model, 3, 9, 8)}
    second = stages["stage2.conv1"]
    assert (second.fan_in, second.fan_out, second.size, second.window.stride) == (72, 144, (9, 8), (2, 2))
    assert (stages["stage2.norm1"].channels, stages["stage2.norm1"].across_batch) == (4, False)
    assert stages["pool"] == GlobalPool("pool", (5, 4))


def test_chain_of_and_predict_leave_no_trace():
    model = resnet(**settings((3, 8, 8), norm.batch(), "relu", 0.5), depth=8, width=4)
    model.get_submodule("stage2").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    with torch.no_grad():
        run_theory(build_chain(model, 3, 8, 8), noise(4, 3, 8, 8))
    assert torch.equal(state, torch.random.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def by_name(model, shape, batch=16):
    return {layer.name: layer for layer in run_theory(build_chain(model, *shape), noise(batch, *shape))}


def test_predict_stops_at_residual_sums_and_resumes_at_norms():
    model = resnet(**settings((3, 8, 8), norm.batch(), "relu"), depth=8, width=8)
    init.kaiming()(model, noise(1), seeded())
    layers = by_name(model, (3, 8, 8))
    sum_act, conv, block_act = layers["stage1.block1.act2"], layers["stage2.block1.conv1"], layers["stage2.block1.act1"]
    assert sum_act.std is None
    assert (
        sum_act.forward_gap
        == "stage1.block1.act2 does not get the output of stage1.block1.norm2, but a sum, a branch or a function of it"
    )
    assert (conv.std, conv.forward_gap) == (None, sum_act.forward_gap)
    assert (block_act.std, block_act.forward_gap) == (pytest.approx(0.584, abs=1e-3), "")
    assert layers["stage3.block1.act2"].gradient_std is not None
    assert layers["stage3.block1.norm2"].gradient_std is None
    assert "stage3.block1.act2 does not get" in layers["stem.conv"].backward_gap


def test_predict_pooling_ends_only_forward_values():
    model = convnet(**settings((3, 8, 8), None, "relu"), stages=2)
    layers = by_name(model, (3, 8, 8))
    assert layers["head"].std is None
    assert "pool" in layers["head"].forward_gap
    assert all(layer.gradient_std for layer in layers.values())


class FunctionCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(12, 6), nn.Linear(6, 10)

    def forward(self, x):
        return self.head(F.relu(self.fc(x.flatten(1))))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(12, 12), nn.Linear(12, 10)

    def forward(self, x):
        return self.head(self.fc(self.fc(x.flatten(1))))


class InPlaceSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.pool, self.head = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(3, 10),
        )

    def forward(self, x):
        y = self.conv(x)
        y += x
        return self.head(self.pool(self.act(y)).flatten(1))


@pytest.mark.parametrize(
    ("model", "layer", "reason"),
    [
        (FunctionCall(), "head", "head does not get the output of fc, but a sum, a branch or a function of it"),
        (InPlaceSum(), "act", "act does not get the output of conv, but a sum, a branch or a function of it"),
        (Shared(), "fc", "fc is called more than once"),
        (nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 9)), "0", "theory does not cover MaxPool2d (0)"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1), nn.Linear(12, 9)), "1", "1 is not elementwise"),
        (nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten()), "0", "0 gets 3 dimensions; theory covers [N, C] and [N, C, H, W]"),
    ],
)
def test_chain_of_reports_uncovered_layers(model, layer, reason):
    shape = (2, 6) if isinstance(model[0] if isinstance(model, nn.Sequential) else None, nn.Conv1d) else (3, 2, 2)
    gaps = [stage.reason for stage in build_chain(model, *shape) if isinstance(stage, Uncovered)]
    assert reason in gaps
    expected = by_name(model, shape)[layer] if len(shape) == 3 else Expected(layer, None, None, None, reason)
    assert (expected.std, expected.forward_gap) == (None, reason)


def test_chain_of_excludes_trained_weights_and_norms():
    model = mlp(**settings((1, 3, 5), norm.batch(), "relu"), depth=1, width=50)
    with torch.no_grad():
        model.get_parameter("norm1.weight").fill_(2)
        model.get_parameter("head.weight").add_(1)
    reasons = [stage.reason for stage in build_chain(model, 1, 3, 5) if isinstance(stage, Uncovered)]
    assert len(reasons) == 2
    assert "norm1 has a scale other than 1" in reasons[0]
    assert "the weights of head have mean " in reasons[1]


def test_chain_of_accepts_in_place_activations():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 50), nn.ReLU(inplace=True), nn.Linear(50, 10))
    assert [type(stage) for stage in build_chain(model, 3, 2, 2)] == [Flatten, Weighted, Activation, Weighted]


def test_chain_of_accepts_functional_flatten():
    model = convnet(**settings((1, 4, 4), None, "relu"), stages=1, convs=1, width=32)
    model.set_submodule("pool", nn.AdaptiveAvgPool2d(1))
    model.set_submodule("head", nn.Sequential(nn.Flatten(), nn.Linear(32, 10)))
    assert [type(stage) for stage in build_chain(model, 1, 4, 4)] == [Weighted, Activation, GlobalPool, Flatten, Weighted]


def test_predict_black_images_give_zero_signal():
    model = mlp(**settings((1, 4, 4), None, "tanh"), depth=2, width=20)
    init.kaiming()(model, noise(1), seeded())
    for layer in run_theory(build_chain(model, 1, 4, 4), torch.zeros(8, 1, 4, 4)):
        assert (layer.mean, layer.std) == (0, 0)
        assert math.isfinite(layer.gradient_std)
