"""The recorded forward pass: which calls it has, and that it leaves no trace, on the meta device or not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.parts.kinds import is_norm
from train.parts.model.trace import Call, layers_before, recording, trace

SHAPE = (3, 5, 5)


class Odd(nn.Module):
    """Calls a module twice, one by keyword and one that gets no tensor, draws, and counts its calls in a buffer.

    `reads_values`: the forward depends on a value, which the meta device does not have.
    """

    def __init__(self, reads_values: bool) -> None:
        super().__init__()
        self.reads_values = reads_values
        self.conv, self.act, self.norm, self.options = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(3), Options()
        self.register_buffer("count", torch.zeros(1))
        self.conv.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        if self.reads_values and x.sum() > 1:
            return x
        x = self.norm(self.act(self.conv(F.dropout(x))))
        return self.act(input=self.conv(x)) * self.options({"scale": 2})


class Options(nn.Module):
    def forward(self, options: dict[str, float]) -> float:
        return options["scale"]


def state_of(model: nn.Module) -> list[Any]:
    modes = [module.training for module in model.modules()]
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return [modes, gradients, hooks, torch.get_rng_state().tolist()]


@pytest.mark.parametrize("reads_values", [False, True])
def test_trace_lists_every_call_and_leaves_no_trace(reads_values: bool) -> None:
    model = Odd(reads_values)
    model.norm.eval()
    before, tensors = state_of(model), copy.deepcopy(model.state_dict())
    calls = trace(model, SHAPE)
    assert [(call.name, call.number) for call in calls] == [
        *(("conv", 0), ("act", 0), ("norm", 0), ("conv", 1), ("act", 1), ("options", 0), ("", 0))
    ]
    assert calls[-1].output.device.type == ("cpu" if reads_values else "meta")
    assert calls[0].output is calls[1].output, "the activation works in place"
    assert calls[0].output_version < calls[1].output_version == calls[2].input_version
    assert calls[4].input is None
    assert calls[5].output == 2
    assert [call.returned_before for call in calls] == [0, 1, 2, 3, 4, 5, 0]
    assert state_of(model) == before
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_trace_raises_the_error_of_a_model_that_cannot_run() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1))
    before = state_of(model)
    with pytest.raises(RuntimeError, match="expected input"):
        trace(model, SHAPE)
    assert state_of(model) == before


def test_recording_survives_an_error_that_the_model_catches() -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong, self.right = nn.Linear(2, 1), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.wrong(x)
            except RuntimeError:
                return self.right(x)

    model = Catches()
    with recording(model) as record:
        model(torch.zeros(2, 5))
    assert [(call.name, call.input_shape) for call in record.returned] == [("right", (2, 5)), ("", (2, 5))]


def test_recording_names_the_calls_that_run_when_an_error_occurs() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(RuntimeError), recording(model) as record:
        model(torch.zeros(2, 5))
    assert [call.name for call in record.running] == ["", "1", "1.0"]


def names_before(calls: list[Call], model: nn.Module) -> set[str]:
    return {call.name for call in layers_before(calls, [module for module in model.modules() if is_norm(module)])}


def test_layers_before_norms_are_read_whole() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :4]

    layers = [nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), Half(), nn.BatchNorm2d(4)]
    model = nn.Sequential(*layers, nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8))
    assert names_before(trace(model, SHAPE), model) == {"6"}


def test_layers_before_norms_may_be_permuted() -> None:
    class Permute(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.movedim(1, -1)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Permute(), nn.LayerNorm(8), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    assert names_before(trace(model, SHAPE), model) == {"0", "3"}
