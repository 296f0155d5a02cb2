"""Observing leaves nothing behind, and does not wait for the device."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.observe.reference import BASE, ONE, Kept, Net, images_for_net, prepared, settings
from train.observe.isolation import backward_isolated, isolated
from train.observe.observer import Observer
from train.run.step import train_step


def attached(model: nn.Module) -> int:
    tensors = sum(len(parameter._backward_hooks or ()) for parameter in model.parameters())
    return tensors + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize("where", ["forward", "backward", "nowhere"])
def test_hooks_are_gone_however_the_step_ends(where: str) -> None:
    def fail(*_: Any) -> None:
        if where != "nowhere":
            raise ZeroDivisionError

    model, outputs = Net(False), list[Tensor]()
    observer = Observer(model, settings(), (3, 6, 6))
    model.conv.register_forward_hook(lambda *given: outputs.append(given[2]))
    handle = model.head.register_forward_hook(fail) if where == "forward" else model.head.weight.register_hook(fail)
    before = attached(model)
    try:
        with observer.observing_signals(ONE), observer.observing_weights():
            assert attached(model) > before
            model(images_for_net()).mean().backward()
    except ZeroDivisionError:
        assert not observer.collect().values, "half a step is not recorded"
    else:
        assert where == "nowhere"
    assert attached(model) == before
    assert [len(output._backward_hooks or ()) for output in outputs] == [0, 0]
    handle.remove()
    with observer.observing_signals(ONE):
        model(images_for_net()).mean().backward()
    assert "gradient_std/conv#2" in observer.collect().values


def with_everything() -> nn.Sequential:
    """Two things to disturb, running averages and the random state, and a module whose mode is not that of the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(64, 2))
    model[4].eval()
    return model


def state_of(model: nn.Module) -> list[Any]:
    gradients = [parameter.grad for parameter in model.parameters()]
    return [copy.deepcopy(model.state_dict()), torch.get_rng_state(), [m.training for m in model.modules()], gradients]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    return all(map(same, a, b)) if isinstance(a, list) else a == b


def test_looking_at_the_probe_and_differentiating_apart_leave_no_trace() -> None:
    model, images = with_everything(), images_for_net()
    before = state_of(model)
    observer = Observer(model, settings(), (3, 6, 6), images)
    observer.observe_probe(torch.autocast("cpu", torch.bfloat16))
    with observer.observing_signals(ONE):
        backward_isolated(model, lambda: model(images).sum())
    with pytest.raises(RuntimeError), isolated(model, batch_statistics=True):
        model(images[..., :5])  # the head does not fit: norm and dropout have done their work by then
    assert same(state_of(model), before)
    values = observer.collect().values
    assert {"probe_similarity/0", "gradient_std/0", "parameter_gradient_norm/0"} <= values.keys()


def test_the_probe_is_seen_through_the_norms_of_training_without_dropout() -> None:
    model, images = with_everything(), images_for_net()
    state = model.state_dict()
    model.load_state_dict(state | {"1.running_var": torch.full_like(state["1.running_var"], 1e6)})
    kept = Kept(model)
    observer = Observer(model, settings(), (3, 6, 6), images)
    observer.observe_probe(torch.autocast("cpu", enabled=False))
    for module in model:
        module.train(not isinstance(module, nn.Dropout))
    with kept.keeping():
        model(images)
    twin = kept.signals(1.0)
    values = observer.collect().values
    for layer, output in kept.outputs.items():
        for name in ("mean", "std"):
            tag = f"activation_{name}/{layer}"
            assert values[f"probe_{tag}"] == pytest.approx(twin[tag], rel=1e-5, abs=1e-7)
        rows = output.double().flatten(1)
        cosines = torch.cosine_similarity(rows[:, None], rows[None], dim=2).triu(1)
        assert values[f"probe_similarity/{layer}"] == pytest.approx(cosines.sum().item() / 6, abs=1e-5)


def test_the_numbers_reach_the_host_together() -> None:
    """On a GPU each `.item()` would wait for it: measuring asks for no value, and collecting reads one tensor."""

    class Reads(TorchDispatchMode):
        items = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.items += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return func(*args, **(kwargs or {}))

    model, images = with_everything(), images_for_net()
    observer = Observer(model, settings(), (3, 6, 6), images)
    with Reads() as reads:
        observer.observe_probe(torch.autocast("cpu", enabled=False))
        with observer.observing_signals(ONE, histograms=True), observer.observing_weights():
            model(images).sum().backward()
    assert reads.items == 0
    assert len(observer.collect().histograms) == 3


@pytest.mark.cuda
def test_a_watched_step_does_not_wait_for_the_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    session, readers = prepared(tmp_path / "run", [*BASE, "trainer.device=cuda", "model.width=8", "observe=full"])
    train_state = session.train_state(readers)
    observer = session.observer(train_state.model, readers)
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
