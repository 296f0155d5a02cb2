"""Progress and display of a running sweep."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from train.sinks.lines import line_writer
from train.sweep.display import LineDisplay, LiveDisplay, display_for, render_table
from train.sweep.progress import JobProgress, JobRow, job_labels, remaining_s, state_counts


def make_rows(count: int) -> list[JobRow]:
    """Return `count` rows: two are running, those before have ended, those after are waiting."""
    rows = []
    for number in range(1, count + 1):
        row = JobRow(number, f"norm=group init=gaussian model.activation=leaky_relu seed={number}", started_at=float(number))
        if number < count // 2:
            row.state, row.ended_at, row.accuracies = "done", number + 10.0, {"test": 0.5, "val": 0.625, "train": 0.75}
        elif number < count // 2 + 2:
            row.state, row.step, row.total_steps, row.remaining_s, row.device = "running", 1200, 10_000, 3723.0, "cuda:1"
        rows.append(row)
    rows[2].state, rows[2].reason = "failed", "killed by SIGSEGV (signal 11)"
    return rows


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_render_table_fits_terminal(width: int) -> None:
    lines = [line.rstrip() for line in table_lines(make_rows(200), width)]
    assert max(map(len, lines)) <= width
    assert len(lines) <= 13
    assert len([line for line in lines if "12 %" in line]) == 2, "running jobs are visible"
    assert "98 done, 1 failed, 2 running, 99 waiting"[: width - 1] in lines[-1]
    assert ("1,200/10,000" in "\n".join(lines)) == (width >= 100)
    assert ("seed=100" in "\n".join(lines)) == (width >= 80), "a long label keeps its end where there is room"


@pytest.mark.parametrize(
    ("width", "label", "expected"),
    [
        (60, "norm=group init=gaussian seed={}", "group gaussian seed={}"),
        (60, "norm=group init=gaussian model.width={}", "group gaussian {}"),
        (60, "norm=group init=gaussian model.activation={} (baseline)", "group gaussian {}"),
        (80, "norm=group init=gaussian seed={}", "norm=group init=gaussian seed={}"),
        (80, "norm=group model.activation=leaky_relu seed={}", "norm=group activation=leaky_relu seed={}"),
        (80, "norm=group init=gaussian model.activation=leaky_relu seed={}", "group gaussian leaky_relu seed={}"),
        (140, "norm=group init=gaussian model.activation=leaky_relu seed={}", None),
    ],
)
def test_labels_are_cut_only_where_there_is_no_room(width: int, label: str, expected: str | None) -> None:
    rows = [replace(row, label=label.format(row.number)) for row in make_rows(8)]
    lines = table_lines(rows, width)
    assert all(f" {(expected or label).format(row.number)}  " in line for row, line in zip(rows, lines[1:], strict=False))
    assert not any("…" in line for line in lines)


def test_shortened_labels_stay_distinct() -> None:
    rows = make_rows(4)
    for row, key in zip(rows, ("model.width", "model.depth") * 2, strict=True):
        row.label = f"{key}=16 {'x' * 40}={row.number // 3} seed=0"
    assert not any(" 16 " in line for line in table_lines(rows, 80)), "of what is 16?"


def table_lines(rows: list[JobRow], width: int) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, no_color=True, color_system=None)
    console.print(render_table(rows, 2, 150.0, width, 12))
    return stream.getvalue().splitlines()


def table_text(rows: list[JobRow]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120, force_terminal=True, color_system=None).print(render_table(rows, 2, 50.0, 120, 20))
    return stream.getvalue()


def test_column_of_accuracies_has_one_meaning() -> None:
    """Validation while any run waits or runs, test once all have ended, never test for runs that only try levels."""
    rows = make_rows(8)
    rows[3].accuracies = {"train": 0.875, "val": 0.125}
    going_on = table_text(rows)
    assert ("val acc" in going_on, "62.5 %" in going_on, "12.5 %" in going_on) == (True, True, True)
    assert not re.search("50.0 %|75.0 %|87.5 %|test", going_on)
    for row in rows[3:]:
        row.state, row.accuracies = "done", {"test": 0.5, "val": 0.625}
    ended = table_text(rows)
    assert ("test acc" in ended, "50.0 %" in ended, "62.5 %" in ended) == (True, True, False)
    trials = table_text([replace(row, tries=True) for row in rows])
    assert ("val acc" in trials, "62.5 %" in trials, "50.0 %" in trials) == (True, True, False)
    without_validation = table_text([replace(row, state="running", accuracies={"train": 0.25}) for row in rows[:2]])
    assert "25.0 %" not in without_validation, "it may still be validated"
    assert "train acc" in table_text([replace(rows[4], accuracies={"train": 0.25}), replace(rows[6], state="waiting")])


def test_live_display_prints_header_and_failures() -> None:
    stream = io.StringIO()
    display = LiveDisplay(Console(file=stream, width=80, height=20, force_terminal=True, color_system=None))
    all_rows = make_rows(8)
    display.open(Path("outputs/a_sweep"), all_rows, "2 at a time on the CPU, 1 thread each")
    display.update(all_rows, 2, 20.0)
    display.job_ended(all_rows[2], 20.0)
    display.close()
    text = stream.getvalue()
    assert "8 runs, 2 at a time on the CPU" in text
    assert "3: failed norm=group" in text
    assert "SIGSEGV" in text


def test_displays_show_every_character() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e\n# owned"
    rows = [replace(row, label=hostile, reason=hostile) for row in make_rows(4)]
    plain, live = io.StringIO(), io.StringIO()
    for display in (LineDisplay(line_writer(plain)), LiveDisplay(Console(file=live, force_terminal=True, width=100))):
        display.open(Path(hostile), rows, hostile)
        for row in rows:
            display.job_started(row)
            display.job_ended(row, now=1.0)
        display.message(hostile)
        display.update(rows, 1, 1.0)
        display.close()
    for output in (plain.getvalue(), live.getvalue()):
        assert output.count("owned") >= 8
        assert not re.search("\x1b\\]|\x1b\\[2J|[\x07\x9b\u202e]|^# owned", output, re.MULTILINE)


def test_line_display_writes_one_line_per_start_and_end() -> None:
    lines: list[str] = []
    display = LineDisplay(lines.append)
    all_rows = make_rows(8)
    display.open(Path("outputs/a_sweep"), all_rows, "2 at a time on the CPU, 1 thread each")
    del lines[:]
    display.job_started(all_rows[3])
    for _ in range(5):
        display.update(all_rows, 2, 20.0)
    display.job_ended(all_rows[0], 20.0)
    display.job_ended(all_rows[2], 20.0)
    assert [line.split(" ")[:2] for line in lines] == [["[4/8]", "running"], ["[1/8]", "done"], ["[3/8]", "failed"]]
    assert "validation accuracy 62.5 %" in lines[1]
    assert "50.0 %" not in lines[1]
    assert lines[2].endswith("killed by SIGSEGV (signal 11)")
    assert isinstance(display_for(io.StringIO()), LineDisplay)


def test_job_progress_reads_files_while_they_are_written(tmp_path: Path) -> None:
    row, progress = JobRow(1, "a run", state="running"), JobProgress(tmp_path)
    progress.update(row)
    assert (row.step, row.total_steps, row.accuracies) == (0, None, {}), "no files yet"
    (tmp_path / "status.json").write_text(json.dumps({"status": "running", "total_steps": 100}))
    line = '{{"step":{step},"epoch":0.1,"time_s":{time},"values":{{"{tag}":{value}}}}}\n'
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.write(line.format(step=20, time=1.0, tag="accuracy/train", value=0.25))
        file.write(line.format(step=40, time=3.0, tag="accuracy/val", value=0.5) + '{"step":60,"ti')
        file.flush()
        progress.update(row)
        assert (row.step, row.total_steps, row.accuracies) == (40, 100, {"train": 0.25, "val": 0.5})
        assert row.remaining_s == pytest.approx(6.0)
        file.write('me_s":5.0,"epoch":1,"values":{"loss/train":"NaN","accuracy/val":"NaN"}}\nnonsense\n[1]\n')
    progress.update(row)
    assert (row.step, row.accuracies["val"]) == (60, 0.5)


def test_remaining_s_of_sweep() -> None:
    done = JobRow(1, "", state="done", started_at=0.0, ended_at=10.0)
    running = JobRow(2, "", state="running", started_at=10.0, remaining_s=4.0)
    waiting = [JobRow(number, "") for number in (3, 4, 5)]
    assert remaining_s([done, running, *waiting], 2, 16.0) == pytest.approx((4 + 30) / 2)
    assert remaining_s([running], 2, 16.0) == pytest.approx(4.0)
    assert remaining_s([JobRow(1, "", state="running")], 2, 16.0) is None
    assert state_counts([done, running, *waiting]) == {"done": 1, "running": 1, "waiting": 3}


def test_job_labels_hold_distinct_overrides_only(tmp_path: Path) -> None:
    jobs = [["trainer.epochs=1", "norm=none", "seed=0"], ["trainer.epochs=1", "norm=batch", "seed=0"]]
    assert job_labels(jobs, tmp_path) == [
        "norm=none",
        "norm=batch",
    ]
    assert job_labels([["norm=none", "hydra.sweep.subdir='a'"]], tmp_path) == ["norm=none"]
    assert job_labels([[]], tmp_path) == ["the defaults"]
