"""The lab's own models: their sizes, names and biases, what they accept and what they refuse."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import ops

from train.errors import ShapeError, UsageError
from train.parts import norm as norms
from train.parts.activation import activation
from train.parts.contracts import OwnInit, Staged
from train.parts.model import airbench, convnet, fixup, mlp, plain, resnet, resnet9
from train.parts.model.airbench import WhitenedNet
from train.parts.model.layers import HalvingMaxPool, StochasticDepth
from train.parts.model.resnet import ResidualBlock

NORMS = {"none": None, "batch": norms.batch(), "layer": norms.layer(), "instance": norms.instance(), "group": norms.group(4)}
MODELS = {
    "mlp": partial(mlp, depth=2, width=16),
    "convnet": partial(convnet, width=8),
    "convnet_deep": partial(convnet, stages=4, convs=1, width=4),
    "plain": partial(plain, depth=9, width=8),
    "resnet": partial(resnet, depth=8, width=8),
    "resnet9": partial(resnet9, width=4),
}
CASES = [(m, n) for m in MODELS for n in NORMS if (m, n) != ("mlp", "instance")]


def build(factory, shape=(3, 32, 32), classes=10, norm=None, act: Any = "relu", dropout=0.0, **settings):
    return factory(input_shape=shape, classes=classes, norm=norm, activation=activation(act), dropout=dropout, **settings)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def names(model):
    """Of the leaves, in the order of registration."""
    return [name for name, module in model.named_modules() if name and not list(module.children())]


def order_of_calls(model, images):
    """(name, module) of the leaves in the order in which the forward calls them."""
    calls = []
    hooks = [
        module.register_forward_hook(lambda module, *_, name=name: calls.append((name, module)))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize(("model", "norm"), CASES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 17, 33)])
def test_model_logits_and_gradients(model, norm, shape):
    torch.manual_seed(0)
    net = build(MODELS[model], shape, 7, NORMS[norm], act="tanh", dropout=0.1)
    logits = net(torch.randn(4, *shape))
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("model", "norm"), CASES)
def test_model_biases_only_without_norm(model, norm):
    net = build(MODELS[model], norm=NORMS[norm])
    calls = order_of_calls(net, torch.randn(2, 3, 32, 32))
    is_norm = [type(module).__name__.endswith("Norm") for _, module in calls]
    layers = 0
    for (name, module), norm_follows in zip(calls, [*is_norm[1:], False], strict=True):
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers += 1
            assert (module.bias is None) == norm_follows, name
            assert norm_follows == (norm != "none" and name != "head"), name
    assert layers > 1
    assert any(is_norm) == (norm != "none")


@pytest.mark.parametrize("model", MODELS)
def test_model_activations_are_modules_called_once(model):
    net = build(MODELS[model], act="gelu")
    calls = [name for name, module in order_of_calls(net, torch.randn(2, 3, 32, 32)) if isinstance(module, nn.GELU)]
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(calls) == len(set(calls)) == len(layers) - 1


@pytest.mark.parametrize("model", MODELS)
def test_model_dropout_modules_only_above_zero(model):
    count = {p: [d.p for d in build(MODELS[model], dropout=p).modules() if isinstance(d, nn.Dropout)] for p in (0.0, 0.3)}
    assert count == {0.0: [], 0.3: [0.3] * (2 if model == "mlp" else 1)}


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(6, 4, 3, 5), (5, 7)])
def test_stochastic_depth_is_torchvisions(p, shape):
    x = torch.randn(shape)
    made, twin = StochasticDepth(p), ops.StochasticDepth(p, "row")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        dropped = made(x)
        torch.manual_seed(3)
        assert torch.equal(dropped, twin(x))
    assert torch.equal(made.eval()(x), x)
    assert set(dropped.flatten(1).any(1).tolist()) <= {True, False}


def test_resnet_drops_later_branches_more_often():
    net = build(resnet, depth=14, stochastic_depth=0.6)
    depths = [module.p for module in net.modules() if isinstance(module, StochasticDepth)]
    assert depths == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert not any(isinstance(module, StochasticDepth) for module in build(resnet, depth=14).modules())


def test_fixup_is_the_papers_sum_of_scaled_branches():
    """The slow way, on random values of all parameters; at its own initial ones the logits are 0."""
    torch.manual_seed(0)
    net = build(fixup, depth=8, width=4, act="tanh").eval()
    p = dict(net.named_parameters())
    x = images = torch.randn(3, 3, 12, 10)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
        x = torch.tanh(nn.functional.conv2d(x, p["stem.conv.weight"], padding=1) + p["stem.shift.bias"])
        for stage in (1, 2, 3):
            b, stride = f"stage{stage}.block1.", 1 if stage == 1 else 2
            y = nn.functional.conv2d(x + p[b + "shift1.bias"], p[b + "conv1.weight"], padding=1, stride=stride)
            y = torch.tanh(y + p[b + "shift2.bias"]) + p[b + "shift3.bias"]
            y = nn.functional.conv2d(y, p[b + "conv2.weight"], padding=1) * p[b + "gain.scale"] + p[b + "shift4.bias"]
            shortcut = torch.zeros_like(y)
            shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
            x = torch.tanh(shortcut + y)
        expected = (x.mean((2, 3)) + p["shift.bias"]) @ p["head.weight"].T + p["head.bias"]
        torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
        net.finish_init(images)  # pyright: ignore[reportCallIssue]
        assert not (net(images) - p["head.bias"]).any()
    assert len(p) == 1 + 1 + 3 * 7 + 1 + 2


def test_fixup_refuses_a_norm():
    with pytest.raises(UsageError, match=r"model=fixup takes the place of norms and has none\. Use norm=none"):
        build(fixup, norm=norms.batch())


def test_dropped_branch_leaves_the_shortcut():
    block = ResidualBlock(4, 4, norms.batch(), activation("identity"), drop=0.5)
    x = torch.randn(64, 4, 5, 5)
    y = block(x)
    branch = block.norm2(block.conv2(block.norm1(block.conv1(x))))
    skipped = (y == x).flatten(1).all(1)
    assert 10 < skipped.sum() < 54
    torch.testing.assert_close(y[~skipped], (x + 2 * branch)[~skipped])


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 3)])
def test_halving_max_pool_is_torchs(size):
    x = torch.randn(2, 3, *size, requires_grad=True)
    pooled, expected = HalvingMaxPool()(x), nn.functional.max_pool2d(x, 2)
    assert torch.equal(pooled, expected)
    weights = torch.randn_like(pooled)
    ((made,), (twin,)) = (torch.autograd.grad(y, x, weights) for y in (pooled, expected))
    assert torch.equal(made, twin)


def test_resnet9_is_the_published_net_but_for_the_bias_of_its_head():
    net = build(resnet9, norm=norms.batch())
    assert parameters(net) == 6_573_130  # of the original 6,573,120
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [layer.weight.shape[0] for layer in layers] == [64, 128, 128, 128, 256, 512, 512, 512, 10]
    assert build(resnet9, (1, 28, 28), width=2)(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert [m.p for m in build(resnet9, stochastic_depth=0.4, width=2).modules() if isinstance(m, StochasticDepth)] == [0.2, 0.4]
    with pytest.raises(ShapeError, match=r"8x8 pixels at least, not 7x9\. Use model=resnet"):
        build(resnet9, (1, 7, 9))


def test_airbench_is_the_published_net_but_for_the_bias_of_its_head():
    net = build(airbench, norm=norms.batch(momentum=0.4, scale=False), act="gelu")
    layers = [module.weight.shape[0] for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert layers == [24, 64, 64, 256, 256, 256, 256, 10]
    assert parameters(net) == 24 * 13 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 2570
    assert names(net)[:9] == [
        "stem.conv",
        "stem.act",
        *(f"stage1.{part}" for part in ("conv1", "pool", "norm1", "act1", "conv2", "norm2", "act2")),
    ]
    assert build(airbench, (1, 28, 28), width=2)(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert build(airbench, (2, 9, 30), width=2)(torch.randn(2, 2, 9, 30)).shape == (2, 10)
    with pytest.raises(ShapeError, match=r"9x9 pixels at least, not 8x30\. Use model=resnet"):
        build(airbench, (1, 8, 30))


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_stem_makes_uncorrelated_outputs_of_variance_one(channels):
    """The slow way: patch after patch; an axis whose variance is far below EPS stays small."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(6, channels, 9, 10, generator=generator).cumsum(3)
    net = build(airbench, (channels, 9, 10), width=2)
    net.finish_init(images)  # pyright: ignore[reportCallIssue]
    patches = torch.stack(
        [images[n, :, y : y + 2, x : x + 2].flatten() for n in range(6) for y in range(8) for x in range(9)]
    ).double()
    weight = net.get_parameter("stem.conv.weight").double().flatten(1)
    assert torch.equal(weight[4 * channels :], -weight[: 4 * channels])
    outputs = patches @ weight[: 4 * channels].T
    moments = outputs.T @ outputs / len(patches)
    torch.testing.assert_close(moments, torch.eye(4 * channels, dtype=torch.float64), atol=0.02, rtol=0)
    assert (moments.diagonal() < 1).all()
    assert (moments.diagonal().diff() < 1e-6).all(), "the widest axis comes first, of which EPS is the smallest part"
    images[:] = 1.5
    net.finish_init(images)  # pyright: ignore[reportCallIssue]
    assert net.get_parameter("stem.conv.weight").isfinite().all()


