import dataclasses
import io
import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from PIL import Image

from train import columns as columns_module
from train.columns import MAX_COLUMNS, MAX_HISTOGRAMS, Columns, Distributions, LearningRate
from train.figures.distribution import draw_distributions
from train.figures.heat_map import as_table, colors, column_of, draw, limits, scale, signed_scale
from train.figures.style import numbers_between
from train.sinks.broadcast import BroadcastSink
from train.sinks.contracts import Record, Sink
from train.sinks.heatmap import HEAT_MAPS, HeatMapSink
from train.sinks.tensorboard import TensorBoardSink

LAYERS = ["stem.conv", "stage1.block1.conv1", "head"]


class ImageSink(Sink):
    """Keeps the images."""

    def __init__(self):
        self.pictures = []

    def image(self, tag, step, png):
        self.pictures.append((tag, step, png))


def record(step, value=1.0, statistic="activation_std", **more):
    return Record(step, 0.0, 0.0, {f"{statistic}/{layer}": value for layer in LAYERS} | more)


def columns_of(steps, value=lambda _, row: 1.0 + row):
    columns = Columns()
    for step in steps:
        for row, layer in enumerate(LAYERS):
            columns.add(step, layer, value(step, row))
    return columns


def test_columns_keep_the_layer_order_of_the_records():
    columns = columns_of([0, 10], lambda step, row: step + row)
    assert list(columns.layers) == LAYERS
    assert (columns.steps, columns.values) == ([0, 10], [[0, 1, 2], [10, 11, 12]])


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 63, 64, 65, 1000])
def test_columns_thinning_keeps_first_last_and_even_spacing(monkeypatch, count):
    monkeypatch.setattr(columns_module, "MAX_COLUMNS", 8)
    columns = columns_of(range(count))
    assert len(columns.steps) == len(columns.values) <= 8
    assert (columns.steps[0], columns.steps[-1]) == (0, count - 1)
    assert len(columns.steps) >= min(count, 4)
    assert len(set(np.diff(columns.steps[:-1]))) <= 1
    assert all(len(column) == 3 for column in columns.values)


@pytest.mark.parametrize("broken", [0, 7, 8, 9, 21, 150, 199])
def test_columns_thinning_keeps_the_first_broken_step(monkeypatch, broken):
    monkeypatch.setattr(columns_module, "MAX_COLUMNS", 8)
    columns = columns_of(range(200), lambda step, row: math.nan if step >= broken and row else 1.0)
    assert columns.broken_step == broken
    assert broken in columns.steps
    assert len(columns.steps) <= 9


def test_as_table_marks_a_late_layer_as_missing_before():
    columns = Columns()
    columns.add(0, "a", 1.0)
    columns.add(5, "a", 2.0)
    columns.add(5, "b", -math.inf)
    table = as_table(columns)
    assert table.tolist() == [[1.0, 2.0], [-math.inf, math.inf]]


@pytest.mark.parametrize(
    ("course", "jumps"),
    [
        ([0.1, 0.1, 0.01, 0.01, 0.001], [20, 40]),
        ([0.1, 0.096, 0.092], []),
        ([0.1, 0.2], [10]),
        ([0.1], []),
    ],
)
def test_learning_rate_jumps_at_changes_above_five_percent(course, jumps):
    lr = LearningRate()
    for i, value in enumerate(course):
        lr.add(10 * i, value)
    assert lr.jumps == jumps
    assert lr.stands_out == bool(jumps)


def test_learning_rate_smooth_with_few_records_is_a_curve():
    lr = LearningRate()
    for step, value in zip(range(20, 120, 20), [0.15, 0.19, 0.12, 0.05, 0.001], strict=True):
        lr.add(step, value)
    assert not lr.stands_out


def test_learning_rate_with_constant_jumps_is_a_thinned_curve():
    lr = LearningRate()
    for step in range(10_000):
        lr.add(step, 0.9**step)
    assert not lr.stands_out
    assert len(lr.steps) == len(lr.values) <= 2 * MAX_COLUMNS


def test_scale_spans_decades_and_ignores_one_exploding_column():
    decades = np.array([[10.0**-i] * 40 for i in range(5)])
    norm = scale(decades, share=False)
    assert isinstance(norm, LogNorm)
    assert (norm.vmin, norm.vmax) == (pytest.approx(1e-4), 1)
    decades[:, -1] = 1e30
    assert scale(decades, share=False).vmax == 1
    decades[0] = [0, math.nan, math.inf, -math.inf] * 10
    assert scale(decades, share=False).vmin == pytest.approx(1e-4)
    flat = scale(np.full((2, 3), 5.0), share=False)
    assert flat.vmax == pytest.approx(10 / math.sqrt(2))
    assert scale(np.zeros((2, 3)), share=False).vmax == 1
    share = scale(decades, share=True)
    assert (share.vmin, share.vmax) == (0, 1)


