import dataclasses
import io
import math
import re

import pytest

from train.sinks.contracts import Record
from train.sinks.lines import LineSink, line_writer
from train.sinks.number_text import binomial_standard_error, duration, number, scaled, size
from train.sinks.terminal import stream_sink


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def sink(lines, clock, info) -> LineSink:
    sink = LineSink(lines.append, clock=clock)
    sink.start(info)
    return sink


def steps_of(lines: list[str]) -> list[int]:
    return [int(found[1]) for line in lines if (found := re.match(r"step=(\d+)/1000 ", line))]


@pytest.mark.usefixtures("sink")
def test_the_opening_names_what_is_trained(lines, info):
    assert lines == [
        "init=xavier norm=batch",
        "fashion_mini: 9,000 train, 1,000 validation, 2,000 test images",
        "273,066 parameters, 12.3 MFLOPs per image",
        "10 epochs = 1,000 steps of 64 images, cpu, bfloat16",
        str(info.folder),
    ]


def test_one_line_for_every_evaluation_and_one_every_ten_seconds(sink, lines, clock):
    for step in range(1, 301):
        clock.now += 0.1
        sink.progress(step, step / 100, {"loss/train": 1.0})
        if step % 20 == 0:
            sink.record(Record(step, step / 100, 0.0, {"loss/train": 0.5, "activation_std/conv1": 1.0}))
        if step % 150 == 0:
            sink.record(Record(step, step / 100, 0.0, {"accuracy/val": 0.5}))
    assert steps_of(lines) == [100, 150, 250, 300]


def test_a_record_that_comes_late_does_not_set_the_run_back(sink, lines, clock):
    for step in (1, 2, 3):
        clock.now += 1
        sink.progress(step, step / 100, {})
    clock.now += 1
    sink.record(Record(1, 0.01, 3.0, {"activation_std/conv1": 1.0}))
    sink.record(Record(3, 0.03, 3.0, {"accuracy/val": 0.5}))
    assert lines[-1] == "step=3/1000 epoch=0.03/10 accuracy/val=50.0% images_per_s=43 left=24:55"


def test_the_form_of_a_line(sink, lines, clock):
    for step in (1, 2, 3):
        clock.now += 1
        sink.progress(step, step / 100, {"loss/train": 0.43214, "accuracy/train": 0.84})
    sink.record(Record(3, 0.03, 3.0, {"accuracy/val": 0.8712, "loss/val": 0.5}))
    expected = "step=3/1000 epoch=0.03/10 loss/train=0.4321 accuracy/train=84.0% accuracy/val=87.1% images_per_s=64 left=16:37"
    assert lines[-1] == expected


def test_nan_and_a_first_record_without_progress(sink, lines):
    sink.record(Record(0, 0.0, 0.0, {"loss/train": math.nan, "accuracy/val": 0.1}))
    assert lines[-1] == "step=0/1000 epoch=0.00/10 loss/train=nan accuracy/val=10.0%"


def test_messages_carry_their_level_on_every_line(sink, lines):
    sink.message("all\nwell")
    sink.message("layer conv3 is dead\nsee there", "warning")
    assert lines[-4:] == ["all", "well", "warning: layer conv3 is dead", "warning: see there"]


def test_the_summary(sink, lines, info, outcome):
    del lines[:]
    sink.finish(dataclasses.replace(outcome, folder=info.folder.parent / "a b" / "run"))
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
        f"look at it: tensorboard --logdir '{info.folder.parent}/a b'",
    ]


def test_what_was_not_measured_is_left_out(sink, lines, outcome):
    nothing = dict.fromkeys(("val_accuracy", "test_accuracy", "train_loss", "val_loss", "test_loss", "images_per_s"))
    del lines[:]
    sink.finish(
        dataclasses.replace(outcome, **nothing, peak_memory_bytes=None, status="diverged", reason="NaN in conv2", steps=7)
    )
    assert [line.split(":")[0] for line in lines[:-2]] == ["diverged", "parameters", "FLOPs per image", "time"]
    assert "time: 1:02 (7 of 1,000 steps)" in lines


def test_it_is_silent_before_the_start(lines, clock, outcome):
    sink = LineSink(lines.append, clock=clock)
    sink.progress(1, 0.1, {})
    sink.record(Record(1, 0.1, 0.0, {"accuracy/val": 0.5}))
    assert lines == []
    sink.finish(outcome)
    assert lines[0] == "done"


def test_a_stream_that_is_no_terminal_gets_plain_lines_in_its_own_encoding(info):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    sink = stream_sink(stream)
    assert isinstance(sink, LineSink)
    sink.start(dataclasses.replace(info, name="µ"))
    assert buffer.getvalue().splitlines()[0] == b"\\xb5"
    line_writer(stream)("on")
    assert buffer.getvalue().splitlines()[-1] == b"on"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (duration(0.9), "0:00"),
        (duration(3599.9), "59:59"),
        (duration(3600), "1:00:00"),
        (duration(2 * 86400 + 3 * 3600 + 4 * 60 + 5), "2 d 3:04:05"),
        (number(0.0), "0"),
        (number(2.302585), "2.303"),
        (number(0.000012), "1.2e-05"),
        (number(-math.inf), "-inf"),
        (scaled(812), "812 "),
        (scaled(999_600), "1 M"),
        (scaled(4.1e9), "4.1 G"),
        (size(3 << 20), "3 MiB"),
        (size(5 << 30), "5.00 GiB"),
    ],
)
def test_figures(text, expected):
    assert text == expected


def test_the_standard_error_is_the_spread_of_the_binomial_mean():
    p, n = 0.3, 7
    chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    variance = sum(chance * (k / n - p) ** 2 for k, chance in enumerate(chances))
    assert binomial_standard_error(p, n) == pytest.approx(math.sqrt(variance))
