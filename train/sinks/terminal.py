"""Choice of the sink that displays a run on an output stream."""

from __future__ import annotations

import os
from typing import TextIO

from train.sinks.contracts import Sink
from train.sinks.lines import LineSink, line_writer


def stream_sink(stream: TextIO) -> Sink:
    """Return the live view if `stream` is a terminal that can move its cursor, plain lines otherwise."""
    if not stream.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return LineSink(line_writer(stream))
    from rich.console import Console

    from train.sinks.console import ConsoleSink

    return ConsoleSink(Console(file=stream, highlight=False, markup=False))
