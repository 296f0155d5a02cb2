"""What `torch.save` wrote, read as data. Imports torch only to decode."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

from train.store.plain import MAX_BITS, MAX_DEPTH

if TYPE_CHECKING:
    from torch import Tensor

MOST_VIEWS = 4
"""How often the data of a file may be shown by its tensors: weights that layers share are stored once."""


def decode_tensors(content: bytes) -> Any:
    """Return what `torch.save` wrote, on the CPU, without executing anything in it.

    A stranger's file may make it raise any kind of Exception.
    """
    import torch

    _refuse_compressed(content)
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    _refuse_more_than_it_holds(loaded, len(content))
    return loaded


def most_bytes() -> int:
    """Return the largest file that can be decoded: its content and its tensors are in memory at once."""
    import psutil  # here, as only those who load need it

    return psutil.virtual_memory().available // 2


def _refuse_compressed(content: bytes) -> None:
    """Raise ValueError if the content is no archive, or one that becomes larger than it is: torch compresses nothing."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > len(content):
        raise ValueError("compressed")


def _refuse_more_than_it_holds(loaded: Any, size: int) -> None:
    """Raise ValueError for values that are in each other, again and again, or too deeply, and for tensors larger than their data.

    `size`: of the file. What walks through the values afterwards takes time and memory in proportion to it.
    """
    from torch import Tensor

    pending, values, of_tensors = [(loaded, 1)], 0, 0
    while pending:
        value, depth = pending.pop()
        inner = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
        values += len(inner)
        of_tensors += _bytes(value) if isinstance(value, Tensor) else 0
        if values > size or of_tensors > MOST_VIEWS * size or depth > MAX_DEPTH:
            raise ValueError("its values say more than it holds")
        if isinstance(value, dict) and not all(type(key) in (str, int) for key in value):
            raise ValueError("it has a key that is neither text nor a number")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ValueError("it holds a number that is too long")
        pending += [(part, depth + 1) for part in inner]


def _bytes(tensor: Tensor) -> int:
    """Return the size of a copy of the tensor. ValueError unless its data are on this machine, as numbers in an array."""
    import torch

    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"it holds a tensor on {tensor.device}, or with the layout {tensor.layout}")
    return tensor.numel() * tensor.element_size()
