"""Norms against the lecture's formulas, written out in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from train.errors import ShapeError, UsageError
from train.parts import norm

SHAPES = [(5, 12), (5, 12, 7), (5, 12, 3, 4)]
NORMS = [
    *(norm.batch(eps=0.5), norm.layer(eps=0.5), norm.group(groups=4, eps=0.5), norm.instance(eps=0.5)),
    *(norm.rms(eps=0.5, shift=True), norm.ghost(size=2, eps=0.5)),
]
PER_IMAGE = [(norm.layer(), 1), (norm.group(groups=4), 4), (norm.group(groups=12), 12), (norm.instance(), 12)]


def images(shape, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def with_parameters(module, seed=1):
    """The module in float64 with gamma and beta that are not the identity; returned as NumPy arrays beside it."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in (module.weight, module.bias):
            parameter.normal_(generator=generator)
    return module, module.weight.detach().numpy(), module.bias.detach().numpy()


def scaled(x, mean, var, gamma, beta, eps=1e-5):
    channel = (1, -1) + (1,) * (x.ndim - 2)
    return gamma.reshape(channel) * (x - mean) / np.sqrt(var + eps) + beta.reshape(channel)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_batch_norm_in_training_and_evaluation(shape, momentum):
    module, gamma, beta = with_parameters(norm.batch(momentum=momentum)(12))
    alpha = 1 - momentum
    running_mean, running_var = np.zeros(12), np.ones(12)
    over = (0, *range(2, len(shape)))
    for step in range(3):
        x = images(shape, step)
        mean, var = x.numpy().mean(over, keepdims=True), x.numpy().var(over, keepdims=True)
        np.testing.assert_allclose(module(x).detach(), scaled(x.numpy(), mean, var, gamma, beta), rtol=1e-9)
        running_mean = alpha * running_mean + (1 - alpha) * mean.ravel()
        running_var = alpha * running_var + (1 - alpha) * x.numpy().var(over, ddof=1)
    np.testing.assert_allclose(module.get_buffer("running_mean"), running_mean, rtol=1e-9)
    np.testing.assert_allclose(module.get_buffer("running_var"), running_var, rtol=1e-9)

    module.eval()
    x, channel = images(shape, 9), (1, -1) + (1,) * (len(shape) - 2)
    expected = scaled(x.numpy(), running_mean.reshape(channel), running_var.reshape(channel), gamma, beta)
    np.testing.assert_allclose(module(x).detach(), expected, rtol=1e-9)
    np.testing.assert_allclose(module.get_buffer("running_mean"), running_mean, rtol=1e-9)


@pytest.mark.parametrize(("shape", "factory", "groups"), [(s, f, g) for s in SHAPES for f, g in PER_IMAGE if s[2:] or g < 12])
@pytest.mark.parametrize("training", [True, False])
def test_per_image_norms_match_reference(shape, factory, groups, training):
    module, gamma, beta = with_parameters(factory(12))
    x = images(shape)
    expected = np.empty(shape)
    for n in range(shape[0]):
        for block in np.split(np.arange(12), groups):
            values = x.numpy()[n, block]
            expected[n, block] = scaled(values[None], values.mean(), values.var(), gamma[block], beta[block])[0]
    np.testing.assert_allclose(module.train(training)(x).detach(), expected, rtol=1e-9)


@pytest.mark.parametrize(("shape", "factory"), [(s, f) for s in SHAPES for f in NORMS if s[2:] or f is not NORMS[3]])
def test_norm_eps_and_gradients(shape, factory):
    module, _, _ = with_parameters(factory(12))
    x = images(shape)[:2, :].requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))
    reference = copy.deepcopy(module)
    reference.eps = 1e-5
    assert not torch.allclose(module(x), reference(x), rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_rms_norm_is_torchs_over_all_of_an_image(shape, training):
    module, gamma, beta = with_parameters(norm.rms(eps=0.5, shift=True)(12))
    x, channel = images(shape), (1, -1) + (1,) * (len(shape) - 2)
    expected = nn.RMSNorm(shape[1:], eps=0.5, elementwise_affine=False)(x).numpy() * gamma.reshape(channel) + beta.reshape(
        channel
    )
    np.testing.assert_allclose(module.train(training)(x).detach(), expected, rtol=1e-9)
    assert norm.rms()(12).get_parameter("weight").eq(1).all()
    assert norm.rms()(12).bias is None


@pytest.mark.parametrize(("count", "size", "parts"), [(12, 4, [4, 4, 4]), (5, 8, [5]), (11, 3, [4, 4, 3]), (8, 8, [8])])
@pytest.mark.parametrize("rest", [(), (3, 4)])
def test_ghost_norm_is_torchs_batch_norm_of_one_part_after_the_other(count, size, parts, rest):
    module, twin = norm.ghost(size=size, momentum=0.3)(6).double(), nn.BatchNorm2d(6, momentum=0.3).double()
    x = images((count, 6, *rest))
    expected = [twin(part.reshape(len(part), 6, -1, 1)).reshape(part.shape) for part in x.split(parts)]
    torch.testing.assert_close(module(x), torch.cat(expected), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), twin.buffers(), strict=True))
    batch = norm.batch()(6).double().eval()
    batch.load_state_dict(module.state_dict())
    assert torch.equal(module.eval()(x), batch(x))


