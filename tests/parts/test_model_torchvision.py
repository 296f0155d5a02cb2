"""torchvision's classifiers with the lab's norms, activations and dropout put in, against torchvision's originals."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from train.errors import ShapeError, UsageError
from train.parts import norm as norms
from train.parts.activation import activation
from train.parts.model import torchvision

SHORT = {"alexnet", "convnext_tiny", "googlenet", "inception_v3", "mobilenet_v3_small", "resnet18", "swin_t", "vit_b_32"}
"""One of each kind: without norms, with layer norms, auxiliary heads, a size of its own, gates, shortcuts, windows, tokens."""
FUNCTIONAL_RELU = ("densenet", "googlenet", "inception")
HUGE = re.compile(r"regnet_._(16|32|128)gf")
"""The smaller RegNets wider. Their widths are computed with tensors, so that they are built in earnest: minutes for all."""
EVERY = [name for name in models.list_models(module=models) if not HUGE.fullmatch(name)]
OWN = {name: {"aux_logits": False, "init_weights": False, "transform_input": False} for name in ("googlenet", "inception_v3")}
NORMS = {"none": None, "batch": norms.batch(), "group": norms.group(2)}


def classifiers(*left_out: str) -> list[Any]:
    """The names of torchvision's classifiers but those that begin so; in the short suite one of each kind."""
    names = [name for name in EVERY if not name.startswith(left_out)]
    return [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in names]


def build(name, shape=(3, 224, 224), classes=10, norm=None, act: Any = None, dropout=0.0) -> Any:
    factory = None if act is None else activation(act)
    return torchvision(input_shape=shape, classes=classes, norm=norm, activation=factory, dropout=dropout, name=name)


