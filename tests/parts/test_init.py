"""Initialisations against their moments, and what they leave alone."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from train.errors import UsageError
from train.parts import init, norm

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(5))

# layer, fan_in, fan_out
LAYERS = [
    (lambda: nn.Linear(300, 200), 300, 200),
    (lambda: nn.Conv1d(64, 96, 5), 64 * 5, 96 * 5),
    (lambda: nn.Conv2d(64, 96, 3), 64 * 9, 96 * 9),
    (lambda: nn.Conv2d(256, 512, 3, groups=4), 64 * 9, 128 * 9),
    (lambda: nn.Conv2d(4096, 4096, 3, groups=4096), 9, 9),
]
VARIANCES = [
    ("gaussian", {"std": 0.03}, lambda _in, _out: 0.03**2),
    ("xavier", {}, lambda fan_in, _out: 1 / fan_in),
    ("glorot", {"gain": 1.5}, lambda fan_in, fan_out: 1.5**2 * 2 / (fan_in + fan_out)),
    ("glorot", {"distribution": "normal"}, lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    ("kaiming", {}, lambda fan_in, _out: 2 / fan_in),
    ("kaiming", {"mode": "fan_out", "distribution": "uniform"}, lambda _in, fan_out: 2 / fan_out),
]
NORMS = [norm.batch(), norm.layer(), norm.instance(), norm.group(groups=4), nn.BatchNorm2d, nn.InstanceNorm2d]
FACTORIES = [init.gaussian, init.xavier, init.glorot, init.kaiming, init.orthogonal, init.lsuv, init.dirac]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """A convolutional net with dropout, whose norm and activation can be chosen; construction draws from a fixed global seed."""

    def __init__(self, make_norm=None, activation: Callable[[], nn.Module] = nn.Tanh):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.token = nn.Parameter(torch.randn(1, 3, 1, 1))
            self.body = nn.Sequential()
            for before, after in [(3, 16), (16, 16), (16, 24)]:
                self.body.append(nn.Conv2d(before, after, 3, padding=1, bias=make_norm is None))
                self.body.extend([make_norm(after)] if make_norm else [])
                self.body.extend([activation(), nn.Dropout(0.5)])
            self.head = nn.Linear(24, 7)
        if make_norm:
            for parameter in self.parameters():
                if parameter.ndim == 1:
                    nn.init.constant_(parameter, 3.0)

    def forward(self, x):
        return self.head(self.body(x + self.token).mean((2, 3)))


@pytest.mark.parametrize(("make", "fan_in", "fan_out"), LAYERS)
@pytest.mark.parametrize(("name", "settings", "variance"), VARIANCES)
def test_init_moments(make, fan_in, fan_out, name, settings, variance):
    layer = make()
    getattr(init, name)(**settings)(layer, IMAGES, seeded())
    weight, expected = layer.weight.detach().double(), variance(fan_in, fan_out)
    uniform = settings.get("distribution", {"glorot": "uniform"}.get(name, "normal")) == "uniform"
    n, kurtosis = weight.numel(), 1.8 if uniform else 3.0
    # Five standard errors of a mean and of a variance.
    assert weight.mean().abs() < 5 * math.sqrt(expected / n)
    assert weight.square().mean() / expected == pytest.approx(1, abs=5 * math.sqrt((kurtosis - 1) / n))
    assert (weight**4).mean() / expected**2 == pytest.approx(kurtosis, rel=0.15)
    assert layer.bias.abs().max() == 0


MATRICES = [lambda: nn.Linear(30, 20), lambda: nn.Linear(20, 30), lambda: nn.Conv2d(6, 10, 3), lambda: nn.Conv2d(2, 40, 3)]


@pytest.mark.parametrize("make", MATRICES)
def test_orthogonal_is_orthogonal(make):
    layer = make()
    init.orthogonal(gain=1.5)(layer, IMAGES, seeded())
    matrix = layer.weight.detach().double().flatten(1)
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    torch.testing.assert_close(short @ short.T, 2.25 * torch.eye(len(short), dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(16, 16, 3, groups=16), lambda: nn.Conv2d(8, 40, 1, groups=4)])
def test_orthogonal_is_per_group(make):
    layer = make()
    init.orthogonal()(layer, IMAGES, seeded())
    for block in layer.weight.detach().flatten(1).chunk(layer.groups):
        short = block if block.shape[0] <= block.shape[1] else block.T
        torch.testing.assert_close(short @ short.T, torch.eye(len(short)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: nn.Conv1d(6, 10, 3), lambda: nn.Conv2d(8, 4, 3), lambda: nn.Conv2d(5, 5, 1), lambda: nn.Conv3d(2, 3, 3)),
        *(lambda: nn.Conv2d(8, 40, 3, groups=4), lambda: nn.Conv2d(6, 6, 3, groups=6)),
    ],
)
def test_dirac_filters_pass_their_channel_on(make):
    layer = make()
    start = init.dirac()
    start(layer, IMAGES, seeded())
    kaiming = copy.deepcopy(layer)
    init.kaiming()(kaiming, IMAGES, seeded())
    for block, drawn in zip(layer.weight.detach().chunk(layer.groups), kaiming.weight.detach().chunk(layer.groups), strict=True):
        inputs = block.shape[1]
        twin = nn.init.dirac_(torch.empty_like(block[:inputs]))
        assert torch.equal(block[:inputs], twin)
        assert torch.equal(block[inputs:], drawn[inputs:])
    assert isinstance(start, init.LayerByLayer)
    expected = layer.weight.detach().square().mean().sqrt().item()
    assert start.requested_std(layer) == pytest.approx(expected, rel=0.3)


def test_dirac_convolution_keeps_its_input_and_linear_layers_are_as_kaimings():
    layer, head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(40, 30)
    init.dirac()(layer, IMAGES, seeded())
    assert torch.equal(layer(IMAGES), IMAGES)
    init.dirac()(head, IMAGES, seeded())
    twin = nn.Linear(40, 30)
    init.kaiming()(twin, IMAGES, seeded())
    assert torch.equal(head.weight, twin.weight)


class ResidualBlock(nn.Module):
    """A block of a name that `last_norms` knows; its downsampling has a norm, too."""

    def __init__(self, make_norm):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.norm1, self.norm2 = make_norm(8), make_norm(8)
        self.downsample = nn.Sequential(nn.Conv2d(8, 8, 1), make_norm(8))

    def forward(self, x):
        return self.downsample(x) + self.norm2(self.conv(self.norm1(x)))


@pytest.mark.parametrize("factory", [*FACTORIES, init.pytorch])
@pytest.mark.parametrize("make_norm", [norm.batch(), norm.group(groups=4), nn.BatchNorm2d])
def test_zero_gamma_is_of_the_last_norm_of_a_block_alone(factory, make_norm):
    model = nn.Sequential(make_norm(8), ResidualBlock(make_norm), ResidualBlock(make_norm))
    twin = copy.deepcopy(model)
    images = torch.randn(4, 8, 5, 5, generator=seeded())
    chosen = factory(zero_gamma=True)
    chosen.check(model)
    chosen(model, images, seeded())
    factory()(twin, images, seeded())
    zeros = {name for name, parameter in model.named_parameters() if name.endswith("weight") and not parameter.any()}
    assert zeros == {"1.norm2.weight", "2.norm2.weight"}
    if factory is not init.lsuv:
        assert all(torch.equal(p, twin.get_parameter(n)) for n, p in model.named_parameters() if n not in zeros)


@pytest.mark.parametrize(
    "model", [Net(norm.batch()), ResidualBlock(norm.batch(scale=False)), ResidualBlock(lambda _: nn.Identity())]
)
@pytest.mark.parametrize("factory", [init.kaiming, init.lsuv, init.pytorch])
def test_zero_gamma_needs_a_block_that_ends_with_a_scaled_norm(factory, model):
    factory().check(model)
    with pytest.raises(UsageError, match=r"init\.zero_gamma=true: .*model=resnet"):
        factory(zero_gamma=True).check(model)


def deviations(model, images):
    """Standard deviation of every convolution's and linear layer's outputs, dropout off, batch norm by the batch."""
    stds, handles = [], []
    for module in model.modules():
        module.training = "Norm" in type(module).__name__
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(lambda _m, _i, y: stds.append(y.std(correction=0).item())))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return stds


@pytest.mark.parametrize("make_norm", [None, norm.batch(), norm.layer()])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_lsuv_gives_unit_variance(make_norm, activation):
    model = Net(make_norm, activation)
    init.lsuv()(model, IMAGES, seeded())
    assert deviations(copy.deepcopy(model), IMAGES) == pytest.approx([1.0] * 4, abs=1e-3)
    matrix = model.head.weight.detach()
    gram = matrix @ matrix.T
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(7), atol=1e-4, rtol=1e-4)  # still orthogonal up to its scale


def test_lsuv_restores_modes_and_buffers():
    model = Net(norm.batch())
    model.body[3].eval()
    buffers, modes = copy.deepcopy(dict(model.named_buffers())), [m.training for m in model.modules()]
    init.lsuv()(model, IMAGES, seeded())
    assert buffers
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_lsuv_survives_dead_layer():
    model = Net()
    init.lsuv()(model, torch.zeros_like(IMAGES) - model.token.detach(), seeded())
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("make_norm", [None, norm.batch(), norm.group(groups=4), nn.BatchNorm2d])
def test_init_depends_on_generator_alone(factory, make_norm):
    first, second, other = Net(make_norm), Net(make_norm), Net(make_norm)
    state = torch.get_rng_state()
    factory()(first, IMAGES, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    nn.init.ones_(second.head.weight)
    factory()(second, IMAGES, seeded())
    factory()(other, IMAGES, seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("make_norm", NORMS)
def test_init_resets_norms_and_keeps_the_rest(factory, make_norm):
    model = Net(make_norm, nn.PReLU)
    kept = ["token", "body.2.weight"]
    before = {name: model.get_parameter(name).detach().clone() for name in kept}
    factory()(model, IMAGES, seeded())
    norms = [m for m in model.modules() if "Norm" in type(m).__name__ and list(m.parameters())]
    assert all(m.get_parameter("weight").eq(1).all() and m.get_parameter("bias").eq(0).all() for m in norms)
    assert bool(norms) or make_norm is nn.InstanceNorm2d  # torch's has no parameters
    assert (model.head.bias == 0).all()
    assert all(torch.equal(model.get_parameter(name), before[name]) for name in kept)


def test_pytorch_changes_nothing():
    model = Net()
    before = copy.deepcopy(model.state_dict())
    generator = seeded()
    state = generator.get_state()
    init.pytorch()(model, IMAGES, generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator.get_state(), state)
    wide = nn.Conv2d(64, 256, 3)  # what the docstring says of torch's default
    assert wide.weight.var().item() * 3 * 64 * 9 == pytest.approx(1, abs=0.02)


def test_init_draws_in_float32():
    single, half = Net(), Net().to(torch.bfloat16)
    init.kaiming()(single, IMAGES, seeded())
    init.kaiming()(half, IMAGES.bfloat16(), seeded())
    assert torch.equal(half.head.weight, single.head.weight.bfloat16())


@pytest.mark.cuda
@pytest.mark.parametrize("factory", FACTORIES)
def test_init_on_gpu_is_equal(factory):
    here, there = Net(norm.batch()), Net(norm.batch()).cuda()
    factory()(here, IMAGES, seeded())
    factory()(there, IMAGES, seeded())
    measured = factory is init.lsuv
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(b.cpu(), a, atol=1e-3 if measured else 0, rtol=1e-2 if measured else 0)
