"""A stranger's folder on its way to a terminal, Markdown, HTML, a spreadsheet, figures and a shell: its text stays text."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.conftest import Train
from tests.report.folders import write_run, write_sweep
from tests.report.hostile import write_hostile_sweep
from tests.test_command import pasted
from train.report import cli
from train.report.make import ReportOptions, make_report


class Elements(HTMLParser):
    """Collects the elements of a page with the names of their attributes, its links and comments, and the text of its code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[tuple[str, ...]] = set()
        self.links: set[str] = set()
        self.comments: list[str] = []
        self.commands: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, *(name for name, _ in attrs)))
        self.links |= {value or "" for name, value in attrs if name in ("href", "src", "action", "style")}
        if tag in ("code", "pre"):
            self.open.append(tag)
            self.commands.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.commands[-1] += data
        self.text += "" if self.open else data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def invisible(text: str) -> set[str]:
    """Return the characters of a text that a terminal or a browser would obey instead of showing them."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile_sweep(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def output(hostile: Path) -> str:
    """The report of the sweep; its text for a terminal."""
    return make_report([hostile], hostile / "out", ReportOptions(pairs=True))[1]


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all sections of runs without a payload."""
    arms = {("norm=batch",): (0.8, 0.81, 0.82), ("norm=none",): (0.6, 0.61, 0.62, 0.6)}
    sweep = write_sweep(tmp_path_factory.mktemp("harmless") / "sweep", arms, without=1, records=3)
    for seed, state in enumerate(("diverged", "failed", "interrupted", "queued"), start=5):
        write_run(sweep / state, [f"seed={seed}"], None, state, reason="r")
    make_report([sweep], sweep / "out", ReportOptions(pairs=True))
    return sweep / "out"


def files(folder: Path, pattern: str) -> Iterator[str]:
    for path in (folder / "out").rglob(pattern):
        yield path.read_text(encoding="utf-8")


def test_terminal_shows_no_control_characters(output: str) -> None:
    assert "owned" in output
    assert invisible(output) == set()
    assert not re.search(r"^(# heading|- item|---)", output, re.MULTILINE), "a text stays within its line"


@pytest.mark.usefixtures("output")
def test_page_has_no_element_or_attribute_of_the_stranger(hostile: Path, harmless: Path) -> None:
    (page,) = files(hostile, "report.html")
    elements, expected = Elements(page), Elements((harmless / "report.html").read_text())
    assert "HYPERLINK" in page
    assert {tag[0] for tag in elements.found} <= {tag[0] for tag in expected.found} | {"ul", "li", "h3", "small", "b", "wbr"}
    assert {name for tag in elements.found for name in tag[1:]} <= {name for tag in expected.found for name in tag[1:]} | {
        "title"
    }
    assert not {tag for tag in elements.found if any(name.startswith("on") for name in tag[1:])}
    assert all(link.startswith("data:") for link in elements.links)
    assert elements.comments == []
    assert invisible(page) == set()


@pytest.mark.usefixtures("output")
def test_markdown_has_no_element_of_the_stranger(hostile: Path) -> None:
    (text,) = files(hostile, "report.md")
    assert "HYPERLINK" in text
    assert invisible(text) == set()
    elements = Elements(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
    assert {tag[0] for tag in elements.found} <= {
        *("h1", "h2", "h3", "p", "ul", "li", "strong", "code", "pre", "img"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert all(re.fullmatch(r"figures/\w+\.svg", link) or link.startswith("text-align") for link in elements.links)
    assert elements.comments == []
    assert not re.search(r"@|://|www\.", elements.text), "some would make links and mentions of these"
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert "heading" not in headings


@pytest.mark.usefixtures("output")
def test_cells_of_results_csv_are_no_formulas(hostile: Path) -> None:
    (text,) = files(hostile, "results.csv")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert [cell for cell in cells if re.match(r"[=+@-][^\d.]", cell)] == []
    assert [cell for cell in cells if re.search(r";[=+@-]", cell)] == []
    assert invisible(text) == set()


@pytest.mark.usefixtures("output")
def test_figures_hold_no_text_of_the_stranger(hostile: Path) -> None:
    for svg in files(hostile, "*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()}
        assert tags.isdisjoint({"script", "a", "foreignObject"})
        assert not re.search(r"<(script|img|details)|\bon\w+=", svg)
        assert invisible(svg) == set()


@pytest.mark.parametrize("name", ["report.html", "report.md", "results.csv"])
@pytest.mark.usefixtures("output")
def test_commands_of_stored_runs_name_nothing_to_trust(hostile: Path, name: str) -> None:
    (text,) = files(hostile, name)
    commands = list(commands_in(text, name))
    assert len(commands) >= 7
    for word in pasted(" ;\n".join(commands)):
        key = word.partition("=")[0]
        assert not re.match(r"[+~]*(trust|hydra(?!\.sweep\.dir$)|resume|.*\.\./|.*@)|-(?!m$)", key), word
        assert "/.." not in word or "." in key
    assert name == "results.csv" or "packages to trust: os" in text


def commands_in(text: str, name: str) -> Iterator[str]:
    if name == "results.csv":
        yield from (row["command"] for row in csv.DictReader(io.StringIO(text, newline="")))
        return
    page = text if name == "report.html" else MarkdownIt("commonmark").render(text)
    for block in Elements(page).commands:
        yield from (line for line in block.splitlines() if line.startswith("train "))


def test_terminal_of_train_shows_no_control_characters(hostile: Path, train: Train) -> None:
    diverged = next(path.parent for path in hostile.glob("diverged*/status.json"))
    for folder in (hostile, diverged, hostile / "nowhere\x1b[2J\nx"):
        result = train(f"resume={folder}", timeout=60)
        assert result.returncode == 2
        assert "owned" in result.stderr
        assert "Traceback" not in result.stderr
        assert invisible(result.stdout + result.stderr) == set()
        assert "trust=" not in result.stderr
        assert not re.search(r"^(# heading|- item|---)", result.stderr, re.MULTILINE)
        assert (folder == hostile) == ("packages to trust: os" in result.stderr)


def test_settings_of_matplotlib_in_the_current_folder_are_not_read(tmp_path: Path) -> None:
    """One enters the folder and types `train-report .`; `text.usetex` would start LaTeX, and a pipe would be waited for."""
    os.mkfifo(tmp_path / "matplotlibrc")
    program = "import train.figures.style, matplotlib; print(matplotlib.rcParams['text.usetex'])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, timeout=60, check=True)


def test_terminal_of_diff_shows_no_control_characters(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sorted(path.parent for path in hostile.glob("*/summary.json"))[2:4]
    assert cli.run(["diff", str(first), str(second)]) == 0
    assert cli.run(["diff", str(first), str(hostile / "nowhere\x1b[2J")]) == 2
    assert cli.run([str(hostile), "--out", str(hostile / "out2"), "--baseline", "none"]) == 2
    for text in capsys.readouterr():
        assert "owned" in text
        assert invisible(text) == set()
        assert not re.search(r"^(# heading|- item|---)", text, re.MULTILINE)