def shapes(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def of_type(model, *types):
    return [module for module in model.modules() if isinstance(module, types)]


def check_builds(name, norm):
    size = 299 if name == "inception_v3" else 224
    with torch.device("meta"):
        net = build(name, (1, size, size), 7, NORMS[norm], dropout=0.2)
        assert net(torch.zeros(2, 1, size, size)).shape == (2, 7)
    assert net.training
    assert not of_type(net, nn.modules.batchnorm._BatchNorm if norm != "batch" else nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    assert {module.p for module in of_type(net, nn.Dropout)} == {0.2}
    if norm == "none":
        assert all(conv.bias is not None for conv in of_type(net, nn.Conv2d))


@pytest.mark.parametrize("name", classifiers())
def test_torchvision_classifier_builds_with_any_norm(name):
    without = name in ("alexnet", "vgg11", "vgg13", "vgg16", "vgg19") or name.startswith("squeezenet")
    for norm in NORMS:
        if without and norm != "none":
            with pytest.raises(UsageError, match="has no norm layers"):
                check_builds(name, norm)
        else:
            check_builds(name, norm)


@pytest.mark.parametrize("name", classifiers())
def test_torchvision_activation_is_replaced_or_refused(name):
    with torch.device("meta"):
        if name.startswith(FUNCTIONAL_RELU):
            with pytest.raises(UsageError, match=rf"model.activation .*model.name={name}.*model.activation=null"):
                build(name, act="tanh")
            return
        original, net = build(name), build(name, act="elu")
    before = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh)
    assert len(of_type(net, nn.ELU)) == len(of_type(original, *before)) > 0
    assert not of_type(net, *before)
    gates = (nn.Sigmoid, nn.Hardsigmoid)
    assert len(of_type(net, *gates)) == len(of_type(original, *gates))


@pytest.mark.parametrize("name", classifiers("alexnet", "convnext", "maxvit", "regnet", "squeezenet", "swin", "vgg", "vit"))
def test_torchvision_batch_norm_reproduces_architecture(name):
    with torch.device("meta"):
        original = models.get_model(name, weights=None, num_classes=10, **OWN.get(name, {}))
        assert shapes(build(name, norm=norms.batch())) == shapes(original)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", r".*conv\d|layer\d\.0\.downsample\.0"),
        ("vgg11_bn", r"features\.\d+"),  # whose convolutions have a bias in the original
        ("convnext_tiny", r"features\.0\.0|features\.\d\.\d\.block\.0"),  # a permutation stands between these and their norms
        ("swin_t", r"features\.0\.0|features\.\d\.reduction"),
        ("vit_b_32", r"(?!)"),
    ],
)
def test_torchvision_biases_only_without_norm(name, layers):
    with torch.device("meta"):
        with_norm, without = build(name, norm=norms.batch()), build(name)
    biased = {n: m.bias is not None for n, m in with_norm.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert biased == {n: not re.fullmatch(layers, n) for n in biased}
    assert all(m.bias is not None for m in of_type(without, nn.Conv2d, nn.Linear))


def test_torchvision_resnet18_computes_the_original():
    torch.manual_seed(0)
    original = models.resnet18(weights=None, num_classes=10)
    net = build("resnet18", (3, 64, 64), norm=norms.batch())
    net.load_state_dict(original.state_dict())
    images = torch.randn(4, 3, 64, 64)
    assert torch.equal(net(images), original(images))
    assert torch.equal(net.eval()(images), original.eval()(images))


class NormOverChannels(nn.Module):
    """What the transformers' LayerNorm does, for channels that come second."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, x):
        assert x.shape[1] == len(self.weight)
        y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
        shape = (1, -1, *[1] * (x.ndim - 2))
        return y * self.weight.view(shape) + self.bias.view(shape)


@pytest.mark.parametrize(("name", "size"), [("vit_b_32", 64), ("swin_t", 56), ("convnext_tiny", 64)])
def test_torchvision_norms_use_the_channel_dimension(name, size):
    torch.manual_seed(0)
    arguments = {"vit_b_32": {"image_size": size}}.get(name, {})
    original = models.get_model(name, weights=None, num_classes=10, **arguments).eval()
    net = build(name, (3, size, size), norm=lambda c: NormOverChannels(c)).eval()
    for key, module in original.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None and net.get_submodule(key).bias is None:
            nn.init.zeros_(module.bias)
    theirs = original.state_dict()
    ours = {key: key if key in theirs else re.sub(r"\.norm\.(weight|bias)$", r".\1", key) for key in net.state_dict()}
    net.load_state_dict({key: theirs[source] for key, source in ours.items()})
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(net(images), original(images), atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_torchvision_gradients_reach_every_parameter(name, norm):
    torch.manual_seed(0)
    net = build(name, (1, 64, 64), norm=NORMS[norm], act="tanh", dropout=0.1)
    net(torch.randn(4, 1, 64, 64)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_torchvision_works_out_of_place():
    with torch.device("meta"):
        net = build("mobilenet_v3_small")
    assert [name for name, module in net.named_modules() if getattr(module, "inplace", False)] == []


def test_torchvision_added_biases_are_zero():
    net = build("resnet18", (3, 32, 32))
    biases = [value for key, value in net.named_parameters() if key.endswith("bias") and not key.startswith("fc")]
    assert len(biases) == len(of_type(net, nn.Conv2d)) == 20
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_torchvision_first_convolution_fits_channels(name, channels):
    net = build(name, (channels, 64, 64))
    first = of_type(net, nn.Conv2d)[0]
    bound = first.weight[0].numel() ** -0.5
    assert 0.9 * bound < first.weight.abs().max() <= bound or channels == 3
    assert net(torch.randn(2, channels, 64, 64)).shape == (2, 10)


def test_torchvision_dropout_is_set_or_added():
    with torch.device("meta"):
        assert [d.p for d in of_type(build("alexnet", dropout=0.0), nn.Dropout)] == [0.0, 0.0]
        assert [d.p for d in of_type(build("swin_t", dropout=0.3), nn.Dropout)] == [0.3] * 24
        assert of_type(build("resnet18"), nn.Dropout) == []
        head = build("resnet18", dropout=0.3).fc
    assert [name for name, _ in head.named_children()] == ["dropout", "linear"]
    assert (head.dropout.p, head.linear.out_features) == (0.3, 10)


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (UsageError, {"name": "resnet19"}, r"model.name=resnet19 .*Did you mean 'resnet1\d'"),
        (UsageError, {"name": "fasterrcnn_resnet50_fpn"}, "is no classifier"),
        (UsageError, {"name": "vgg11", "norm": norms.batch()}, "model.name=vgg11 has no norm.*model.name=vgg11_bn or norm=none"),
        (
            UsageError,
            {"name": "alexnet", "norm": norms.batch()},
            "model.name=alexnet has no norm layers to replace. Use norm=none",
        ),
        (ShapeError, {"name": "vit_b_16", "shape": (1, 28, 28)}, "model.name=vit_b_16 .*28x28.*indivisible by patch size"),
        (ShapeError, {"name": "vit_b_16", "shape": (3, 224, 160)}, "square.*224x160"),
        (ShapeError, {"name": "maxvit_t", "shape": (3, 32, 32)}, "model.name=maxvit_t .*32x32.*not divisible"),
    ],
)
def test_torchvision_refuses_impossible_settings(error, arguments, message):
    with torch.device("meta"), pytest.raises(error, match=message):
        build(**arguments)


def test_torchvision_is_imported_late():
    code = "import sys, train.parts.model; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
