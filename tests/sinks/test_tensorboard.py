import dataclasses
import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2 as layouts
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from train.sinks.contracts import TEXTS, Record
from train.sinks.hparams import HParamsRow, known_columns
from train.sinks.tensorboard import ImageFile, TensorBoardSink
from train.sinks.tensorboard_protos import BY_LAYER, charts
from train.tags import STATISTICS

# Generated modules, whose contents a type checker cannot see.
api: Any = api_pb2
plugin_data: Any = plugin_data_pb2
layout_pb2: Any = layouts

CONFIG = "init:\n  gain: 1\n# ```\nnorm: <b>batch</b>\n"


def png(height: int, width: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.arange(height * width, dtype=np.uint8).reshape(height, width)).save(data, "PNG")
    return data.getvalue()


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def write(info, clock, records) -> TensorBoardSink:
    sink = TensorBoardSink(CONFIG, clock=clock)
    sink.start(info)
    for record in records:
        sink.record(record)
    return sink


def test_tensorboard_sink_writes_scalars_with_step_and_time(info, clock):
    sink = write(info, clock, [Record(0, 0.0, 0.0, {"loss/train": 2.5, "lr": 0.1})])
    clock.now += 1.5
    sink.record(Record(7, 0.1, 1.5, {"loss/train": 1.25}))
    sink.close()
    events = read(info.folder)
    assert sorted(events.Tags()["scalars"]) == ["loss/train", "lr"]
    assert [(event.step, event.value, event.wall_time) for event in events.Scalars("loss/train")] == [
        (0, 2.5, 1000.0),
        (7, 1.25, 1001.5),
    ]


def test_tensorboard_sink_keeps_non_finite_values(info, clock):
    write(info, clock, [Record(0, 0, 0, {"a": math.nan, "b": math.inf, "c": -1e300})]).close()
    events = read(info.folder)
    assert math.isnan(events.Scalars("a")[0].value)
    assert events.Scalars("b")[0].value == math.inf
    assert events.Scalars("c")[0].value == -math.inf


def test_tensorboard_sink_writes_one_file_and_event_per_record(info, clock):
    values = {f"activation_std/layer{i}": float(i) for i in range(300)}
    write(info, clock, [Record(step, 0, 0, values) for step in range(10)]).close()
    (path,) = info.folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert path.stat().st_size < 10 * 300 * 45
    assert len(read(info.folder).Tags()["scalars"]) == 300


def test_tensorboard_sink_flushes_at_intervals_and_at_the_end(info, clock, summary):
    sink = write(info, clock, [Record(1, 0, 0, {"a": 1.0})])
    assert "a" not in read(info.folder).Tags()["scalars"]
    clock.now += 15.0
    sink.record(Record(2, 0, 0, {"a": 2.0}))
    assert [event.step for event in read(info.folder).Scalars("a")] == [1, 2]
    sink.record(Record(3, 0, 0, {"a": 3.0}))
    sink.finish(summary)
    assert [event.step for event in read(info.folder).Scalars("a")] == [1, 2, 3]
    sink.close()
    sink.close()


def test_tensorboard_sink_keeps_image_bytes_and_size(info, clock):
    sink = write(info, clock, [])
    sink.image("activation_map", 3, png(4, 9))
    with pytest.raises(ValueError, match="activation_map: not a PNG"):
        sink.image("activation_map", 4, b"GIF89a")
    sink.close()
    (image,) = read(info.folder).Images("activation_map")
    assert (image.step, image.height, image.width, image.encoded_image_string) == (3, 4, 9, png(4, 9))


def test_tensorboard_sink_writes_the_config_as_text(info, clock):
    write(info, clock, []).close()
    events = read(info.folder)
    assert events.PluginTagToContent("text").keys() == {"config"}
    text = events.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert [line[4:] for line in text.split("\n")] == CONFIG.splitlines()


