"""What a run tells the outside, and what a sink does with it. Starts without torch, rich and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

Level: TypeAlias = Literal["info", "warning", "error"]
Status: TypeAlias = Literal["done", "diverged", "interrupted", "failed"]


@dataclass(frozen=True)
class Record:
    """One row of the run's history, on the host.

    `step`: updates done; `epoch`: passes over the training images, with their fraction; `time_s`: since the run began.
    `values`: TensorBoard tag -> number: `loss/train`, `accuracy/val` (a fraction), `lr`, `activation_std/<layer>`, ...
    NaN and infinities are values like any other.
    """

    step: int
    epoch: float
    time_s: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class RunInfo:
    """What is known before the first step. `name` says in words what was chosen, such as `init=xavier norm=batch`."""

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
    data: str
    train_size: int
    val_size: int
    test_size: int
    offsets: Mapping[str, int] | None = None
    """Of a run that is gone on with: file name -> how many of its bytes are of the time before. None for a new run."""


@dataclass(frozen=True)
class Summary:
    """What came out. Accuracies are fractions; None is what was not measured. `reason` is empty when `status` says all."""

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
    """Training images per second, evaluation not counted."""
    peak_memory_bytes: int | None = None
    memory_of: Literal["host", "device"] = "host"


class Sink(Protocol):
    """Receives a run: `start`, then any of the others in any order, then `finish` where the run came that far, then `close`.

    The methods here do nothing; a sink derives from this class and overrides what concerns it.
    """

    name: str = "sink"
    """What a message calls it."""
    essential: bool = False
    """True: its failure ends the run. False: it is a view, and the run goes on without it."""

    def start(self, info: RunInfo) -> None:
        """The run is about to begin; `info.folder` exists."""

    def progress(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """A sign of life for who is watching; kept by nobody. Cheap enough for every step: the sink limits its own rate.

        `values` holds what is at hand on the host, and may be empty.
        """

    def record(self, record: Record) -> None:
        """A row that is to be kept."""

    def image(self, tag: str, step: int, png: bytes) -> None:
        """A picture, PNG-encoded."""

    def histogram(self, tag: str, step: int, edges: Sequence[float], counts: Sequence[float]) -> None:
        """How values are distributed: `counts[i]` of them lie between `edges[i]` and `edges[i + 1]`."""

    def message(self, text: str, level: Level = "info") -> None:
        """Something that the user should read now."""

    def replay(self, record: Record) -> None:
        """A row of the time before the run was interrupted, for what the sink must know of it; after `start`, not shown."""

    def sync(self) -> Mapping[str, int]:
        """How far its files in the run folder are: name -> bytes, all of them on the disk. A later `start` may be told these
        numbers as `info.kept`, and forgets what lies beyond them."""
        return {}

    def finish(self, summary: Summary) -> None:
        """The run ended in an orderly way, well or badly."""

    def close(self) -> None:
        """Give everything back (files, the cursor). May be called at any time, more than once."""
