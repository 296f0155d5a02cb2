"""The content of a checkpoint, checked before anything is done with it.

The checksum in its name proves nothing: a stranger can compute it, too. What depends on the run, as the shapes of tensors, is
checked where it is loaded (`train/run/resume.py: restore_run`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from train.run.tensor_file import decode_tensors
from train.store.kinds import FLAG, MAPPING, TEXT, WHOLE, Kind, checked, list_of, mapping_of


def _scalar(*dtypes: torch.dtype) -> Kind:
    return Kind(
        f"one number as a tensor of {' or '.join(map(str, dtypes))}",
        lambda value: isinstance(value, Tensor) and value.ndim == 0 and value.dtype in dtypes,
    )


def _fields(**kinds: Kind) -> Kind:
    """Return the kind of a mapping with these fields alone."""

    def holds(value: Any) -> bool:
        return isinstance(value, dict) and value.keys() == kinds.keys() and all(k.holds(value[key]) for key, k in kinds.items())

    return Kind(f"a mapping with {', '.join(kinds)}", holds)


def _is_of_parameter(entry: tuple[Any, Any]) -> bool:
    return type(entry[0]) is int and MAPPING.holds(entry[1])


NUMBER = Kind("a number", lambda value: isinstance(value, float))
"""Also one that is not finite, as a loss may be."""
SECONDS = Kind("a number of seconds", lambda value: isinstance(value, float) and 0 <= value < math.inf)
_OPTIMIZER = _fields(
    state=Kind("a mapping", lambda value: isinstance(value, dict) and all(map(_is_of_parameter, value.items()))),
    param_groups=list_of(MAPPING),
)
_SCALER = mapping_of(Kind("a number", lambda value: isinstance(value, int | float)))
_SCORE = _fields(loss=NUMBER, accuracy=NUMBER, examples=WHOLE)
_TENSORS = list_of(Kind("a tensor", lambda value: isinstance(value, Tensor)))
_MOMENTS = Kind(
    "a mapping with taken, steps, averages, counts",
    lambda value: MAPPING.holds(value) and WHOLE.holds(value.get("taken")) and list_of(WHOLE).holds(value.get("steps")),
)

_LOOP = {
    "model": MAPPING,
    "optimizer": _OPTIMIZER,
    "scaler": _SCALER,
    "losses": list_of(_scalar(torch.float32)),
    "correct": list_of(_scalar(torch.int64, torch.float32)),
    "moments": _MOMENTS,
    "train_loss": NUMBER,
    "val": _SCORE,
    "best": _fields(step=WHOLE, score=_SCORE),
    "train_s": SECONDS,
    "bookmark": _fields(step=WHOLE, model=_TENSORS, optimizer=_OPTIMIZER, scaler=_SCALER),
    "steps": WHOLE,
    "looked": FLAG,
    "average": MAPPING,
}
"""The fields of `Loop.state`."""
_ABSENT = frozenset({"train_loss", "val", "best", "bookmark"})
"""Those that are null before there is such a thing."""
_OF_SOME = frozenset({"average"})
"""Those that some runs have."""

_CONTENT = {
    "format": WHOLE,
    "experiment": TEXT,
    "first_batch": TEXT,
    "elapsed_s": SECONDS,
    "files": mapping_of(Kind("a number of bytes", lambda value: WHOLE.holds(value) and value >= 0)),
    "loop": MAPPING,
}


def load_content(content: bytes, step: int, known_format: int) -> dict[str, Any]:
    """Return what the bytes of the checkpoint of `step` hold, without executing anything in it. Any exception if it is none.

    Of a format that is not `known_format`, nothing else is checked.
    """
    loaded = decode_tensors(content)
    checked(loaded, {"format": WHOLE}, "it", ("format",))
    if loaded["format"] == known_format:
        checked(loaded, _CONTENT, "it", tuple(_CONTENT))
        loop = checked(loaded["loop"], _LOOP, "its state", tuple(_LOOP.keys() - _ABSENT - _OF_SOME))
        if loop["steps"] != step or (loop.get("bookmark") and not 0 <= loop["bookmark"]["step"] <= step):
            raise ValueError("it is of another step")
        if missing := [key for key in _LOOP if key not in loop and key not in _OF_SOME]:
            raise ValueError(f"its state has no {missing[0]!r}")
    return loaded
