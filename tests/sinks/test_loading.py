"""What is shown while a data set is loaded: a line in a terminal, one line elsewhere if it takes long, else nothing."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from train.sinks.loading import LoadingLine, LoadingView, loading_text, loading_view


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


TEXTS = {
    ("hashing", 12_000, 100_000): "data: hashing 12,000 of 100,000 files (12 %)",
    ("listing", 5, 0): "data: listing 5 files",
    ("waiting for the process that makes the cache", 0, 0): "data: waiting for the process that makes the cache",
    ("checking", 7, 7): "data: checking 7 of 7 files (100 %)",
}


@pytest.mark.parametrize("told", TEXTS)
def test_text_says_how_far_the_work_is(told: Any) -> None:
    assert loading_text(*told) == TEXTS[told]


def test_short_work_writes_no_line_and_long_work_one_a_minute() -> None:
    clock, lines = Clock(), list[str]()
    view = LoadingLine(lines.append, clock)
    for done in range(10):
        clock.now += 0.25
        view.tell("hashing", done, 1000)
    assert lines == []
    for done in range(10, 100):
        clock.now += 0.25
        view.tell("hashing", done, 1000)
    assert lines == ["data: hashing 11 of 1,000 files (1 %)"]
    for done in range(100, 1000):
        clock.now += 0.25
        view.tell("hashing", done, 1000)
    assert [line.split(" of")[0] for line in lines] == [f"data: hashing {done}" for done in (11, 251, 491, 731, 971)]


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=60)


def test_terminal_shows_long_work_and_is_clean_in_the_end() -> None:
    clock, console = Clock(), terminal()
    view = LoadingView(console, clock)
    view.tell("listing", 3, 0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
    clock.now += 1
    view.tell("hashing", 30, 100)
    view.tell("hashing", 31, 100)
    assert "data: hashing 30 of 100 files (30 %)" in console.file.getvalue()
    assert "31 of" not in console.file.getvalue(), "not more often than can be read"
    view.close()
    assert console.file.getvalue().endswith(("\x1b[1A\x1b[2K", "\x1b[2K")), "the line is cleared"
    view.close()


def test_stream_that_is_no_terminal_gets_lines() -> None:
    stream = io.StringIO()
    with loading_view(stream) as tell:
        tell("hashing", 1, 2)
    assert stream.getvalue() == ""
