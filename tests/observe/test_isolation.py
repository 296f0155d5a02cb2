"""Observing leaves no trace in the model and does not wait for the device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.observe.reference import BASE, ONE, Net, SignalRecorder, images_for_net, observer_of, prepared
from tests.steps import train_step
from train.parts.isolation import backward_isolated, has_averages, isolated
from train.parts.model.trace import trace


def count_hooks(model: nn.Module) -> int:
    tensors = sum(len(parameter._backward_hooks or ()) for parameter in model.parameters())
    return tensors + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize("failure", ["forward", "backward", "none"])
def test_observing_signals_removes_its_hooks(failure: str) -> None:
    def fail(*_: Any) -> None:
        if failure != "none":
            raise ZeroDivisionError

    model, outputs = Net(False), list[Tensor]()
    observer = observer_of(model, (3, 6, 6))
    model.conv.register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    handle = model.head.register_forward_hook(fail) if failure == "forward" else model.head.weight.register_hook(fail)
    before = count_hooks(model)
    try:
        with observer.observing_signals(ONE), observer.observing_weights():
            assert count_hooks(model) > before
            model(images_for_net()).mean().backward()
    except ZeroDivisionError:
        assert not observer.collect().values, "an incomplete step is not recorded"
    else:
        assert failure == "none"
    assert count_hooks(model) == before
    assert [len(output._backward_hooks or ()) for output in outputs] == [0, 0]
    handle.remove()
    with observer.observing_signals(ONE):
        model(images_for_net()).mean().backward()
    assert "gradient_std/conv#2" in observer.collect().values


def stateful_model() -> nn.Sequential:
    """Return a model with running averages, dropout and one module whose mode differs from the others'."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(64, 2))
    model[4].eval()
    return model


def copy_state(model: nn.Module) -> list[Any]:
    gradients = [parameter.grad for parameter in model.parameters()]
    return [copy.deepcopy(model.state_dict()), torch.get_rng_state(), [m.training for m in model.modules()], gradients]


def are_equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(are_equal(a[key], b[key]) for key in a)
    return all(map(are_equal, a, b)) if isinstance(a, list) else a == b


def test_observe_probe_and_backward_isolated_leave_no_trace() -> None:
    model, images = stateful_model(), images_for_net()
    before = copy_state(model)
    observer = observer_of(model, (3, 6, 6), images)
    observer.observe_probe(torch.autocast("cpu", torch.bfloat16))
    with observer.observing_signals(ONE):
        backward_isolated(model, lambda: model(images).sum())
    with pytest.raises(RuntimeError), isolated(model, training=has_averages):
        model(images[..., :5])  # fails in the head, after norm and dropout have run
    assert are_equal(copy_state(model), before)
    values = observer.collect().values
    assert {"probe_similarity/0", "gradient_std/0", "parameter_gradient_norm/0"} <= values.keys()


def test_observe_probe_uses_batch_statistics_without_dropout() -> None:
    model, images = stateful_model(), images_for_net()
    state = model.state_dict()
    model.load_state_dict(state | {"1.running_var": torch.full_like(state["1.running_var"], 1e6)})
    recorder = SignalRecorder(model)
    observer = observer_of(model, (3, 6, 6), images)
    observer.observe_probe(torch.autocast("cpu", enabled=False))
    for module in model:
        module.train(not isinstance(module, nn.Dropout))
    with recorder.recording():
        model(images)
    reference = recorder.statistics_by_tag(1.0)
    values = observer.collect().values
    for layer, output in recorder.outputs.items():
        for name in ("mean", "std"):
            tag = f"activation_{name}/{layer}"
            assert values[f"probe_{tag}"] == pytest.approx(reference[tag], rel=1e-5, abs=1e-7)
        rows = output.double().flatten(1)
        cosines = torch.cosine_similarity(rows[:, None], rows[None], dim=2).triu(1)
        assert values[f"probe_similarity/{layer}"] == pytest.approx(cosines.sum().item() / 6, abs=1e-5)


def test_observer_copies_to_the_host_only_in_collect() -> None:
    """On a GPU each `.item()` would wait for the device: measuring reads no value, and `collect` reads one tensor."""

    class ReadCounter(TorchDispatchMode):
        items = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.items += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return func(*args, **(kwargs or {}))

    model, images = stateful_model(), images_for_net()
    observer = observer_of(model, (3, 6, 6), images)
    with ReadCounter() as reads:
        observer.observe_probe(torch.autocast("cpu", enabled=False))
        with observer.observing_signals(ONE, histograms=True), observer.observing_weights():
            model(images).sum().backward()
    assert reads.items == 0
    assert len(observer.collect().histograms) == 3


@pytest.mark.cuda
def test_observed_step_does_not_wait_for_the_gpu() -> None:
    setup, readers = prepared([*BASE, "trainer.device=cuda", "model.width=8", "observe=full"])
    train_state = setup.train_state(readers)
    calls = trace(train_state.model, setup.parts.input_shape)
    observer = setup.observer(train_state.model, calls, readers)
    batch = next(readers.train.epoch(0))
    scale = torch.ones((), device="cuda")
    train_step(train_state, batch, 1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        observer.observe_probe(train_state.placement.autocast())
        with observer.observing_signals(scale, histograms=True), observer.observing_weights():
            train_step(train_state, batch, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert observer.collect().histograms