def test_tensorboard_sink_writes_histogram_buckets(info, clock):
    sink = write(info, clock, [])
    sink.histogram("activation_histogram/head", 3, [-1.0, 0.0, 0.5, 2.0], [4, 0, 2])
    with pytest.raises(ValueError, match="activation_histogram/head: 2 edges for 2 counts"):
        sink.histogram("activation_histogram/head", 4, [0.0, 1.0], [1, 2])
    sink.close()
    events = read(info.folder)
    assert events.PluginTagToContent("histograms").keys() == {"activation_histogram/head"}
    (event,) = events.Tensors("activation_histogram/head")
    assert event.step == 3
    assert make_ndarray(event.tensor_proto).tolist() == [[-1, 0, 4], [0, 0.5, 0], [0.5, 2, 2]]


def stored_layout(folder: Path) -> Any:
    (event,) = read(folder).Tensors("custom_scalars__config__")
    return layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])


def test_charts_of_layers_are_in_the_order_of_the_network(info, clock):
    """Loss and accuracy come first, then each layer with a chart in which runs are compared, and the internals last."""
    tags = [
        f"{statistic}/{layer}" for statistic in ("gradient_std", "activation_std") for layer in ("stem", "act", "act#2", "head")
    ]
    write(info, clock, [Record(0, 0, 0, dict.fromkeys(tags, 1.0)), Record(1, 0, 0, {"activation_std/other": 1.0})]).close()
    categories = list(stored_layout(info.folder).category)
    titles = [category.title for category in categories]
    assert titles == ["training", *(BY_LAYER[name] for name in ("activation_std", "gradient_std")), *list(charts())[1:]]
    assert [chart.title for chart in categories[0].chart][:2] == ["loss", "accuracy"]
    assert [chart.title for chart in categories[1].chart] == ["stem", "act", "act#2", "head"]
    pattern = categories[1].chart[1].multiline.tag[0]
    assert [tag for tag in tags if re.match(pattern, tag)] == ["activation_std/act"]
    assert [category.title for category in categories if not category.closed] == titles[:2]


@pytest.mark.parametrize("layers", [1, 40, 41, 500])
def test_a_deep_network_has_few_charts_of_layers(layers):
    found = charts([f"activation_std/conv{number}" for number in range(layers)])[BY_LAYER["activation_std"]]
    assert min(layers, 20) <= len(found) <= 40
    assert "conv0" in found


def test_tensorboard_sink_writes_texts_of_the_run(info, clock, summary):
    sink = TensorBoardSink(command="train norm=batch", clock=clock)
    sink.start(info)
    sink.text(TEXTS["verdict"], 0, "std falls\n# no heading")
    sink.finish(summary)
    sink.close()
    events = read(info.folder)
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.PluginTagToContent("text")}
    assert sorted(texts) == [TEXTS["verdict"], TEXTS["command"], TEXTS["result"]]
    assert texts[TEXTS["verdict"]] == "    std falls\n    # no heading"
    assert texts[TEXTS["command"]] == "    train norm=batch"
    assert "test accuracy: 90.00 ± 0.60 % (standard error, n = 2,500)\n" in texts[TEXTS["result"]]


def test_layout_charts_match_existing_tags(info, clock):
    write(info, clock, [Record(0, 0, 0, {"loss/train": 1.0})]).close()
    layout = stored_layout(info.folder)
    assert {category.title for category in layout.category} == {"training", "activations", "gradients", "weights", "probe"}
    patterns = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    for tag in [
        "loss/train",
        "accuracy/val",
        "lr",
        "activation_std/stage2.block1.conv1",
        "update_ratio/head",
        "probe_similarity/a",
    ]:
        assert len([pattern for pattern in patterns if re.match(pattern, tag)]) == 1, tag
    assert not [pattern for pattern in patterns if re.match(pattern, "loss/training")]


def test_every_statistic_has_a_chart_of_its_own():
    patterns = [tag for titles in charts().values() for tags in titles.values() for tag in tags]
    for statistic in STATISTICS:
        assert sum(re.fullmatch(pattern, f"{statistic.name}/head") is not None for pattern in patterns) == 1, statistic


ARM_ROW = HParamsRow("abc", {"norm": "batch", "trainer.compile": False, "optimizer.lr": 0.1}, frozenset({"optimizer.lr"}))


def hparams_part(folder, part) -> Any:
    content = read(folder).PluginTagToContent("hparams")[f"_hparams_/{part}"]
    return getattr(plugin_data.HParamsPluginData.FromString(content), part)


