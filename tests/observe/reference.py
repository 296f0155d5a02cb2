"""A slow reference for the observer, which stores every output, gradient and weight and computes in float64; and test models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tests.harness import settings_for
from tests.steps import train_step
from train.config import ObserveSettings
from train.data.contracts import Batch
from train.data.readers import Readers
from train.observe.observer import Observer
from train.parts.model.trace import trace
from train.run.runner import observed_update
from train.run.setup import Setup, prepare
from train.run.step import TrainState, set_learning_rate

ONE = torch.ones(())
NOISE = ["data=noise", "data.shape=[3,16,16]", "data.classes=4", "data.train_size=24", "data.test_size=8", "data.val_fraction=0"]
BASE = [*NOISE, "augment=flip_crop", "regularization=weight_decay_dropout", "trainer.batch_size=8", "trainer.device=cpu"]


def settings(**changes: Any) -> ObserveSettings:
    defaults: dict[str, Any] = {
        "level": "full",
        "every": 1,
        "every_step": True,
        "histogram_every": 0,
        "probe_size": 0,
        "layers": "*",
    }
    return ObserveSettings(**(defaults | changes))


def observer_of(model: nn.Module, shape: tuple[int, ...], probe: Tensor | None = None, **changes: Any) -> Observer:
    """Return the observer of a model for images of `shape`, or vectors."""
    return Observer(model, settings(**changes), trace(model, cast(Any, shape)), probe)


def prepared(overrides: list[str]) -> tuple[Setup, Readers]:
    setup = prepare(settings_for(overrides))
    return setup, setup.open_readers()


class SignalRecorder:
    """Stores every output and gradient of one forward and backward pass, under the observer's names."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.outputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.kinds: dict[str, str] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        def recorder(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, _: Any, output: Tensor) -> None:
                calls = sum(layer == name or layer.startswith(f"{name}#") for layer in self.outputs)
                key = name if calls == 0 else f"{name}#{calls + 1}"
                self.outputs[key] = output.detach().clone()
                self.kinds[key] = type(module).__name__
                if output.requires_grad:
                    output.register_hook(lambda gradient: self.gradients.__setitem__(key, gradient.clone()))

            return hook

        types = (nn.Conv2d, nn.Linear, nn.ReLU, nn.Tanh, nn.Sigmoid)
        handles = [m.register_forward_hook(recorder(n)) for n, m in self.model.named_modules() if isinstance(m, types)]
        yield
        for handle in handles:
            handle.remove()

    def statistics_by_tag(self, scale: float) -> dict[str, float]:
        values: dict[str, float] = {}
        for layer, output in self.outputs.items():
            y = output.double().movedim(1, 0).flatten(1)
            kind = self.kinds[layer]
            statistics = {
                "mean": y.mean(),
                "std": y.std(correction=0),
                "zero": (y == 0).double().mean(),
                "nonfinite": (~y.isfinite()).sum(),
                "channel_mean_sq": y.mean(1).square().mean(),
                "channel_var": y.var(1, correction=0).mean(),
            }
            if kind not in ("Conv2d", "Linear"):
                statistics["dead"] = (y == 0).all(1).double().mean()
            if kind == "Tanh":
                statistics["saturated"] = (y.abs() > 0.97).double().mean()
            if kind == "Sigmoid":
                statistics["saturated"] = ((y < 0.03) | (y > 0.97)).double().mean()
            values |= {f"activation_{name}/{layer}": value.item() for name, value in statistics.items()}
        for layer, gradient in self.gradients.items():
            values[f"gradient_std/{layer}"] = gradient.double().std(correction=0).item() / scale
            values[f"gradient_nonfinite/{layer}"] = float((~gradient.isfinite()).sum())
        return values


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    weights = ((name, module.weight) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return {name: weight.detach().double() for name, weight in weights}


def reference_values(train_state: TrainState, batches: list[Batch]) -> dict[str, float]:
    """Return the values that the observer should report for the last of the train steps on `batches`."""
    initial = copy_weights(train_state.model)
    *first, last = batches
    for batch in first:
        train_step(train_state, batch, 1.0)
    recorder, before, gradients = SignalRecorder(train_state.model), copy_weights(train_state.model), dict[str, list[Tensor]]()
    scale = train_state.scaler.get_scale() if train_state.scaler.is_enabled() else 1.0

    def before_step(*_: Any) -> None:
        for name in before:
            layer = train_state.model.get_submodule(name)
            gradients[name] = [p.grad.double().flatten() for p in layer.parameters() if p.grad is not None]

    handle = train_state.optimizer.register_step_pre_hook(before_step)
    with recorder.recording():
        train_step(train_state, last, 1.0)
    handle.remove()
    values = recorder.statistics_by_tag(scale)
    for name, after in copy_weights(train_state.model).items():
        w, w0 = before[name], initial[name]
        values[f"weight_std/{name}"] = w.std(correction=0).item()
        values[f"weight_distance/{name}"] = ((w - w0).norm() / w0.norm()).item()
        values[f"update_ratio/{name}"] = ((after - w).norm() / w.norm()).item()
        values[f"parameter_gradient_norm/{name}"] = torch.cat(gradients[name]).norm().item() / scale
    return values


def observed_values(train_state: TrainState, observer: Observer, batches: list[Batch]) -> dict[str, float]:
    *first, last = batches
    for batch in first:
        train_step(train_state, batch, 1.0)
    set_learning_rate(train_state, 1.0)
    observed_update(train_state, observer, False, last)
    return dict(observer.collect().values)


def measured_values(model: nn.Module, images: Tensor, **changes: Any) -> dict[str, float]:
    """Return what the observer measures in one forward and backward pass of the mean output."""
    observer = observer_of(model, tuple(images.shape[1:]), **changes)
    with observer.observing_signals(ONE):
        model(images).mean().backward()
    return dict(observer.collect().values)


class Net(nn.Module):
    """x -> conv -> activation, the same two modules a second time, then a head. `inplace`: of the activation."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        z = self.conv(y)
        z += y
        return self.head(self.act(z).mean((2, 3)))


def images_for_net() -> Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
