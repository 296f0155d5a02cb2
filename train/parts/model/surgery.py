"""Changes to a finished model, in place: its norms, biases, activations, dropout and first convolution."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor, nn

from train.parts.contracts import ActivationFactory, NormFactory
from train.parts.kinds import Layer, is_norm
from train.parts.model.layers import chain

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh)  # Sigmoid and Hardsigmoid serve as gates


class ChannelsSecond(nn.Module):
    """A norm for [N, C, ...] applied to the [N, ..., C] that transformers hold."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(-1, 1)).movedim(1, -1)


def adapt_first_conv(model: nn.Module, channels: int) -> None:
    """Let the first convolution take images of `channels` channels; its weights are then drawn anew."""
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    if conv.in_channels != channels:
        conv.in_channels = channels
        conv.weight = nn.Parameter(conv.weight.new_empty(conv.out_channels, channels, *conv.kernel_size))
        conv.reset_parameters()


def set_biases(model: nn.Module, before_norm: Set[str], norms: bool) -> None:
    """Take the bias from the layers `before_norm`; without `norms`, give these and all convolutions one (of 0)."""
    for name, layer in model.named_modules():
        if not isinstance(layer, Layer):
            continue
        if norms and name in before_norm:
            layer.register_parameter("bias", None)
        elif not norms and layer.bias is None and (name in before_norm or isinstance(layer, nn.Conv2d)):
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]))


def replace_norms(model: nn.Module, norm: NormFactory | None) -> None:
    for name, old in list(model.named_modules()):
        if is_norm(old):
            model.set_submodule(name, nn.Identity() if norm is None else _new_norm(old, norm))


def replace_activations(model: nn.Module, activation: ActivationFactory) -> None:
    for name, old in list(model.named_modules()):
        if isinstance(old, ACTIVATIONS):
            model.set_submodule(name, activation())


def set_dropout(model: nn.Module, dropout: float) -> None:
    """Set p of every nn.Dropout; where there is none and `dropout` is above 0, put one in front of the last linear layer."""
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    for module in dropouts:
        module.p = dropout
    if dropout > 0 and not dropouts:
        name, head = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
        model.set_submodule(name, chain({"dropout": nn.Dropout(dropout), "linear": head}))


def forbid_in_place(model: nn.Module) -> None:
    """Let no module work in place: others may need its input, for their gradient (tanh) or to be measured."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # pyright: ignore[reportArgumentType]


def _new_norm(old: nn.Module, norm: NormFactory) -> nn.Module:
    from torchvision.models.convnext import LayerNorm2d  # a LayerNorm whose channels come second

    (channels,) = old.get_parameter("weight").shape
    channels_last = isinstance(old, nn.LayerNorm) and not isinstance(old, LayerNorm2d)
    return ChannelsSecond(norm(channels)) if channels_last else norm(channels)
