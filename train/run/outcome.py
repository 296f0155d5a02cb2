"""The outcome of a run: its summary, and explanations of the errors that a user can fix."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import torch

from train.config import TrainerSettings
from train.errors import OutOfMemoryError, RunError
from train.parts.contracts import Shape
from train.run.checkpoint import newest_listed
from train.run.device import Placement, is_out_of_memory, peak_bytes
from train.run.loop import TrainResult
from train.run.preflight import Cost
from train.run.step import Score
from train.sinks.contracts import Summary
from train.store.metrics import encode_float


def summarise(
    result: TrainResult, test: Score | None, cost: Cost, batch_size: int, device: torch.device, folder: Path, started: float
) -> Summary:
    """Return the summary of a run. `started`: the value of `time.perf_counter` at its start."""
    val = result.val
    return Summary(
        status=result.status,
        reason=result.reason,
        folder=folder,
        steps=result.steps,
        time_s=time.perf_counter() - started,
        parameters=cost.parameters,
        flops_per_image=cost.flops,
        val_accuracy=val.accuracy if val else None,
        val_examples=val.examples if val else 0,
        test_accuracy=test.accuracy if test else None,
        test_examples=test.examples if test else 0,
        train_loss=result.train_loss,
        val_loss=val.loss if val else None,
        test_loss=test.loss if test else None,
        images_per_s=result.steps * batch_size / result.train_s if result.steps and result.train_s else None,
        peak_memory_bytes=peak_bytes(device),
        memory_of="device" if device.type == "cuda" else "host",
    )


def explain_error(error: BaseException, trainer: TrainerSettings, placement: Placement, input_shape: Shape) -> RunError | None:
    """Return a RunError that tells the user how to fix an error of torch's; None if the error is not a known one."""
    if isinstance(error, RunError):
        return error
    if is_out_of_memory(error):
        shape = "x".join(map(str, input_shape))
        load = f"trainer.batch_size={trainer.batch_size} images of {shape} in {placement.precision}"
        remedy = "Reduce trainer.batch_size, model.width or the image size, or set trainer.precision=bfloat16."
        return OutOfMemoryError(f"{placement.device} has no memory left for {load}. {remedy}")
    if "does not have a deterministic implementation" in str(error):
        message = str(error).split(".")[0]
        return RunError(f"{message}. Set trainer.deterministic=false to allow one whose results may differ from run to run.")
    return None


UNWRITABLE = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.EBADF),
        *(errno.ELOOP, errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
    }
)
"""Error numbers of a file system that accepts no writes, and of what has taken the place of a file."""


def explain_unwritable(error: BaseException, folder: Path, command: str) -> RunError | None:
    """Return a RunError that tells the user how to resume when the run folder cannot be written; None for other errors.

    `command` resumes the run.
    """
    if not isinstance(error, OSError) or (error.errno not in UNWRITABLE and folder.is_dir()):
        return None
    if error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(folder):
        return None
    cause = error.strerror or str(error)
    if not folder.is_dir():
        return RunError(f"{folder}: this run folder no longer exists ({cause}). Its records are lost.")
    newest = newest_listed(folder)
    start = f"its checkpoint of step {newest.step}" if newest else "step 0"
    return RunError(f"{folder} cannot be written ({cause}). The run resumes from {start} once this is fixed: {command}")


def json_value(value: object) -> object:
    """Return a value that JSON can hold: NaN and infinity become strings, as in metrics.jsonl."""
    return encode_float(value) if isinstance(value, float) else value
