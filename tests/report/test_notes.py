"""Every note and caution of a report is given once: not twice, and not in other words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.folders import write_run, write_sweep
from train.report.content import build_content
from train.report.make import ReportOptions, analyse_folders
from train.report.render import as_text, html, markdown

SMALL: dict[str, Any] = {"records": 2, "layers": 1}
BATCH, NONE, GROUP = ("norm=batch",), ("norm=none",), ("norm=group",)
GRID = [(f"norm={norm}", f"init={init}") for init in ("kaiming", "xavier") for norm in ("batch", "none")]
LACKS = {"contradictions": ["norm=batch, but the network has no norm layer. Does the model use its argument `norm`?"]}
CHANCE = {"diagnosis": {"kind": "cannot_learn", "finding": "nothing", "statistic": "", "layer": "", "step": None}}


def without_plan(folder: Path) -> None:
    for number, state in enumerate(("done", "done", "diverged", "failed", "running")):
        accuracy = 0.8 + number / 100 if state == "done" else None
        for norm in ("batch", "none"):
            write_run(folder / f"{norm}{number}", [f"norm={norm}", f"seed={number}"], accuracy, state, **SMALL)


def with_lost_runs(folder: Path) -> None:
    write_sweep(folder, {BATCH: (0.8, 0.81, 0.82), NONE: (0.6, 0.61, 0.62, 0.63), GROUP: (0.7, 0.71, 0.72)}, without=2, **SMALL)
    for number, state in enumerate(("diverged", "failed", "done")):
        status = CHANCE if state == "done" else None
        accuracy = 0.1 if state == "done" else None
        write_run(folder / state, ["norm=none", f"seed={number + 7}"], accuracy, state, status=status, **SMALL)


def planned_twice(folder: Path) -> None:
    for name in ("first", "second"):
        write_sweep(folder / name, {BATCH: (0.8, 0.81), NONE: (0.6, 0.61)}, **SMALL)


def sweep(arms: dict[Any, Any], **run: Any) -> Callable[[Path], Any]:
    return lambda folder: write_sweep(folder, arms, **SMALL, **run)


STUDIES: dict[str, Callable[[Path], Any]] = {
    "one seed": sweep({BATCH: (0.8,), NONE: (0.6,), GROUP: (0.7,)}),
    "one seed in a grid": sweep(dict(zip(GRID, ((0.8,), (0.6,), (0.75,), (0.4,)), strict=True))),
    "equal runs": sweep({BATCH: (0.8, 0.8), NONE: (0.6, 0.6), GROUP: (0.7, 0.7)}),
    "missing runs": sweep({BATCH: (0.8, 0.81, 0.82), NONE: (0.6, 0.61, 0.62), GROUP: (0.7, 0.71, 0.72)}, without=2),
    "nothing trained": sweep({BATCH: (0.1, 0.1), NONE: (0.1, 0.1)}, status=CHANCE),
    "contradictions": sweep({BATCH: (0.8, 0.81), NONE: (0.6, 0.61), GROUP: (0.7, 0.72)}, summary=LACKS),
    "one at a time": sweep({(): (0.8, 0.81), NONE: (0.6, 0.61), ("init=xavier",): (0.7, 0.7)}, design="one_at_a_time"),
    "no plan": without_plan,
    "lost runs": with_lost_runs,
    "two plans": planned_twice,
}
FACTS = {
    "diverged runs": r"\d (?:runs? )?diverged",
    "runs that learned nothing": r"\d (?:runs? )?learned nothing",
    "failed runs": r"\d (?:runs? )?failed",
    "what no plan says": r"[Nn]o plan",
    "an ingredient that is missing": r"has no norm layer",
    "runs to come": r"(?:is|are) missing",
    "a spread that is unknown": r"no estimate of the spread|same value, so the spread",
}


@pytest.mark.parametrize("study", STUDIES)
def test_page_and_terminal_give_every_note_once(tmp_path: Path, study: str) -> None:
    (folder := tmp_path / "runs").mkdir()
    STUDIES[study](folder)
    analysis = analyse_folders([folder], ReportOptions(pairs=True))
    content = build_content(analysis, ())
    notes = notes_of(html(content, folder))
    assert [note for note, count in Counter(notes).items() if count > 1] == []
    for fact, pattern in FACTS.items():
        given = [note for note in notes if re.search(pattern, note)]
        assert len(given) <= 1, fact
    text = [line for line in markdown(content, folder).splitlines() if len(line) > 30 and not line.startswith(("|", "    "))]
    assert len(set(text)) == len(text)
    terminal = [line for line in as_text(analysis, folder).splitlines() if line]
    assert len(set(terminal)) == len(terminal)
    assert sum("warning: " in line for line in terminal) == 0, "the claims say it"


def notes_of(page: str) -> list[str]:
    """Return the text of the header but its counts, of the lines below tables, of threats and of other notes."""
    rest = re.sub(
        r"<dt>Runs</dt><dd>.*?</dd>|<style>.*?</style>|<table.*?</table>|<article.*?</article>|<details.*?</details>",
        "",
        page,
        flags=re.DOTALL,
    )
    items = re.findall(r'<dd[^>]*>(.*?)</dd>|<p class="aside">(.*?)</p>|<li(?: [^>]*)?>(.*?)</li>|<p>(.*?)</p>', rest, re.DOTALL)
    return [" ".join(re.sub("<[^>]*>", " ", "".join(item)).split()) for item in items]
