import io
import json
import math
import os
import re
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.sinks.contracts import Record
from train.sinks.tensorboard import TensorBoardSink

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


def test_scalars_come_back_with_step_and_time(info, clock):
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


def test_non_finite_values_survive(info, clock):
    write(info, clock, [Record(0, 0, 0, {"a": math.nan, "b": math.inf, "c": -1e300})]).close()
    events = read(info.folder)
    assert math.isnan(events.Scalars("a")[0].value)
    assert events.Scalars("b")[0].value == math.inf
    assert events.Scalars("c")[0].value == -math.inf


def test_one_event_holds_a_whole_record_and_there_is_one_file(info, clock):
    values = {f"activation_std/layer{i}": float(i) for i in range(300)}
    write(info, clock, [Record(step, 0, 0, values) for step in range(10)]).close()
    (path,) = info.folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert path.stat().st_size < 10 * 300 * 45
    assert len(read(info.folder).Tags()["scalars"]) == 300


def test_values_are_seen_after_the_flush_interval_and_at_the_end(info, clock, outcome):
    sink = write(info, clock, [Record(1, 0, 0, {"a": 1.0})])
    assert "a" not in read(info.folder).Tags()["scalars"]
    clock.now += 15.0
    sink.record(Record(2, 0, 0, {"a": 2.0}))
    assert [event.step for event in read(info.folder).Scalars("a")] == [1, 2]
    sink.record(Record(3, 0, 0, {"a": 3.0}))
    sink.finish(outcome)
    assert [event.step for event in read(info.folder).Scalars("a")] == [1, 2, 3]
    sink.close()
    sink.close()


def test_images_keep_their_bytes_and_size(info, clock):
    sink = write(info, clock, [])
    sink.image("activation_map", 3, png(4, 9))
    with pytest.raises(ValueError, match="activation_map: not a PNG"):
        sink.image("activation_map", 4, b"GIF89a")
    sink.close()
    (image,) = read(info.folder).Images("activation_map")
    assert (image.step, image.height, image.width, image.encoded_image_string) == (3, 4, 9, png(4, 9))


def test_the_config_is_a_text(info, clock):
    write(info, clock, []).close()
    events = read(info.folder)
    assert events.PluginTagToContent("text").keys() == {"config"}
    text = events.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert [line[4:] for line in text.split("\n")] == CONFIG.splitlines()


def served(address: str, what: str) -> dict:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/data/plugin/{what}/tags", timeout=10) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_tensorboard_server_shows_the_run(info, clock):
    write(info, clock, [Record(step, 0, 0, {"loss/train": 1 / (step + 1), "accuracy/val": 0.5}) for step in range(5)]).close()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(info.folder.parent)]
    command += ["--load_fast=false", "--port", "0", "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert server.stderr is not None
        address = next(found[1] for line in server.stderr if (found := re.search(r"at (http://[\w.:]+)/", line)))
        tags: dict = {}
        deadline = time.monotonic() + 30
        while not tags and time.monotonic() < deadline:
            tags = served(address, "scalars")
            time.sleep(0.2)
        assert {run: set(of_run) for run, of_run in tags.items()} == {info.folder.name: {"loss/train", "accuracy/val"}}
        assert served(address, "text") == {info.folder.name: ["config"]}
    finally:
        server.kill()
        server.communicate()
