"""The classifiers of torchvision with the lab's switches. torchvision is imported only when one is requested."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from train.errors import ShapeError, UsageError, did_you_mean
from train.parts.contracts import ActivationFactory, NormFactory, Shape
from train.parts.kinds import is_norm
from train.parts.model import surgery
from train.parts.model.trace import ReluCalls, layers_before, trace

TRACE_PX = (
    224  # the size that torchvision's classifiers are made for; inception_v3's 299 is not needed without its auxiliary head
)


def torchvision(
    *,
    input_shape: Shape,
    classes: int,
    norm: NormFactory | None,
    activation: ActivationFactory | None,
    dropout: float,
    name: str = "resnet18",
) -> nn.Module:
    """Return the classifier that `torchvision.models` calls `name`, untrained, without auxiliary heads, changed as follows.

    - Every norm layer becomes `norm(channels)`. Convolutions and linear layers whose output a norm reads directly lose their
      bias. With `norm` None the norms go, and these layers and all convolutions have a bias. Other biases stay as they are.
    - `activation` replaces the activations, but not the gates of squeeze-and-excitation; None leaves them.
    - `dropout` becomes the p of every nn.Dropout. Where there is none, one goes in front of the head.
    - The first convolution takes C channels, the head gives K logits. No module works in place.

    Stochastic depth and dropout inside nn.MultiheadAttention, where the architecture has them, stay as they are. Names are
    torchvision's; a norm that had the channels last is `<name>.norm`, a head that dropout was added to `<name>.linear`.
    UsageError: no such model; a norm for a model without any; an activation for a model that computes its own outside modules;
    images of a size that the model cannot be built for.
    """
    model = _construct(name, input_shape, classes)
    surgery.adapt_first_conv(model, input_shape[0])
    norms = {module for module in model.modules() if is_norm(module)}
    with ReluCalls() as relus:
        calls = trace(model, _trace_shape(name, input_shape))
    functional_relu = relus.count > sum(isinstance(call.module, nn.ReLU) for call in calls)
    _refuse(name, missing_norms=norm is not None and not norms, fixed_activation=activation is not None and functional_relu)
    surgery.set_biases(model, {call.name for call in layers_before(calls, norms)}, norms=norm is not None)
    surgery.replace_norms(model, norm)
    if activation is not None:
        surgery.replace_activations(model, activation)
    surgery.set_dropout(model, dropout)
    surgery.forbid_in_place(model)
    return model


def _construct(name: str, input_shape: Shape, classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"model.name={name} is no classifier of torchvision. {did_you_mean(name, known)}")
    arguments = {"weights": None, "num_classes": classes, **_own_arguments(name, input_shape)}
    try:
        return models.get_model(name, **arguments)
    except NotImplementedError:  # RegNet computes its widths with tensors, which the meta device cannot
        with torch.device("cpu"):
            model = models.get_model(name, **arguments)
        return model.to(torch.get_default_device())
    except (AssertionError, ValueError) as error:  # how ViT and MaxViT refuse an image size
        raise ShapeError(
            f"model.name={name} cannot take images of {_size(input_shape)} pixels: {error} Use another image size, or another "
            "model.name such as resnet18."
        ) from error


def _own_arguments(name: str, input_shape: Shape) -> dict[str, Any]:
    """Return the arguments that some architectures need besides the number of classes."""
    _, height, width = input_shape
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False, "transform_input": False}
    if name.startswith("maxvit"):
        return {"input_size": (height, width)}
    if name.startswith("vit"):
        if height != width:
            raise ShapeError(f"model.name={name} takes square images only, not {_size(input_shape)} pixels.")
        return {"image_size": height}
    return {}


def _trace_shape(name: str, input_shape: Shape) -> Shape:
    """Return a shape that the model surely takes. The pre-flight check finds out whether it takes the real one."""
    fixed_size = name.startswith(("maxvit", "vit"))
    return input_shape if fixed_size else (input_shape[0], TRACE_PX, TRACE_PX)


def _refuse(name: str, missing_norms: bool, fixed_activation: bool) -> None:
    """Raise UsageError when the model lacks what is to be replaced."""
    if missing_norms:
        from torchvision import models

        other = f"model.name={name}_bn or " if f"{name}_bn" in models.list_models(module=models) else ""
        raise UsageError(f"model.name={name} has no norm layers to replace. Use {other}norm=none.")
    if fixed_activation:
        raise UsageError(
            f"model.activation cannot be chosen for model.name={name}: it has ReLUs that are function calls, not modules. "
            "Use model.activation=null to keep them, or another model.name."
        )


def _size(shape: Shape) -> str:
    return f"{shape[1]}x{shape[2]}"