def test_tensorboard_sink_writes_the_arm_as_a_typed_row(info, clock, summary):
    sink = TensorBoardSink(arm=ARM_ROW, clock=clock)
    sink.start(info)
    clock.now += 60
    sink.finish(summary)
    sink.close()
    row, table, end = (hparams_part(info.folder, part) for part in ("session_start_info", "experiment", "session_end_info"))
    assert (row.group_name, row.start_time_secs) == ("abc", 1000.0)
    kinds = {name: (value.WhichOneof("kind"), getattr(value, value.WhichOneof("kind"))) for name, value in row.hparams.items()}
    expected = {
        "norm": ("string_value", "batch"),
        "trainer.compile": ("bool_value", False),
        "optimizer.lr": ("number_value", 0.1),
    }
    assert kinds == expected
    types = {column.name: (api.DataType.Name(column.type), column.differs) for column in table.hparam_infos}
    assert known_columns().keys() <= types.keys()
    shown = {name for name, (_, differs) in types.items() if differs}
    assert shown == {"optimizer.lr", "arm", "augment", "init", "model"}, "columns in which no run has a value say nothing"
    assert {name: types[name] for name in expected} == {
        "norm": ("DATA_TYPE_STRING", False),
        "trainer.compile": ("DATA_TYPE_BOOL", False),
        "optimizer.lr": ("DATA_TYPE_FLOAT64", True),
    }
    assert (api.Status.Name(end.status), end.end_time_secs) == ("STATUS_SUCCESS", 1060.0)


@pytest.mark.parametrize(
    ("status", "done", "diverged"), [("done", 1, 0), ("diverged", 0, 1), ("interrupted", 0, 0), ("failed", 0, 0), (None, 0, 0)]
)
def test_tensorboard_sink_writes_outcome_as_status_and_numbers(info, clock, summary, status, done, diverged):
    sink = TensorBoardSink(arm=ARM_ROW, clock=clock)
    sink.start(info)
    sink.record(Record(7, 0, 0, {"accuracy/val": 0.3}))
    if status is not None:
        sink.finish(dataclasses.replace(summary, status=status))
    sink.close()
    events = read(info.folder)
    last = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("final/")}
    accuracy = {"final/accuracy_val": pytest.approx(0.871)} if done else {}
    assert last == {"final/done": done, "final/diverged": diverged, **accuracy}
    assert events.Scalars("final/done")[0].step == (7 if status is None else 1000)
    ended = hparams_part(info.folder, "session_end_info").status
    assert api.Status.Name(ended) == ("STATUS_SUCCESS" if done else "STATUS_FAILURE")


def test_tensorboard_sink_without_arm_has_no_hparams_table(info, clock, summary):
    sink = write(info, clock, [])
    sink.finish(summary)
    sink.close()
    assert "hparams" not in str(read(info.folder).Tags())


def test_image_file_adds_images_to_a_run_that_has_ended(info, clock):
    write(info, clock, [Record(step, 0, 0, {"a": step}) for step in (0, 9)]).close()
    images = ImageFile(info.folder)
    assert len(list(info.folder.iterdir())) == 1
    images.image("signal", 0, png(2, 2))
    images.image("heatmap/a", 9, png(4, 9))
    assert len(list(info.folder.iterdir())) == 2
    events = read(info.folder)
    assert [event.step for event in events.Scalars("a")] == [0, 9]
    assert [event.step for event in events.Images("signal")] == [0]
    assert [event.encoded_image_string for event in events.Images("heatmap/a")] == [png(4, 9)]


def test_resumed_run_drops_the_images_that_were_drawn_at_its_end(info, clock):
    sink = write(info, clock, [Record(1, 0, 0, {"a": 1.0})])
    offsets = sink.sync()
    sink.close()
    ImageFile(info.folder).image("heatmap/a", 1, png(4, 9))
    resumed = TensorBoardSink(CONFIG, clock=clock)
    resumed.start(dataclasses.replace(info, offsets=offsets))
    resumed.restore(Record(1, 0, 0, {"a": 1.0}))
    resumed.record(Record(2, 0, 0, {"a": 2.0}))
    resumed.close()
    events = read(info.folder)
    assert [event.step for event in events.Scalars("a")] == [1, 2]
    assert not events.Tags()["images"]
