"""The event files of TensorBoard: their framing, and their contents for its plugins, as protocol buffers.

The framing of a record: length (8 bytes), its checksum (4), the data, their checksum (4), all little-endian. TensorBoard's
own writer computes the checksums in Python, a third of a microsecond per byte: more than the rest of writing a value costs.

The functions for plugins return `Summary.Value` messages. They replace those writers of the plugins that need TensorFlow.
"""

from __future__ import annotations

import re
import struct
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import google_crc32c
from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_tags
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from train.sinks.contracts import Status, Summary
from train.sinks.hparams import HParamsRow, Value, known_columns
from train.tags import STATISTICS, join, layers_of

# Generated modules, whose contents a type checker cannot see.
_summary: Any = summary_pb2
_tensor: Any = tensor_pb2
_shape: Any = tensor_shape_pb2
_types: Any = types_pb2
_layout: Any = layout_pb2
_api: Any = api_pb2
_plugin_data: Any = plugin_data_pb2

_PNG_START = b"\x89PNG\r\n\x1a\n"
_COLORSPACE_RGBA = 4
_PAGE_CHARACTERS = 120

TRAINING_CHARTS = {
    "loss": ["loss/train", "loss/val"],
    "accuracy": ["accuracy/train", "accuracy/val"],
    "learning rate": ["lr"],
}


BY_LAYER = {
    "activation_std": "std of the activations, by layer",
    "activation_mean": "mean of the activations, by layer",
    "gradient_std": "std of the gradients, by layer",
}
"""Statistics with a chart for each layer, in which runs are compared -> the title of their category."""
MOST_CHARTS = 40
"""Of such a category; TensorBoard compares each with each when it merges the charts of the runs."""
BANDS = "arms: mean and 95 % interval"
OPEN_CATEGORIES = ("training", BY_LAYER["activation_std"])