def test_colors_of_zero_broken_and_missing_cells_are_distinct():
    table = np.array([[1e-3, 1e-2, 1e-1, 1.0, 0.0, math.nan, -math.inf]])
    shades = [tuple(map(float, shade)) for shade in colors(table, scale(table, share=False))[0]]
    assert len(set(shades)) == 7
    lightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in shades[:4]]
    assert lightness == sorted(lightness)


def test_colors_treat_a_share_of_zero_as_a_value():
    table = np.array([[0.0, 1.0]])
    assert colors(table, scale(table, share=True))[0, 0].sum() > 0.3


def test_column_of_interpolates_between_columns():
    assert [column_of(step, [0, 10, 30]) for step in (-1, 0, 5, 10, 20, 30, 99)] == [0, 0, 0.5, 1, 1.5, 2, 2]


@pytest.mark.parametrize(("low", "high"), [(1e-12, 1.0), (0.3, 2.1), (0.7, 1.4), (2e-5, 8e-4), (1e-3, 1e3), (1.1, 2.3)])
def test_numbers_between_are_round(low, high):
    ticks = numbers_between(low, high)
    assert 3 <= len(ticks) <= 10
    assert ticks == sorted(ticks)
    assert all(0.999 * low <= tick <= 1.001 * high for tick in ticks)


@pytest.mark.parametrize("count", [1, 12, 300])
def test_draw_handles_any_number_of_layers(count):
    columns, lr = Columns(), LearningRate()
    for step in range(0, 60, 20):
        lr.add(step, 0.1 / (1 + step))
        for i in range(count):
            columns.add(step, f"stage1.block{i}.conv1", 0.9**i if step < 40 else math.nan)
    picture = Image.open(io.BytesIO(draw(HEAT_MAPS["activation_std"], columns, lr, 40, "init=xavier")))
    assert picture.width == 950
    assert 200 <= picture.height <= 2200
    assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_heat_map_sink_draws_at_the_end_to_folder_and_target(info, summary):
    target = ImageSink()
    sink = HeatMapSink(target)
    sink.start(info)
    for step in (0, 10, 20):
        sink.record(record(step, 1.0 + step, lr=0.1))
        sink.record(record(step, 0.1, "activation_mean"))
        sink.record(record(step, 0.5, "activation_dead"))
    assert not target.pictures
    sink.finish(summary)
    names = [f"heatmap/activation_{name}" for name in ("std", "mean", "dead")]
    assert [(tag, step) for tag, step, _ in target.pictures] == [(name, 20) for name in names]
    for tag, _, png in target.pictures:
        path = info.folder / "figures" / (tag.replace("/", "_") + ".png")
        assert path.read_bytes() == png


def test_heat_map_sink_skips_records_of_some_layers(info, summary):
    """Some layers are recorded at every step, the others at every 50th: columns in between would be mostly gaps."""
    pictures = []
    for between in ([], range(1, 50)):
        target = ImageSink()
        sink = HeatMapSink(target)
        sink.start(info)
        sink.record(record(0))
        for step in between:
            sink.record(Record(step, 0.0, 0.0, {"activation_std/stem.conv": 7.0}))
        sink.record(record(50))
        sink.finish(summary)
        pictures.append(target.pictures)
    assert pictures[0] == pictures[1]


def test_heat_map_sink_draws_no_map_of_one_column(info, summary):
    target = ImageSink()
    sink = HeatMapSink(target)
    sink.start(info)
    sink.record(record(0))
    sink.record(Record(5, 0, 0, {"loss/train": 1.0}))
    sink.finish(summary)
    assert not target.pictures
    assert not (info.folder / "figures").exists()


