"""The state of an optimizer from a checkpoint, which may be a stranger's, as one that the present optimizer can use.

Fused kernels read and write as many numbers as the parameter has, whatever the shape of the state: a wrong one would be another
part of the memory. So shapes and order in memory are those of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fitting(optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored state dict that the optimizer can load. ValueError where it does not fit its groups or parameters."""
    groups, present = stored["param_groups"], optimizer.state_dict()["param_groups"]
    refuse_unlike(groups, present)
    if [group["params"] for group in groups] != [group["params"] for group in present]:
        raise ValueError("its groups are of other parameters")
    parameters = {
        number: (parameter, bool(group.get("fused")))
        for saved, group in zip(present, optimizer.param_groups, strict=True)
        for number, parameter in zip(saved["params"], group["params"], strict=True)
    }
    if unknown := stored["state"].keys() - parameters.keys():
        raise ValueError(f"it has a state of the parameter {min(unknown)}, which is none of the optimizer's")
    state = {
        number: {name: _laid_out(name, value, *parameters[number]) for name, value in entry.items()}
        for number, entry in stored["state"].items()
    }
    return {**stored, "state": state}


def _laid_out(name: str, value: Any, parameter: Tensor, is_fused: bool) -> Any:
    """Return a value of a parameter's state, as it is where no fused kernel uses it."""
    if not is_fused:
        return value
    shape = () if name == "step" else parameter.shape
    if not isinstance(value, Tensor) or value.shape != shape:
        raise ValueError(f"{name} should be a tensor {list(shape)}")
    if value.stride() == parameter.stride() or name == "step":
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def refuse_unlike(stored: Any, present: Any) -> None:
    """Raise ValueError where a stored value is of another kind than the present one, in mappings under the keys of both.

    Kinds are those of plain values; a tensor has its shape and type. Null, stored or present, stands for any value.
    """
    if isinstance(stored, dict) and isinstance(present, dict):
        for key in stored.keys() & present.keys():
            refuse_unlike(stored[key], present[key])
    elif isinstance(stored, list | tuple) and isinstance(present, list | tuple) and len(stored) == len(present):
        for pair in zip(stored, present, strict=True):
            refuse_unlike(*pair)
    elif stored is not None and present is not None and _kind(stored) != _kind(present):
        raise ValueError(f"{_kind(stored)} in the place of {_kind(present)}")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    return "a number" if isinstance(value, int | float) and not isinstance(value, bool) else f"a {type(value).__name__}"
