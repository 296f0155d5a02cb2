"""How a run ended, in the words and numbers that are kept of it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import torch

from train.config import TrainerSettings
from train.errors import OutOfMemoryError, RunError
from train.parts.contracts import Shape
from train.run.checkpoint_files import list_checkpoints
from train.run.device import Placement
from train.run.loop import Score, TrainResult
from train.run.memory import is_out_of_memory, peak_bytes
from train.run.preflight import Cost
from train.run.resume import resume_command
from train.sinks.contracts import Summary
from train.sinks.jsonl import encode_float


def summarise(
    ending: TrainResult, test: Score | None, cost: Cost, batch_size: int, device: torch.device, folder: Path, began: float
) -> Summary:
    """What came out."""
    val = ending.val
    return Summary(
        status=ending.status,
        reason=ending.reason,
        folder=folder,
        steps=ending.steps,
        time_s=time.perf_counter() - began,
        parameters=cost.parameters,
        flops_per_image=cost.flops,
        val_accuracy=val.accuracy if val else None,
        val_examples=val.examples if val else 0,
        test_accuracy=test.accuracy if test else None,
        test_examples=test.examples if test else 0,
        train_loss=ending.train_loss,
        val_loss=val.loss if val else None,
        test_loss=test.loss if test else None,
        images_per_s=ending.steps * batch_size / ending.train_s if ending.steps and ending.train_s else None,
        peak_memory_bytes=peak_bytes(device),
        memory_of="device" if device.type == "cuda" else "host",
    )


def explain_error(error: BaseException, trainer: TrainerSettings, placement: Placement, input_shape: Shape) -> RunError | None:
    """What the user can do about an error of torch's, where there is something."""
    if isinstance(error, RunError):
        return error
    if is_out_of_memory(error):
        shape = "x".join(map(str, input_shape))
        asked = f"trainer.batch_size={trainer.batch_size} images of {shape} in {placement.precision}"
        remedy = "Less is needed with a smaller trainer.batch_size, model.width or image size, or trainer.precision=bfloat16."
        return OutOfMemoryError(f"{placement.device} has no memory left for {asked}. {remedy}")
    if "does not have a deterministic implementation" in str(error):
        said = str(error).split(".")[0]
        return RunError(f"{said}. Use trainer.deterministic=false to train with one that may differ from run to run.")
    return None


UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.EBADF}
)


def explain_unwritable(error: BaseException, folder: Path) -> RunError | None:
    """What the user can do when the run folder takes no more."""
    if not isinstance(error, OSError) or (error.errno not in UNWRITABLE and folder.is_dir()):
        return None
    if error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(folder):
        return None
    said = error.strerror or str(error)
    if not folder.is_dir():
        return RunError(f"{folder}: the folder of this run is gone ({said}), and what was recorded in it.")
    newest = next(iter(list_checkpoints(folder)), None)
    kept = f"its checkpoint of step {newest.step}" if newest else "its first step"
    return RunError(
        f"{folder} cannot be written ({said}). The run goes on from {kept} once that is mended: {resume_command(folder)}"
    )


def json_value(value: object) -> object:
    """JSON has no NaN: the losses of a diverged run become words, as in metrics.jsonl."""
    return encode_float(value) if isinstance(value, float) else value
