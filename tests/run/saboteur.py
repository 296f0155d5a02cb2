"""A norm that sends its own process a signal at a chosen forward pass: the only way to hit a chosen moment of a real run.

The environment variable SABOTAGE holds phase, number and fault, as in `train:7:SIGTERM`: at the 7th forward pass of a train step
(`train`), of an evaluation of the validation or test split (`evaluate`), of the probe (`probe`) or of the recorded forward pass
before the first step (`trace`), counted from 1 since `reset`.
Other faults: `nan` makes the layer's output NaN, `nan_gradient` its gradient, `nan_weight` its weight; `exhaust` requests more
memory than there is.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

calls: Counter[str] = Counter()
counting: list[Saboteur] = []


def reset() -> None:
    """Reset the counts; the next model is the one that counts."""
    calls.clear()
    counting.clear()


class Saboteur(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        on_meta = input.device.type == "meta"
        if "SABOTAGE" not in os.environ or (on_meta and self.training):  # in training mode there: the pre-flight check
            return output
        counting.append(self) if not counting else None
        if counting[0] is not self:
            return output
        phase = "train" if torch.is_grad_enabled() else "probe" if self.training else "trace" if on_meta else "evaluate"
        calls[phase] += 1
        target_phase, number, fault = os.environ["SABOTAGE"].split(":")
        if (phase, calls[phase]) == (target_phase, int(number)):
            return self.inject(output, fault)
        return output

    def break_weight(self) -> None:
        self.weight.data.fill_(float("nan"))

    def inject(self, output: Tensor, fault: str) -> Tensor:
        if fault == "nan":
            return output * float("nan")
        if fault == "nan_gradient":
            output.register_hook(lambda gradient: gradient * float("nan"))
        elif fault == "exhaust":
            torch.empty(1 << 50)
        elif fault == "nan_weight":
            output.register_hook(lambda _: self.break_weight())
        else:
            os.kill(os.getpid(), signal.Signals[fault])
        return output


def norm() -> Callable[[int], nn.Module]:
    """Return the factory of a sabotaged batch norm; only the first such layer of the model counts."""
    return Saboteur
