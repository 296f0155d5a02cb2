"""An estimate of the GPU memory that a run needs, from shapes alone: nothing is allocated, and no device is asked.

It decides how many runs of a sweep share a GPU. Too much costs speed, too little costs a run, so everything is rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from train.data.contracts import Arrays, Splits
from train.data.readers import EVALUATION_FACTOR
from train.run.build import Parts

CONTEXT_BYTES = 2**30
"""What a process takes besides torch's tensors: CUDA's context, the code of the kernels, and the workspaces of cuBLAS and cuDNN,
which depend on GPU and driver. An assumption: contexts of half of this are usual, and cuBLAS takes 32 MiB."""

MARGIN = 2.0
"""The factor on what a training allocates. The estimate leaves out copies of autocast, the statistics of an observed step, blocks
that torch keeps for reuse, and the second set of activations that a step captured for observation may hold."""

LIVE_TENSORS = 3
"""Tensors of the largest size that a layer needs at a time, besides what is saved: its input, its output and a shortcut, or their
gradients."""


@dataclass(frozen=True)
class TrainingMemory:
    """The memory of one training in bytes, without its data.

    `weights`: parameters and buffers; `optimizer`: its state; `activations`: what autograd saves of one batch for the backward
    pass; `largest`: the largest tensor of one batch.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    largest: int

    @property
    def peak(self) -> int:
        """The bytes held at most: what stays, and a backward pass and an evaluation, which hold theirs together if both are
        captured as graphs; or an update."""
        step = self.activations + LIVE_TENSORS * self.largest
        evaluation = EVALUATION_FACTOR * LIVE_TENSORS * self.largest
        update = self.gradients  # as many temporary tensors
        return self.weights + self.gradients + self.optimizer + max(step + evaluation, update)


def needed_bytes(parts: Parts, batch_size: int, data_bytes: int) -> int:
    """Return the GPU memory in bytes that a run needs, with its margin. `data_bytes`: of the images that move to the device."""
    return CONTEXT_BYTES + data_bytes + int(MARGIN * training_memory(parts, batch_size).peak)


def data_bytes(splits: Splits) -> int:
    """Return the bytes of all images and labels that a reader may keep on the device; files are decoded batch by batch."""
    arrays = [split for split in (splits.train, splits.val, splits.test) if isinstance(split, Arrays)]
    return sum(split.images.nbytes + split.labels.nbytes for split in arrays)


def training_memory(parts: Parts, batch_size: int) -> TrainingMemory:
    """Return the memory of a training in float32, measured by a forward pass and an update on meta tensors.

    Raises what the model raises: call it after `check_model`.
    """
    with torch.device("meta"):
        model = parts.new_model().train()
        images = torch.empty(batch_size, *parts.input_shape)
    tensors = [*model.parameters(), *model.buffers()]
    saved = saved_bytes(model, images)
    return TrainingMemory(
        weights=(1 + bool(parts.regularization.averaging) + bool(parts.regularization.second_pass))
        * sum(tensor.nbytes for tensor in tensors),
        gradients=sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad),
        optimizer=optimizer_bytes(parts, model),
        activations=sum(saved),
        largest=max(images.nbytes, *saved),
    )


def saved_bytes(model: nn.Module, images: Tensor) -> list[int]:
    """Return the sizes of what autograd saves in a forward pass, one per block of memory, without parameters and buffers."""
    known = {_block(tensor) for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}  # holds them, so that no address is used twice

    def note(tensor: Tensor) -> None:
        if _block(tensor) not in known:
            saved[_block(tensor)] = tensor.untyped_storage()

    with torch.enable_grad(), saved_tensors_hooks(note, lambda _: images):
        model(images)
    return [storage.nbytes() for storage in saved.values()]


def optimizer_bytes(parts: Parts, model: nn.Module) -> int:
    """Return the bytes of the optimizer's state after a step."""
    optimizer = parts.new_optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def _block(tensor: Tensor) -> int:
    """Return what identifies the memory of a tensor, which its views share."""
    return tensor.untyped_storage()._cdata
