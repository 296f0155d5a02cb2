import dataclasses
import io
import re
import threading

import pytest
from rich.console import Console

from train.sinks.console import ConsoleSink
from train.sinks.contracts import Record

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
WIDTHS = [20, 40, 60, 80, 140]


def terminal(width: int, **settings) -> Console:
    environment = {"TERM": "xterm-256color", **settings.pop("environment", {})}
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ=environment, **settings)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_of(console: Console) -> list[str]:
    """Return everything drawn, line by line, without colours and cursor movements."""
    return re.split(r"[\r\n]+", CONTROL.sub("", written(console)))


def run_sink(console: Console, clock, info, summary) -> ConsoleSink:
    sink = ConsoleSink(console, clock)
    sink.start(info)
    for step in range(1, 1001):
        clock.now += 0.1
        sink.progress(step, step / 100, {"loss/train": 0.43214, "accuracy/train": 0.841})
        if step % 100 == 0:
            sink.record(Record(step, step / 100, 0.0, {"accuracy/val": 0.8712}))
        if step == 500:
            sink.message("layer [conv3] is dead: 62 % of its channels give zero for every image of the batch", "warning")
    sink.finish(summary)
    sink.close()
    return sink


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_fit_the_terminal_except_paths_to_copy(clock, info, summary, width):
    console = terminal(width)
    run_sink(console, clock, info, summary)
    lines = lines_of(console)
    assert "…" not in written(console)
    folder = str(info.folder)
    assert [line for line in lines if len(line) > width and str(info.folder.parent) not in line] == []
    assert folder in lines
    assert f"folder: {folder}" in lines
    assert f"view: tensorboard --logdir {info.folder.parent}" in lines


@pytest.mark.parametrize(
    ("width", "wanted", "unwanted"),
    [
        (40, ["epoch  5.1/10", "0:49 left", "loss 0.4321", "val 87.1 %"], ["img/s", "━"]),
        (80, ["━", " 51 %", "epoch  5.1/10", "0:49 left", "step 507/1,000", "loss 0.4321", "train 84.1 %", "640 img/s"], []),
    ],
)
def test_narrow_terminal_drops_fields(clock, info, summary, width, wanted, unwanted):
    console = terminal(width)
    run_sink(console, clock, info, summary)
    frames = re.split(r"\r", CONTROL.sub("", written(console)))
    frame = next(frame for frame in frames if "  5.1/10" in frame and ("step" in frame or width == 40) and "0:49" in frame)
    assert [text for text in wanted if text not in frame] == []
    assert [text for text in unwanted if text in frame] == []


def test_view_draws_four_times_a_second_without_a_thread(clock, info):
    console = terminal(80)
    sink = ConsoleSink(console, clock)
    sink.start(info)
    threads = threading.active_count()
    for step in range(1, 1001):
        clock.now += 0.01
        sink.progress(step, step / 100, {"loss/train": 1.0})
    assert threading.active_count() == threads
    sink.close()
    assert 30 <= written(console).count("img/s") <= 42


def test_cursor_stays_visible(clock, info):
    console = terminal(80)
    sink = ConsoleSink(console, clock)
    sink.start(info)
    clock.now += 1
    sink.progress(1, 0.01, {})
    text = written(console)
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    sink.close()


def test_message_is_above_the_view_and_not_markup(clock, info, summary):
    console = terminal(140)
    run_sink(console, clock, info, summary)
    message = "warning: layer [conv3] is dead: 62 % of its channels give zero for every image of the batch"
    text = CONTROL.sub("", written(console))
    assert text.count(message + "\n") == 1
    assert re.match(r"\n━.* 50 %.*\nstep 4\d\d/1,000", text[text.index(message) + len(message) :])


def test_texts_move_no_cursor_and_colours_stay(clock, info, summary):
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\x1b[8m"
    console = terminal(80)
    sink = ConsoleSink(console, clock)
    sink.start(dataclasses.replace(info, name=hostile, data=hostile, device=hostile))
    sink.message(hostile, "warning")
    sink.finish(dataclasses.replace(summary, reason=hostile, memory_of=hostile))
    output = written(console)
    assert output.count("owned") >= 5
    assert "\x1b[33m" in output
    assert not re.search("\x1b\\]|\x1b\\[(2J|8m)|[\x07\x9b\r\u202e]", output)


def test_message_keeps_long_words_intact(clock):
    console = terminal(40)
    address = "/a/folder-with-hyphens/" + "x" * 60
    sink = ConsoleSink(console, clock)
    sink.message(f"the checkpoint could not be written to {address} because the disk is full", "error")
    assert address in lines_of(console)


def test_summary_at_80_columns(clock, info, summary):
    console = terminal(80)
    run_sink(console, clock, info, summary)
    text = CONTROL.sub("", written(console))
    rows = [line.rstrip() for line in text[text.index("done") :].splitlines()]
    assert rows[:-2] == [
        "done",
        "validation accuracy  87.10 ± 1.06 %  standard error, n = 1,000",
        "test accuracy        90.00 ± 0.60 %  standard error, n = 2,500",
        "train loss           0.3211",
        "validation loss      0.3540",
        "test loss            0.3612",
        "parameters           273,066",
        "FLOPs per image      12.3 M",
        "time                 1:02  1,000 steps",
        "speed                2,314 images/s",
        "peak memory          1.50 GiB  host",
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_command_to_resume_is_one_line(clock, info, summary, width):
    console, command = terminal(width), "train --config-dir '/my conf' trust=mine 'resume=\"/a folder/lr=0.1 (a)\"'"
    reason = f"SIGTERM after step 43; to resume: {command}"
    run_sink(console, clock, info, dataclasses.replace(summary, status="interrupted", reason=reason))
    lines = lines_of(console)
    assert f"to resume: {command}" in lines


def test_failure_before_start_has_a_summary(clock, summary):
    console = terminal(80)
    sink = ConsoleSink(console, clock)
    sink.progress(1, 0.1, {})
    sink.finish(dataclasses.replace(summary, status="failed", reason="out of memory"))
    assert "failed: out of memory" in lines_of(console)


def test_no_color_removes_colors(clock, info, summary):
    colours = re.compile(r"\x1b\[[0-9;]*(3[0-8]|9[0-7]|4[0-8])[0-9;]*m")
    with_colour, without = terminal(80), terminal(80, environment={"NO_COLOR": "1"})
    run_sink(with_colour, clock, info, summary)
    run_sink(without, clock, info, summary)
    assert colours.search(written(with_colour))
    assert not colours.search(written(without))
    assert "━" in written(without)


def test_ascii_terminal_gets_ascii_output(clock, info, summary):
    class Ascii(io.StringIO):
        encoding = "ascii"

    console = Console(file=Ascii(), force_terminal=True, width=80, _environ={"TERM": "xterm"})
    run_sink(console, clock, info, summary)
    assert written(console).isascii()


def test_remaining_time_follows_a_change_of_speed(clock, info):
    console = terminal(140)
    sink = ConsoleSink(console, clock)
    sink.start(info)
    for step in range(401, 801):  # as after a resume: the first step is not the first of the run
        clock.now += 0.1 if step <= 600 else 1.0
        sink.progress(step, step / 100, {})
    sink.close()
    assert "3:20 left" in lines_of(console)[-3]
