"""The picture of a terminal in the README: what remains on the screen after lines were written again."""

from __future__ import annotations

import pytest

from scripts.terminal import screen

SCREENS = {
    "a\r\nb\r\n": ["a", "b", ""],
    "10 %\r20 %\r\ndone": ["20 %", "done"],
    "bar\r\nloss 2\r\x1b[2K\x1b[1A\x1b[2Kbar!\r\nloss 1": ["bar!", "loss 1"],
    "\x1b[?25l\x1b[1mbold\x1b[0m\x1b[?25h": ["\x1b[1mbold\x1b[0m"],
    "a\r\n\r\n\x1b[2Ab": ["b", "", ""],
}


@pytest.mark.parametrize("text", SCREENS)
def test_screen_keeps_what_was_written_last(text: str) -> None:
    assert screen(text) == SCREENS[text]
