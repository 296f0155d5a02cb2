import dataclasses
import io
import math
import re

import pytest

from train.sinks.contracts import Record
from train.sinks.lines import LineSink, line_writer, stream_sink
from train.sinks.run_text import binomial_standard_error


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def sink(lines, clock, info) -> LineSink:
    sink = LineSink(lines.append, clock=clock)
    sink.start(info)
    return sink


def steps_of(lines: list[str]) -> list[int]:
    return [int(match[1]) for line in lines if (match := re.match(r"step=(\d+)/1000 ", line))]


@pytest.mark.usefixtures("sink")
def test_line_sink_header(lines, info):
    assert lines == [
        "init=xavier norm=batch",
        "fashion_mini: 10 classes, 9,000 train, 1,000 validation, 2,000 test images",
        "273,066 parameters, 12.3 MFLOPs per image",
        "10 epochs = 1,000 steps of 64 images, cpu, bfloat16",
        str(info.folder),
    ]


def test_line_sink_writes_at_evaluations_and_every_ten_seconds(sink, lines, clock):
    for step in range(1, 301):
        clock.now += 0.1
        sink.progress(step, step / 100, {"loss/train": 1.0})
        if step % 20 == 0:
            sink.record(Record(step, step / 100, 0.0, {"loss/train": 0.5, "activation_std/conv1": 1.0}))
        if step % 150 == 0:
            sink.record(Record(step, step / 100, 0.0, {"accuracy/val": 0.5}))
    assert steps_of(lines) == [100, 150, 250, 300]


def test_line_sink_ignores_the_step_of_a_late_record(sink, lines, clock):
    for step in (1, 2, 3):
        clock.now += 1
        sink.progress(step, step / 100, {})
    clock.now += 1
    sink.record(Record(1, 0.01, 3.0, {"activation_std/conv1": 1.0}))
    sink.record(Record(3, 0.03, 3.0, {"accuracy/val": 0.5}))
    assert lines[-1] == "step=3/1000 epoch=0.03/10 accuracy/val=50.0% images_per_s=43 left=24:55"


def test_line_sink_line_format(sink, lines, clock):
    for step in (1, 2, 3):
        clock.now += 1
        sink.progress(step, step / 100, {"loss/train": 0.43214, "accuracy/train": 0.84})
    sink.record(Record(3, 0.03, 3.0, {"accuracy/val": 0.8712, "loss/val": 0.5}))
    expected = "step=3/1000 epoch=0.03/10 loss/train=0.4321 accuracy/train=84.0% accuracy/val=87.1% images_per_s=64 left=16:37"
    assert lines[-1] == expected


def test_line_sink_writes_nan_without_prior_progress(sink, lines):
    sink.record(Record(0, 0.0, 0.0, {"loss/train": math.nan, "accuracy/val": 0.1}))
    assert lines[-1] == "step=0/1000 epoch=0.00/10 loss/train=nan accuracy/val=10.0%"


def test_line_sink_prefixes_every_message_line_with_its_level(sink, lines):
    sink.message("all\nwell")
    sink.message("layer conv3 is dead\nsee there", "warning")
    assert lines[-4:] == ["all", "well", "warning: layer conv3 is dead", "warning: see there"]


def test_line_sink_summary(sink, lines, info, summary):
    del lines[:]
    sink.finish(dataclasses.replace(summary, folder=info.folder.parent / "a b" / "run"))
    assert lines == [
        "done",
        "validation accuracy: 87.10 +- 1.06 % (standard error, n = 1,000)",
        "test accuracy: 90.00 +- 0.60 % (standard error, n = 2,500)",
        "train loss: 0.3211",
        "validation loss: 0.3540",
        "test loss: 0.3612",
        "parameters: 273,066",
        "FLOPs per image: 12.3 M",
        "time: 1:02 (1,000 steps)",
        "speed: 2,314 images/s",
        "peak memory: 1.50 GiB (host)",
        f"folder: {info.folder.parent}/a b/run",
        f"view: tensorboard --logdir '{info.folder.parent}/a b'",
    ]


def test_line_sink_summary_omits_missing_values(sink, lines, summary):
    missing = dict.fromkeys(("val_accuracy", "test_accuracy", "train_loss", "val_loss", "test_loss", "images_per_s"))
    del lines[:]
    sink.finish(
        dataclasses.replace(summary, **missing, peak_memory_bytes=None, status="diverged", reason="NaN in conv2", steps=7)
    )
    assert [line.split(":")[0] for line in lines[:-2]] == ["diverged", "parameters", "FLOPs per image", "time"]
    assert "time: 1:02 (7 of 1,000 steps)" in lines


def test_line_sink_is_silent_before_start(lines, clock, summary):
    sink = LineSink(lines.append, clock=clock)
    sink.progress(1, 0.1, {})
    sink.record(Record(1, 0.1, 0.0, {"accuracy/val": 0.5}))
    assert lines == []
    sink.finish(summary)
    assert lines[0] == "done"


def test_stream_sink_writes_plain_lines_in_the_stream_encoding(info):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    sink = stream_sink(stream)
    assert isinstance(sink, LineSink)
    sink.start(dataclasses.replace(info, name="µ"))
    assert buffer.getvalue().splitlines()[0] == b"\\xb5"
    line_writer(stream)("on")
    assert buffer.getvalue().splitlines()[-1] == b"on"


def test_binomial_standard_error_is_the_spread_of_the_mean():
    p, n = 0.3, 7
    chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    variance = sum(chance * (k / n - p) ** 2 for k, chance in enumerate(chances))
    assert binomial_standard_error(p, n) == pytest.approx(math.sqrt(variance))