def charts(tags: Iterable[str] = ()) -> dict[str, dict[str, list[str]]]:
    """Return category -> chart -> the tags whose curves it draws, as regular expressions that match from the start.

    `tags`: of the statistics of all layers, in the order of the network. What describes the inside of the training comes last.
    """
    categories = {"training": TRAINING_CHARTS}
    recorded = list(tags)
    for statistic, title in BY_LAYER.items():
        layers = layers_of(statistic, recorded)
        shown = layers[:: -(-len(layers) // MOST_CHARTS)] if layers else []
        if shown:
            categories[title] = {layer: [re.escape(join(statistic, layer))] for layer in shown}
    for item in STATISTICS:
        categories.setdefault(item.group, {})[item.title] = [join(item.name, ".*")]
    return categories


METRICS = {
    "accuracy/test": "accuracy on the test split",
    "loss/test": "loss on the test split",
    "final/accuracy_val": "accuracy on the validation split at the end, of the runs that reached it",
    "final/done": "share of runs that reached the end",
    "final/diverged": "share of runs whose loss became infinite or NaN",
}
"""Metric columns of the HParams table, which shows the first five. TensorBoard averages them over the runs of an arm.

A diverged run has none of the first three, so it counts in the last two and enters no other mean.
"""

SHOWN_COLUMNS = 5
"""Of the HParams table, which TensorBoard takes first from those that differ, then by name."""

SHARED_TABLE = "events.out.tfevents.0000000000.train-report"
"""Event file in the folder of a sweep with the HParams table of all its runs, which then write no table of their own."""


def scalar(tag: str, value: float) -> Any:
    return _summary.Summary.Value(tag=tag, simple_value=value)


def text(tag: str, content: str) -> Any:
    # TensorBoard renders Markdown. Four spaces keep any text literal, while a fence would end at the first ``` in it.
    lines = [piece for line in content.splitlines() for piece in _pieces(line)]
    code = "\n".join("    " + line for line in lines)
    return _string(tag, code.encode(), _plugin("text"))


def _pieces(line: str) -> list[str]:
    """Return a line, or that which is a long sentence as several, as nothing breaks the lines of literal text."""
    is_prose = len(line) > _PAGE_CHARACTERS and not line.startswith(" ")
    return textwrap.wrap(line, _PAGE_CHARACTERS, break_long_words=False, break_on_hyphens=False) if is_prose else [line]


def image(tag: str, png: bytes) -> Any:
    """Return an image. ValueError when `png` is not a PNG."""
    if not png.startswith(_PNG_START):
        raise ValueError(f"image {tag}: not a PNG")
    width, height = struct.unpack(">II", png[16:24])
    picture = _summary.Summary.Image(width=width, height=height, colorspace=_COLORSPACE_RGBA, encoded_image_string=png)
    return _summary.Summary.Value(tag=tag, image=picture)


def histogram(tag: str, edges: Sequence[float], counts: Sequence[float]) -> Any:
    """Return n buckets between n + 1 ascending edges, as an n x 3 tensor (left, right, count). ValueError for another number of
    edges."""
    if len(edges) != len(counts) + 1:
        raise ValueError(f"histogram {tag}: {len(edges)} edges for {len(counts)} counts")
    rows = [number for row in zip(edges, edges[1:], counts, strict=False) for number in row]
    sizes = [_shape.TensorShapeProto.Dim(size=size) for size in (len(counts), 3)]
    tensor = _tensor.TensorProto(dtype=_types.DT_DOUBLE, tensor_shape=_shape.TensorShapeProto(dim=sizes), double_val=rows)
    return _summary.Summary.Value(tag=tag, tensor=tensor, metadata=histograms.create_summary_metadata("", ""))


HISTOGRAMS = histograms.PLUGIN_NAME.encode()
"""Is in the data of every record that holds a histogram."""


def histograms_in(summary: Any) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield tag, edges and counts of what `histogram` made in a summary."""
    for value in summary.value:
        if value.metadata.plugin_data.plugin_name == histograms.PLUGIN_NAME:
            numbers = list(value.tensor.double_val)
            yield value.tag, [*numbers[::3], *numbers[-2:-1]], numbers[2::3]


def layout(tags: Iterable[str] = (), bands: Mapping[str, tuple[str, str, str]] | None = None) -> Any:
    """Return the charts of the Custom Scalars page for a run with these tags. TensorBoard merges those of all runs.

    `bands`: of arms, chart -> the tags of a line and of the lower and upper edge of the band around it, after the first category.
    """
    page = _layout.Layout()
    for number, (category, titles) in enumerate(charts(tags).items()):
        section = page.category.add(title=category, closed=category not in OPEN_CATEGORIES)
        for title, expressions in titles.items():
            lines = _layout.MultilineChartContent(tag=[f"^{expression}$" for expression in expressions])
            section.chart.append(_layout.Chart(title=title, multiline=lines))
        if bands and number == 0:
            _add_bands(page.category.add(title=BANDS), bands)
    return _string(custom_scalars.CONFIG_SUMMARY_TAG, page.SerializeToString(), custom_scalars.create_summary_metadata())


def _add_bands(section: Any, bands: Mapping[str, tuple[str, str, str]]) -> None:
    for title, (line, low, high) in bands.items():
        series = _layout.MarginChartContent.Series(value=line, lower=low, upper=high)
        section.chart.append(_layout.Chart(title=title, margin=_layout.MarginChartContent(series=[series])))


def hparams_table(columns: Mapping[str, Value], first: Collection[str], time_s: float) -> Any:
    """Return the HParams table. `columns`: name -> an example value; `first`: the columns shown before the others, with what was
    chosen of the groups where they are few.

    If there are several tables, TensorBoard takes an arbitrary one and hides the columns that it lacks: every table has those of
    all settings that there are.
    """
    known = {**known_columns(), **columns}
    shown = {*first, *list(dict.fromkeys([*first, *(name for name in known if "." not in name)]))[:SHOWN_COLUMNS]}
    infos = [_api.HParamInfo(name=name, type=_data_type(value), differs=name in shown) for name, value in known.items()]
    metrics = [_api.MetricInfo(name=_api.MetricName(tag=tag), description=description) for tag, description in METRICS.items()]
    experiment = _api.Experiment(hparam_infos=infos, metric_infos=metrics, time_created_secs=time_s)
    return _hparams(hparams_tags.EXPERIMENT_TAG, experiment=experiment)


def session_start(arm: HParamsRow, time_s: float) -> list[Any]:
    """Return the run's row of the HParams table. `time_s`: seconds since 1970."""
    row: Any = hparams_pb(dict(arm.values), trial_id=arm.id, start_time_secs=time_s)
    return list(row.value)


def session_end(status: Status, time_s: float) -> Any:
    """Return how the run ended: only a done run is a success."""
    ended = _api.STATUS_SUCCESS if status == "done" else _api.STATUS_FAILURE
    end = _plugin_data.SessionEndInfo(status=ended, end_time_secs=time_s)
    return _hparams(hparams_tags.SESSION_END_INFO_TAG, session_end_info=end)


def outcome(status: Status, summary: Summary | None = None) -> list[Any]:
    """Return the metrics that are in no record."""
    values = {"final/done": float(status == "done"), "final/diverged": float(status == "diverged")}
    if summary is not None and status == "done" and summary.val_accuracy is not None:
        values["final/accuracy_val"] = summary.val_accuracy
    return [scalar(tag, value) for tag, value in values.items()]


def _hparams(tag: str, **content: Any) -> Any:
    metadata = hparams_tags.create_summary_metadata(_plugin_data.HParamsPluginData(**content))
    return _summary.Summary.Value(tag=tag, metadata=metadata, tensor=hparams_tags.NULL_TENSOR)


def _data_type(value: Value | None) -> Any:
    if value is None:
        return _api.DATA_TYPE_UNSET
    if isinstance(value, bool):
        return _api.DATA_TYPE_BOOL
    return _api.DATA_TYPE_STRING if isinstance(value, str) else _api.DATA_TYPE_FLOAT64


def _plugin(name: str) -> Any:
    return _summary.SummaryMetadata(plugin_data=_summary.SummaryMetadata.PluginData(plugin_name=name))


def _string(tag: str, content: bytes, metadata: Any) -> Any:
    tensor = _tensor.TensorProto(dtype=_types.DT_STRING, string_val=[content])
    return _summary.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


_OVERHEAD_BYTES = 16
_MASK = 0xA282EAD8
"""TensorFlow's mask: a checksum over data that contain their own checksum would be weak."""


def tfrecord(data: bytes) -> bytes:
    """Return the record that holds `data`."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def records(content: bytes) -> Iterator[bytes]:
    """Yield the data of the records in `content`, which is whole. Checksums are not verified."""
    position = 0
    while position < len(content):
        size = int.from_bytes(content[position : position + 8], "little")
        yield content[position + 12 : position + 12 + size]
        position += _OVERHEAD_BYTES + size


def is_whole(content: bytes) -> bool:
    """Return whether `content` ends at the end of a record. Checksums are not verified."""
    position = 0
    while position < len(content):
        position += _OVERHEAD_BYTES + int.from_bytes(content[position : position + 8], "little")
    return position == len(content)