@pytest.mark.parametrize("make", [norm.batch, norm.ghost, norm.layer, norm.rms, norm.instance, norm.group])
@pytest.mark.parametrize(("scale", "shift"), [(True, False), (False, True), (False, False), (True, True)])
def test_norm_without_scale_or_shift_is_the_norm_at_one_and_zero(make, scale, shift):
    module, full = make(scale=scale, shift=shift)(16), make(scale=True, shift=True)(16)
    x = images((6, 16, 3, 4)).float().requires_grad_()
    assert [name for name, _ in module.named_parameters()] == ["weight"] * scale + ["bias"] * shift
    torch.testing.assert_close(module(x), full(x))
    module(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2).add_(1)
        y = full(x) * (3 if scale else 1) + (1 if shift else 0)
    torch.testing.assert_close(module(x), y)


def standardized():
    factory = norm.group(standardize_weights=True)
    assert isinstance(factory, norm.WithStandardizedWeights)
    return factory


@pytest.mark.parametrize("groups", [1, 2])
def test_standardized_convolution_is_a_convolution_by_standardised_filters(groups):
    model = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=groups), nn.Conv2d(6, 6, 1, groups=6), nn.Flatten(), nn.Linear(96, 2))
    model = model.double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = images((2, 4, 8, 8))
    standardized().finish(model)
    assert [type(module).__name__ for module in model] == ["StandardizedConv2d", "Conv2d", "Flatten", "Linear"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    filters = before["0.weight"].numpy()
    alone = (filters - filters.mean((1, 2, 3), keepdims=True)) / filters.std((1, 2, 3), keepdims=True)
    expected = nn.functional.conv2d(x, torch.from_numpy(alone), before["0.bias"], 2, 1, groups=groups)
    torch.testing.assert_close(model[0](x), expected, rtol=1e-6, atol=1e-6)


def test_standardized_weights_need_a_convolution():
    with pytest.raises(UsageError, match=r"norm\.standardize_weights=true: the model has no convolution"):
        standardized().finish(nn.Linear(3, 3))


def test_batch_norm_has_torchs_state_dict():
    assert set(norm.batch()(4).state_dict()) == set(nn.BatchNorm2d(4).state_dict())


def test_norm_types_and_repr_differ():
    modules = [
        norm.batch()(12),
        norm.layer()(12),
        norm.instance()(12),
        norm.group(groups=3)(12),
        norm.rms()(12),
        norm.ghost()(12),
    ]
    names = ["BatchNorm", "LayerNorm", "InstanceNorm", "GroupNorm", "RMSNorm", "GhostBatchNorm"]
    assert [type(m).__name__ for m in modules] == names
    assert repr(modules[3]) == "GroupNorm(12, groups=3, eps=1e-05)"
    assert norm.none() is None


@pytest.mark.parametrize(
    ("factory", "channels", "shape", "words"),
    [
        (norm.group(groups=8), 12, (2, 12, 4, 4), ["norm.groups=8", "12 channels", "norm.groups=6 or norm.groups=12"]),
        (norm.group(groups=32), 12, (2, 12), ["norm.groups=32", "12 channels", "norm.groups=12,"]),
        (norm.group(groups=12), 12, (2, 12, 1, 1), ["norm=group", "[2, 12, 1, 1]", "norm.groups"]),
        (norm.instance(), 12, (2, 12, 1, 1), ["norm=instance", "[2, 12, 1, 1]", "norm=layer"]),
        (norm.instance(), 12, (2, 12), ["norm=instance", "[2, 12]", "norm=layer"]),
        (norm.layer(), 1, (2, 1, 1, 1), ["norm=layer", "[2, 1, 1, 1]", "norm=none"]),
        (norm.ghost(size=1), 12, (2, 12), ["norm=ghost", "[1, 12]", "norm.size"]),
        (norm.rms(), 1, (2, 1, 1, 1), ["norm=rms", "[2, 1, 1, 1]", "norm=none"]),
        (norm.batch(), 12, (1, 12), ["norm=batch", "[1, 12]", "batch_size"]),
        (norm.batch(), 12, (1, 12, 1, 1), ["norm=batch", "[1, 12, 1, 1]", "batch_size"]),
    ],
)
def test_norm_refuses_impossible_shapes(factory, channels, shape, words):
    module = factory(channels)
    with pytest.raises(ShapeError) as caught:
        module(torch.ones(shape))
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_batch_norm_evaluates_one_value():
    assert norm.batch()(3).eval()(torch.ones(1, 3)).shape == (1, 3)


@pytest.mark.parametrize(
    "factory", [norm.batch(), norm.layer(), norm.group(groups=4), norm.instance(), norm.rms(), norm.ghost(2)]
)
def test_norm_autocast_in_channels_last(factory):
    """As the loop runs them: bfloat16 maps, which need a gradient, and float32 parameters."""
    x = images((4, 12, 6, 6)).float().contiguous(memory_format=torch.channels_last).requires_grad_()
    module = factory(12)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x.bfloat16())
    y.float().square().sum().backward()
    torch.testing.assert_close(y.float(), factory(12)(x), atol=0.03, rtol=0.03)
    assert module.weight.grad.dtype == torch.float32
