"""The live view in a real (pseudo) terminal, in its own process."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

SCRIPT = """
import fcntl, signal, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that the Ctrl-C typed into the terminal reaches this process
from pathlib import Path
from train.sinks.contracts import Record, RunInfo, Summary
from train.sinks.lines import stream_sink

folder, how = Path(sys.argv[1]), sys.argv[2]
numbers = (273066, 12345678, 700, 70, 10, 128, 10)
info = RunInfo(folder, "init=xavier norm=batch", "cpu", "bfloat16", *numbers, "fashion_mini", 9000, 1000, 2000)
stop = []
if how == "flag":
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
sink = stream_sink(sys.stdout)
try:
    sink.start(info)
    step = 0
    while not stop and step < (40 if how == "end" else 10_000):
        step += 1
        time.sleep(0.01)
        sink.progress(step, step / 70, {"loss/train": 0.4321, "accuracy/train": 0.84})
        if step == 35:
            sink.record(Record(step, 0.5, 0.0, {"accuracy/val": 0.87}))
            sink.message("layer conv3: 62 % of the channels are dead, and have been so since step 10", "warning")
            print("a stray print")
    sink.finish(Summary("interrupted" if stop else "done", "", folder, step, 1.0, 273066, 12345678, 0.87, 1000))
except KeyboardInterrupt:
    pass
finally:
    sink.close()
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_in_terminal(columns: int, folder: Path, how: str, **environment: str) -> str:
    """Return the output of the script in a terminal of `columns`; unless `how` is "end", type Ctrl-C once the view is drawn."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables |= {
        "TERM": "xterm-256color",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONIOENCODING": "utf-8",
        **environment,
    }
    command = [sys.executable, "-c", SCRIPT, str(folder), how]
    child = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=variables, start_new_session=True)
    os.close(terminal)
    output, typed, deadline = b"", how == "end", time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            if not select.select([controller], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(controller, 65536)
            except OSError:  # the other end of the terminal is closed
                break
            output += chunk
            if not typed and b"stray print" in output and output.count(b"loss 0.4321") > 3:
                os.write(controller, b"\x03")
                typed = True
        assert child.wait(timeout=5) == 0
    finally:
        child.kill()
        child.wait()
        os.close(controller)
    return output.decode()


@pytest.mark.parametrize("how", ["flag", "raise"])
@pytest.mark.parametrize("columns", [40, 80, 140])
def test_ctrl_c_leaves_cursor_and_last_lines_intact(tmp_path, columns, how):
    output = run_in_terminal(columns, tmp_path, how)
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")
    lines = re.split(r"[\r\n]+", CONTROL.sub("", output))
    assert [line for line in lines if len(line) > columns and str(tmp_path.parent) not in line] == []
    assert lines[-1] == ""
    assert "a stray print" in lines
    assert "Traceback" not in output
    if how == "raise":
        assert re.fullmatch(r"(step .*)?loss 0\.4321 .*", lines[-2])
    else:
        assert "interrupted" in lines
        assert lines[-2] == f"view: tensorboard --logdir {tmp_path.parent}"


def test_no_color_removes_colors_in_a_terminal(tmp_path):
    output = run_in_terminal(80, tmp_path, "end", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-8]", output)
    assert "━" in output


def test_dumb_terminal_gets_plain_lines(tmp_path):
    output = run_in_terminal(80, tmp_path, "end", TERM="dumb")
    assert "\x1b" not in output
    assert "step=35/700 epoch=0.50/10 " in output
    assert "validation accuracy: 87.00 +- 1.06 %" in output