@pytest.mark.parametrize("broken", ["loss/train", "activation_std/head", "gradient_std/head"])
def test_heat_map_sink_marks_first_non_finite_step_in_every_map(info, summary, broken):
    pictures = []
    for value in (1.0, math.nan):
        target = ImageSink()
        sink = HeatMapSink(target)
        sink.start(dataclasses.replace(info))
        for step in (0, 1, 2):
            sink.record(record(step, 0.5, "update_ratio"))
            sink.record(record(step, 0.5, "activation_std"))
        sink.record(Record(3, 0, 0, {broken: value}))
        sink.finish(summary)
        pictures.append({tag: np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for tag, _, png in target.pictures})
    unmarked, marked = pictures
    red = [(picture["heatmap/update_ratio"] == (204, 13, 26)).all(axis=-1).sum(axis=0) for picture in (unmarked, marked)]
    assert red[0].max() == 0
    assert red[1].max() > 100  # a line from top to bottom, not only its legend entry


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([-2.0, 1.0], 2.0),
        ([0.0, 0.0], 1.0),
        ([3.0, 5.0], 5.0),
        ([-1e-9, 0.0], 1e-9),
        ([math.nan, -4.0], 4.0),
        ([math.inf] * 2, 1.0),
    ],
)
def test_scale_of_a_mean_has_zero_in_the_middle(values, limit):
    table = np.array([values]).T
    assert limits(signed_scale(table)) == (-limit, limit)


def test_heat_map_of_a_mean_tells_its_sign():
    table = np.array([[-1.0, 0.0, 1.0]])
    below, zero, above = colors(table, signed_scale(table))[0]
    assert zero.min() > 0.9, "zero is nearly white"
    assert below[0] > below[2], "orange"
    assert above[2] > above[1], "violet"


def histograms(sink, steps, layers=("conv", "act"), low=0.0, high=1.0):
    for step in steps:
        for layer in layers:
            sink.histogram(f"activation_histogram/{layer}", step, [low, (low + high) / 2, high], [3.0, 1.0])


def test_heat_map_sink_draws_distributions_over_the_steps(info, summary):
    target = ImageSink()
    sink = HeatMapSink(target)
    sink.start(info)
    histograms(sink, (0, 10, 20))
    sink.histogram("activation_histogram/act", 30, [-math.inf, 0.0, math.inf], [0.0, 0.0])
    sink.finish(summary)
    ((tag, step, png),) = target.pictures
    assert (tag, step) == ("distribution/activations", summary.steps)
    assert (info.folder / "figures" / "distribution_activations.png").read_bytes() == png


def test_heat_map_sink_draws_no_distribution_of_one_step(info, summary):
    sink = HeatMapSink(target := ImageSink())
    sink.start(info)
    histograms(sink, (0,))
    sink.finish(summary)
    assert not target.pictures


@pytest.mark.parametrize("checkpoint", [0, 1, 2, 3])
def test_distributions_of_a_resumed_run_are_those_of_the_whole(info, summary, checkpoint):
    """What was written after the checkpoint, before the run was interrupted, does not count."""
    pictures = []
    for first, rest in (((0, 10, 20), None), ((0, 10, 20)[:checkpoint], (0, 10, 20)[checkpoint:])):
        (folder := info.folder / str(len(pictures))).mkdir()
        info = dataclasses.replace(info, folder=folder)
        events, target, offsets = TensorBoardSink(), ImageSink(), None
        if rest is not None:
            events.start(info)
            histograms(events, first)
            offsets = events.sync()
            histograms(events, (11, 12), low=-5.0, high=5.0)
            events.close()
            events, first = TensorBoardSink(), rest
        sink = BroadcastSink([events, HeatMapSink(target)])
        sink.start(dataclasses.replace(info, offsets=offsets))
        histograms(sink, first)
        sink.finish(summary)
        sink.close()
        pictures.append(target.pictures)
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 1


@pytest.mark.parametrize("count", [1, 2, 199, 200, 201, 1000])
def test_distributions_are_thinned_evenly(count):
    layer = Distributions()
    for step in range(count):
        layer.add(step, [0.0, 1.0], [1.0])
    assert min(count, MAX_HISTOGRAMS // 2) <= len(layer.steps) == len(layer.ranges) == len(layer.counts) <= MAX_HISTOGRAMS
    assert layer.steps[0] == 0
    assert len(set(np.diff(layer.steps))) <= 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-1.0, 1.0), (0.0, 1e30), (-1e-30, 0.0), (5.0, 6.0)])
def test_distribution_of_any_range_is_drawn(low, high):
    layers = {f"layer{index}": Distributions() for index in range(30)}
    for layer in layers.values():
        for step in range(3):
            layer.add(step, [low, high], [4.0])
    assert draw_distributions(layers, "norm=batch").startswith(b"\x89PNG")


def test_heat_map_sink_imports_matplotlib_only_to_draw():
    code = "import sys, train.sinks.heatmap, train.sinks.tensorboard; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
