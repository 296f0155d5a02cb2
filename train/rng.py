"""Randomness as a value: every draw is a function of (seed, role, indices) and of nothing else.

There is no generator that lives through a run, so that resuming needs no replay, the number of workers cannot matter and
observing cannot disturb training.
"""

from __future__ import annotations

import hashlib

import torch

ROLES = ("init", "order", "augment", "dropout", "split")


def derive(seed: int, role: str, *indices: int) -> int:
    """A seed in [0, 2**63) for one draw, from a run's `seed`, the draw's `role` and its place (epoch, step or index)."""
    text = "/".join([str(seed), role, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, role: str, *indices: int) -> torch.Generator:
    """A CPU generator for one draw. Drawing on the CPU gives every device the same choices."""
    return torch.Generator().manual_seed(derive(seed, role, *indices))


def seed_device(device: torch.device, seed: int) -> None:
    """Set the state from which layers such as dropout draw on `device`: the one generator that torch does not let us pass.

    Not `torch.manual_seed`, which formats a stack trace at every call where a GPU could be but is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
