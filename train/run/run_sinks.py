"""The sinks of a run. If a view (TensorBoard, the log, the terminal) fails, the run continues without it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import torch

from train.command import train_command
from train.sinks.broadcast import BroadcastSink
from train.sinks.contracts import RunInfo, Sink
from train.sinks.delayed import DelayedSink
from train.sinks.heatmap import HeatMapSink
from train.sinks.hparams import HParamsRow
from train.sinks.jsonl import JsonlSink
from train.sinks.lines import LineSink, stream_sink
from train.store.files import CONFIG_FILE
from train.store.inside import Folder
from train.store.run import read_run
from train.store.run_folder import RunFolder
from train.store.stored import SMALL_FILE

log = logging.getLogger("train")


class FailedSink(Sink):
    """A sink that could not be created. It raises the error when it starts, so that it is reported like any failing sink."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name = name
        self._error = error

    def start(self, info: RunInfo) -> None:  # noqa: ARG002
        raise self._error


def run_sinks(folder: RunFolder, arm: HParamsRow | None) -> tuple[Sink, Sink]:
    """Return a sink for all records of a run, and its views alone, to which what is made of the records goes."""
    views = BroadcastSink(default_views(folder, arm))
    return BroadcastSink([JsonlSink(), views, HeatMapSink(views)]), views


def delayed(sinks: Sequence[Sink], device: torch.device) -> Sink:
    """Return one sink of several, which writes later where the device computes meanwhile: on a GPU."""
    sink = BroadcastSink(sinks)
    return DelayedSink(sink) if device.type == "cuda" else sink


def default_views(folder: RunFolder, arm: HParamsRow | None) -> list[Sink]:
    """Return the sinks for TensorBoard, the log and the terminal."""
    return [tensorboard(folder, arm), LineSink(log.info), stream_sink(sys.stdout)]


def tensorboard(folder: RunFolder, arm: HParamsRow | None) -> Sink:
    """Return the TensorBoard sink, or a `FailedSink` if it cannot be imported or created."""
    try:
        from train.sinks.tensorboard import TensorBoardSink

        config = Folder(folder.path).read(CONFIG_FILE, SMALL_FILE).decode()
        return TensorBoardSink(config, arm, command=train_command(read_run(folder.path).overrides))
    except Exception as error:
        return FailedSink("TensorBoard", error)
