"""Text on its way out: it reads the same, and nothing that shows it obeys it."""

from __future__ import annotations

import re
import sys
import unicodedata
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from train import escape

UNSHOWN = ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TEXTS = [
    "norm=batch",
    "<img src=x onerror=alert(1)>",
    "<details><summary>x",
    "<!-- x",
    "&lt;b&gt; &#60;b&#62; &copy;",
    "[a](javascript:alert(1))",
    "![i](http://evil.example/i.png)",
    "[ref][1] [^1]",
    "<https://evil.example>",
    "**b** __b__ *i* _i_ ~~s~~",
    "`code` ``two``",
    "a | b",
    "$x$ $$y$$",
    "# heading",
    "- item",
    "+ item",
    "* item",
    "1. item",
    "12) item",
    "> quote",
    "---",
    "===",
    "- - -",
    "    code",
    "```sh",
    "~~~",
    "a\\",
    "\\[a\\](b)",
    "|---|---|",
    "+1.20",
    "-",
    "<script>",
    "]]>",
    "@user and a@b.example @@",
    "https://evil.example www.evil.example ftp://x WWW.x.example",
    "`@`",
    "@`",
    "`@user",
    ":smile: {{ x }} {% y %}",
]


class Rendered(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = self.plain = ""
        self.feed(RENDERER.render(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(" ".join([tag, *(f"{name}={value}" for name, value in attrs)]))

    def handle_data(self, data: str) -> None:
        self.text += data
        self.plain += data if not self.tags or self.tags[-1] != "code" else ""

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


def test_terminal_shows_every_character() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        shown = escape.terminal(character)
        if character in "\n\t" or unicodedata.category(character) not in UNSHOWN:
            assert shown == character
        else:
            assert shown.isascii()
            assert shown.isprintable()
            assert shown.startswith("\\")


TABLE = "| a | b |\n|---|---|\n| {} | c |\n"


@pytest.mark.parametrize("place", ["{}", "- {}", "- **{}:** x", "# x {}", "x\n\n{}\n\n    train", TABLE])
def test_markdown_reads_as_the_text(place: str) -> None:
    expected = Rendered(place.format("word"))
    for text in TEXTS:
        rendered = Rendered(place.format(escape.markdown(text)))
        assert [tag for tag in rendered.tags if "code" not in tag] == [tag for tag in expected.tags if "code" not in tag], text
        assert rendered.text == expected.text.replace("word", text.strip())
        assert not re.search(r"@|://|www\.", rendered.plain, re.IGNORECASE), text


def test_markdown_code_reads_as_the_text() -> None:
    for text in TEXTS:
        rendered = Rendered(f"- {escape.markdown_code(text)}: x")
        assert rendered.text.replace("\n", "") == f"{text}: x"
        assert rendered.tags.count("code") == 1


CELLS = {
    "=1+1": "'=1+1",
    "+trainer.max_steps=5": "'+trainer.max_steps=5",
    "-cmd|' /C calc'!A0": "'-cmd|' /C calc'!A0",
    "@SUM(1)": "'@SUM(1)",
    "\t=1": "'=1",
    "\r=1": "\\r=1",
    "\n=1": "'=1",
    "  =1": "'=1",
    "\uff1d1": "'\uff1d1",
    "a;=1": "a;'=1",
    "-inf": "'-inf",
    "-1+1": "'-1+1",
    "1;2": "1;2",
    "-": "-",
    "": "",
    "-0.5": "-0.5",
    "+1e-05": "+1e-05",
    "norm=none": "norm=none",
    "a - b": "a - b",
}


def test_cells_are_no_formulas_and_numbers_stay_numbers() -> None:
    assert {text: escape.csv_cell(text) for text in CELLS} == CELLS
    assert [escape.csv_cell(value) for value in (-3, 0.1, True)] == ["-3", "0.1", "True"]
