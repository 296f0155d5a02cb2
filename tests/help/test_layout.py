"""Text that fits the terminal keeps its columns, its examples and its words."""

from __future__ import annotations

import pytest

from train.help.layout import NARROWEST, WIDEST, fitted, terminal_width

TEXT = """\
A sentence that says what this is, in one paragraph that
goes on in a second line.

  train norm=batch          # trains with batch norm, which is the default of this program
  train -m norm=none,batch 'seed=range(5)' trainer.epochs=3 optimizer.lr=0.02,0.06

  key=value                 what it means, in words that need more than a line of a narrow terminal,
                            and a line of its own
  a.very.long.key=value     an.even.longer.value=[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]
"""


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_text_fits_and_loses_no_word(width: int) -> None:
    lines = fitted(TEXT, width).splitlines()
    assert max(map(len, lines)) <= max(width, len("      an.even.longer.value=[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]"))
    dropped = {"#", "\\"}
    assert [w for line in lines for w in line.split() if w not in dropped and "train" not in line] != []
    words = sorted(word for word in TEXT.split() if word not in dropped)
    assert sorted(word for line in lines for word in line.split() if word not in dropped) == words


def test_columns_hang_where_there_is_room_and_go_below_elsewhere() -> None:
    text = "  key=value   a meaning of some words that goes on and on"
    assert fitted(text, 44) == "  key=value   a meaning of some words that\n              goes on and on"
    assert fitted(text, 38) == "  key=value\n      a meaning of some words that\n      goes on and on"


def test_comment_of_a_command_stays_a_comment() -> None:
    text = "  train norm=batch    # trains with batch norm, which is the default"
    assert fitted(text, 54) == "  train norm=batch    # trains with batch norm, which\n                      # is the default"
    assert fitted(text, 45) == "  # trains with batch norm, which is the\n  # default\n  train norm=batch"


def test_quoted_override_is_not_torn() -> None:
    assert "\n'sweep.baseline={norm: none}'" in fitted("Names the arm to compare with: 'sweep.baseline={norm: none}'", 44)


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("5", NARROWEST), ("500", WIDEST)])
def test_width_is_that_of_the_terminal(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal_width() == width
