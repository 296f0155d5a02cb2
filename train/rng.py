"""Randomness as a value: every draw is a function of (seed, role, indices) and of nothing else.

No generator keeps a state during a run. So resuming repeats no draws, the number of workers has no influence, and observing
cannot disturb training.
"""

from __future__ import annotations

import hashlib

import torch

ROLES = ("init", "order", "augment", "dropout", "split")


def derive(seed: int, role: str, *indices: int) -> int:
    """Return a seed in [0, 2**63) for one draw, from a run's `seed`, the draw's `role` and its indices (epoch, step, ...)."""
    text = "/".join([str(seed), role, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, role: str, *indices: int) -> torch.Generator:
    """Return a CPU generator for one draw. Drawing on the CPU gives the same values for every device."""
    return torch.Generator().manual_seed(derive(seed, role, *indices))


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the global generator of `device`, from which layers such as dropout draw: torch accepts no generator for them.

    `torch.manual_seed` would format a stack trace at every call on machines with an unused GPU.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
