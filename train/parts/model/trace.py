"""Record the calls of modules in one forward pass of a model: what runs, in which order, and what reads what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from train.parts.contracts import Shape
from train.parts.isolation import isolated
from train.parts.kinds import Layer

TRACED_IMAGES = 2


@dataclass(eq=False)
class Call:
    """One call of `module`, whose name in the model is `name`. Versions are torch's counts of in-place changes.

    `inputs`: the positional arguments; `input_shape`, `input_version`: of the first, when the call began. `returned_before`: how
    many calls, of any module, had returned then. `output_version`: of the output when it was returned. `number`: how many calls
    of the same module had returned before.
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    input_shape: tuple[int, ...]
    input_version: int
    returned_before: int
    output: Any = None
    output_version: int = 0
    number: int = 0

    @property
    def input(self) -> Any:
        """The first positional argument; None if there is none."""
        return self.inputs[0] if self.inputs else None


@dataclass
class Recording:
    """The calls of a forward pass. `returned`: in the order in which they returned; `running`: the others, innermost last."""

    returned: list[Call] = field(default_factory=list)
    running: list[Call] = field(default_factory=list)
    _counts: Counter[nn.Module] = field(default_factory=Counter)

    def begin(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0] if inputs else None
        shape = tuple(first.shape) if isinstance(first, Tensor) else ()
        self.running.append(Call(name, module, inputs, shape, _version(first), len(self.returned)))

    def end(self, module: nn.Module, output: Any) -> None:
        call = self.running.pop()
        while call.module is not module:  # the model caught an error of that call
            call = self.running.pop()
        call.output, call.output_version, call.number = output, _version(output), self._counts[module]
        self._counts[module] += 1
        self.returned.append(call)


@contextmanager
def recording(model: nn.Module) -> Iterator[Recording]:
    """Record the calls of all modules of `model` inside the context; a module with several names has its first."""
    record = Recording()
    with ExitStack() as stack:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(lambda module, inputs, name=name: record.begin(name, module, inputs))
            after = module.register_forward_hook(lambda module, _, output: record.end(module, output))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield record


def trace(model: nn.Module, shape: Shape) -> list[Call]:
    """Return the calls of all modules on two black images of `shape`, in the order in which they return; the model's own is last.

    In evaluation mode, so that no random choice decides what is seen, and dropout passes its input on as it is. On the meta
    device, which computes shapes and no numbers; a model that cannot run there runs on its own. It and the random state stay
    unchanged.
    """
    with isolated(model), torch.no_grad():
        weights = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        try:
            with recording(model) as record:
                torch.func.functional_call(model, weights, (torch.zeros(TRACED_IMAGES, *shape, device="meta"),))
        except (RuntimeError, ValueError, TypeError):  # as when the model looks at a value, or holds a tensor that is no buffer
            device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
            with recording(model) as record:
                model(torch.zeros(TRACED_IMAGES, *shape, device=device))
    return record.returned


def layers_before(calls: Sequence[Call], norms: Collection[nn.Module]) -> set[Call]:
    """Return the calls of layers whose whole output, as it is or permuted, is the input of one of `norms`."""
    found: set[Call] = set()
    for norm in (call for call in calls if call.module in norms):
        layer = _source(norm.input, calls[: norm.returned_before])
        if layer and layer.output_version == norm.input_version and base(layer.output).numel() == norm.input.numel():
            found.add(layer)
    return found


def _source(x: Any, calls: Sequence[Call]) -> Call | None:
    """Return the last call of a layer that returned `x` or what `x` is a view of."""
    return next((call for call in reversed(calls) if isinstance(call.module, Layer) and base(call.output) is base(x)), None)


def base(x: Any) -> Any:
    """Return the tensor that `x` is a view of, or `x`; a linear layer on more than two dimensions returns a view."""
    return x if getattr(x, "_base", None) is None else x._base


def _version(x: Any) -> int:
    return x._version if isinstance(x, Tensor) else 0


class ReluCalls(TorchFunctionMode):
    """A count of the calls of F.relu in its context, those by nn.ReLU included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += func is F.relu
        return func(*args, **(kwargs or {}))