def test_stem_of_airbench_trains_as_asked():
    trains = {}
    for epochs in (3, 1, 0, None):
        net = build(partial(airbench, width=2, bias_epochs=epochs))
        assert isinstance(net, WhitenedNet)
        trains[epochs] = [(net.begin_epoch(epoch), net.get_parameter("stem.conv.bias").requires_grad) for epoch in (0, 2, 3, 0)]
        assert not net.get_parameter("stem.conv.weight").requires_grad
    kept = (False, True)
    assert list(trains.values()) == [
        [kept, kept, (True, False), (True, True)],
        [kept, (True, False), (False, False), (True, True)],
        [(True, False), (False, False), (False, False), (False, False)],
        [kept] * 4,
    ]
    drawn = build(airbench, width=2, whiten=False)
    assert all(parameter.requires_grad for parameter in drawn.parameters())
    assert not isinstance(drawn, Staged | OwnInit)


def test_model_layer_names():
    assert names(build(mlp, norm=norms.batch(), dropout=0.5, depth=2)) == [
        *("flatten", "fc1", "norm1", "act1", "dropout1", "fc2", "norm2", "act2", "dropout2", "head")
    ]
    assert names(build(convnet, norm=norms.batch(), dropout=0.5, stages=2, convs=2)) == [
        *("stage1.conv1", "stage1.norm1", "stage1.act1", "stage1.conv2", "stage1.norm2", "stage1.act2"),
        *("stage2.conv1", "stage2.norm1", "stage2.act1", "stage2.conv2", "stage2.norm2", "stage2.act2"),
        *("pool", "dropout", "head"),
    ]
    assert names(build(plain, depth=5)) == [
        *("stem.conv", "stem.act", "stage1.conv1", "stage1.act1", "stage2.conv1", "stage2.act1", "stage3.conv1", "stage3.act1"),
        *("pool", "head"),
    ]
    block = ("conv1", "norm1", "act1", "conv2", "norm2", "act2", "shortcut")
    assert names(build(resnet, norm=norms.batch(), depth=8)) == [
        *("stem.conv", "stem.norm", "stem.act"),
        *(f"stage{stage}.block1.{part}" for stage in (1, 2, 3) for part in block),
        *("pool", "head"),
    ]


