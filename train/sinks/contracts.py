"""The data that a run emits and the protocol of its sinks. Does not import torch, rich or TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from train.store.metrics import Record

Level: TypeAlias = Literal["info", "warning", "error"]
Status: TypeAlias = Literal["done", "diverged", "interrupted", "failed"]


@dataclass(frozen=True)
class RunInfo:
    """Facts known before the first step. `name` lists what was chosen, such as `init=xavier norm=batch`."""

    folder: Path
    name: str
    device: str
    precision: str
    parameters: int
    flops_per_image: int
    total_steps: int
    steps_per_epoch: int
    epochs: float
    batch_size: int
    classes: int
    data: str
    train_size: int
    val_size: int
    test_size: int
    offsets: Mapping[str, int] | None = None
    """For a resumed run: file name -> bytes written before the checkpoint. None for a new run."""


@dataclass(frozen=True)
class Summary:
    """The results of a run. Accuracies are fractions; None means not measured. `reason` is empty if `status` says all."""

    status: Status
    reason: str
    folder: Path
    steps: int
    time_s: float
    parameters: int
    flops_per_image: int
    val_accuracy: float | None = None
    val_examples: int = 0
    test_accuracy: float | None = None
    test_examples: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    test_loss: float | None = None
    images_per_s: float | None = None
    """Training images per second, without the time of evaluation."""
    peak_memory_bytes: int | None = None
    memory_of: Literal["host", "device"] = "host"


TEXTS = {
    name: f"about/{number}_{name}" for number, name in enumerate(("verdict", "layers", "diagnosis", "command", "result"), start=1)
}
"""Tags of the texts about a run, which TensorBoard sorts, before its `config`."""


class Sink(Protocol):
    """Receives the calls of a run: `start`, then other methods in any order, then `finish` if the run gets there, then `close`.

    The methods here do nothing; a sink derives from this class and overrides those that it needs.
    """

    name: str = "sink"
    """The name of the sink in messages."""
    essential: bool = False
    """True: a failure of the sink ends the run. False: the sink is a view, and the run continues without it."""

    def start(self, info: RunInfo) -> None:
        """Prepare for a run that is about to start; `info.folder` exists."""

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Receive live progress for displays; it is never stored. It may be called every step, so the sink limits its own rate.

        `values`: what is available on the host, possibly empty.
        """

    def record(self, record: Record) -> None:
        """Store a row."""

    def image(self, tag: str, step: int, png: bytes) -> None:
        """Store a PNG image."""

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        """Store a histogram: `counts[i]` values lie between `edges[i]` and `edges[i + 1]`."""

    def text(self, tag: str, step: int, content: str) -> None:
        """Store a text that is found again: a verdict, a table."""

    def message(self, text: str, level: Level = "info") -> None:
        """Show a message to the user now."""

    def restore(self, record: Record) -> None:
        """Restore state from a row written before the run was resumed, without displaying it. Called after `start`."""

    def flush(self) -> None:
        """Give on what was kept back."""

    def sync(self) -> Mapping[str, int]:
        """Flush the sink's files in the run folder to disk and return their sizes, file name -> bytes.

        When the run is resumed, `start` receives these sizes as `info.offsets` and discards what was written beyond them.
        """
        return {}

    def finish(self, summary: Summary) -> None:
        """Store the results of a run that ended in an orderly way, with any status."""

    def close(self) -> None:
        """Release all resources (files, the cursor). May be called at any time, more than once."""
