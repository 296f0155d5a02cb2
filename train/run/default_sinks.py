"""The sinks that a run can do without."""

from __future__ import annotations

import logging
import sys

from train.run.folder import RunFolder
from train.sinks.contracts import RunInfo, Sink
from train.sinks.hparams import HParamsRow
from train.sinks.lines import LineSink
from train.sinks.terminal import stream_sink

log = logging.getLogger("train")


class FailedSink(Sink):
    """Stands for a view that cannot be made, so that it is said as that of any other that fails."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name = name
        self._error = error

    def start(self, info: RunInfo) -> None:  # noqa: ARG002
        raise self._error


def default_sinks(folder: RunFolder, arm: HParamsRow | None) -> list[Sink]:
    """TensorBoard, the log and the terminal."""
    return [tensorboard(folder, arm), LineSink(log.info), stream_sink(sys.stdout)]


def tensorboard(folder: RunFolder, arm: HParamsRow | None) -> Sink:
    """Its import is part of what may fail."""
    try:
        from train.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink((folder.path / "config.yaml").read_text(encoding="utf-8"), arm)
    except Exception as error:
        return FailedSink("TensorBoard", error)