def test_model_parameter_counts():
    batch = norms.batch()
    assert parameters(build(mlp, (1, 28, 28), depth=0)) == 7850  # softmax regression on MNIST
    assert parameters(build(mlp, (1, 28, 28), depth=1, width=100)) == 784 * 100 + 100 + 100 * 10 + 10
    # The ResNets of He et al. 2015, table 6, with parameter-free shortcuts: 0.27, 0.46, 0.66, 0.85 and 1.7 million.
    assert parameters(build(resnet, norm=batch, depth=20)) == 269_722
    millions = [parameters(build(resnet, norm=batch, depth=depth)) / 1e6 for depth in (32, 44, 56, 110)]
    assert [round(m, 2 if m < 1 else 1) for m in millions] == [0.46, 0.66, 0.85, 1.7]
    # 9 k^2 weights a convolution, two norm parameters a channel
    stages = [1 * 32 + 32 * 32, 32 * 64 + 64 * 64, 64 * 128 + 128 * 128]
    assert parameters(build(convnet, (1, 28, 28), norm=batch, width=32)) == 9 * sum(stages) + 4 * (32 + 64 + 128) + 1290


@pytest.mark.parametrize("depth", [8, 20, 32])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_plain_and_resnet_differ_in_shortcuts(depth, norm):
    pair = [build(factory, norm=NORMS[norm], depth=depth) for factory in (plain, resnet)]
    shapes = [[tuple(p.shape) for p in net.parameters()] for net in pair]
    assert shapes[0] == shapes[1]
    # With the same weights and the residual branch's output removed, the shortcuts are what is left.
    images = torch.rand(2, 3, 32, 32)
    resnet_features = nn.Sequential(*list(pair[1].children())[:-2]).eval()
    with torch.no_grad():
        for name, parameter in pair[1].named_parameters():
            if ".conv2." in name or ".norm2." in name:
                parameter.zero_()
        features = resnet_features(images)
        stem = resnet_features[0](images)
    assert torch.equal(features[:, :16], stem[:, :, ::4, ::4])
    assert not features[:, 16:].any()


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 7, 13, 50])
def test_plain_has_depth_layers(depth):
    net = build(plain, depth=depth, width=4)
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("depth", "offered"),
    [(19, "depth=14 or 20"), (21, "depth=20 or 26"), (13, "depth=8 or 14"), (7, "depth=8."), (2, "depth=8.")],
)
def test_resnet_refuses_depth_naming_nearest(depth, offered):
    with pytest.raises(UsageError, match=rf"model.depth={depth}: .*{offered}"):
        build(resnet, depth=depth)


@pytest.mark.parametrize(("size", "most"), [(28, 5), (32, 6), (4, 3), (1, 1)])
def test_convnet_refuses_too_many_stages(size, most):
    assert build(convnet, (1, size, 50), stages=most, width=1)(torch.randn(2, 1, size, 50)).shape == (2, 10)
    with pytest.raises(ShapeError, match=rf"model.stages={most + 1} .*{size}x50.* {most - 1} times.*model.stages={most} or less"):
        build(convnet, (1, size, 50), stages=most + 1, width=1)


def test_convnet_takes_large_images():
    assert build(convnet, (3, 224, 224), width=4)(torch.randn(1, 3, 224, 224)).shape == (1, 10)


def test_lecture_network_keeps_its_names():
    with torch.device("meta"):
        net = build(mlp, (4096, 1, 1), act="tanh", depth=6, width=4096)
    assert names(net) == ["flatten", *(f"{part}{n}" for n in range(1, 7) for part in ("fc", "act")), "head"]
