"""What the arms cost each class: the section of a page, and its intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.report.folders import write_sweep
from train.report.classes import ClassEffects, class_effects
from train.report.content import build_content
from train.report.figure_data import draw_all
from train.report.make import ReportOptions, analyse_folders
from train.report.render import html, markdown
from train.store.run import Run

CLASSES = ("coat", "bag", "boot")
IMAGES = (100, 50, 0)


def run_with(right: Sequence[int] | None, folder: Path, data: str = "d", **status: object) -> Run:
    summary = {} if right is None else {"test_correct_by_class": list(right)}
    return Run(folder, "done", "", "", "", {}, {}, (), status, summary, data=data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


def write_data(folder: Path, classes: Sequence[str] = CLASSES, images: Sequence[int] = IMAGES) -> None:
    content = {"classes": list(classes), "splits": {"test": {"images": sum(images), "counts": list(images)}}}
    (folder / "data.json").write_text(json.dumps(content))


def effects_of(folder: Path, arms: Mapping[str, Sequence[Sequence[int] | None]]) -> ClassEffects:
    return class_effects([(arm, [run_with(right, folder) for right in runs]) for arm, runs in arms.items()])


def test_differences_are_those_of_the_means(folder: Path) -> None:
    found = effects_of(folder, {"base": [(80, 40, 0), (82, 41, 0)], "flip": [(60, 40, 0), (64, 43, 0)]})
    assert found.names == ("coat", "bag")
    coat, bag = found.effects
    assert (coat.baseline, coat.accuracy) == (pytest.approx(0.81), pytest.approx(0.62))
    assert coat.difference == pytest.approx(-0.19)
    assert bag.difference == pytest.approx(0.02)
    assert found.intervals == 2


def test_family_is_all_classes_and_arms(folder: Path) -> None:
    runs = {"base": [(80, 40, 0), (82, 41, 0)], "flip": [(60, 40, 0), (64, 43, 0)]}
    alone, more = effects_of(folder, runs), effects_of(folder, runs | {"crop": [(70, 40, 0), (71, 44, 0)]})
    assert more.intervals == 4
    assert alone.effects[0].bound is not None
    assert more.effects[0].bound is not None
    assert more.effects[0].bound > alone.effects[0].bound
    assert sum(effect.p_adjusted or 0 for effect in more.effects[:2]) > sum(effect.p_adjusted or 0 for effect in alone.effects)


def test_unknown_spread_gives_no_interval(folder: Path) -> None:
    found = effects_of(folder, {"base": [(80, 40, 0)], "flip": [(60, 40, 0), (64, 43, 0)]})
    assert found.intervals == 0
    assert all(effect.low is None and effect.note for effect in found.effects)
    same = effects_of(folder, {"base": [(80, 40, 0)] * 3, "flip": [(60, 40, 0)] * 3})
    assert same.intervals == 0
    assert same.effects[0].difference == pytest.approx(-0.2)


LEFT_OUT: dict[str, Mapping[str, Sequence[Sequence[int] | None]]] = {
    "no runs": {},
    "one arm": {"base": [(80, 40, 0)]},
    "older runs": {"base": [None, None], "flip": [None]},
    "an older baseline": {"base": [None], "flip": [(1, 1, 0)]},
    "older runs in the other arm": {"base": [(1, 1, 0)], "flip": [None, None]},
    "fewer classes": {"base": [(1, 1)], "flip": [(1, 1, 0)]},
    "more right than there are": {"base": [(101, 1, 0)], "flip": [(1, 1, 0)]},
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_not_recorded_is_not_shown(case: str, folder: Path) -> None:
    assert effects_of(folder, LEFT_OUT[case]) == ClassEffects()


def test_arm_with_other_classes_is_left_out(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    write_data(other, ("x", "y", "z"))
    arms = [("base", [run_with((1, 2, 0), folder)] * 2), ("other", [run_with((1, 2, 0), other, "e")] * 2)]
    assert class_effects(arms) == ClassEffects()
    assert class_effects([*arms, ("flip", [run_with((1, 3, 0), folder)])]).arms == ("flip",)


def test_runs_without_data_are_left_out(folder: Path) -> None:
    assert class_effects([("base", [run_with((1, 2, 0), folder, "")]), ("flip", [run_with((1, 2, 0), folder)])]) == ClassEffects()


def test_intervals_hold_jointly_where_nothing_differs(folder: Path) -> None:
    """Three arms, ten classes of 200 images, five seeds that differ: some interval excludes zero in 5 % at most."""
    write_data(folder, [str(i) for i in range(10)], [200] * 10)
    draw = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        rates = np.clip(np.linspace(0.6, 0.97, 10) + draw.normal(0, 0.02, (3, 5, 10)), 0, 1)
        right = draw.binomial(200, rates)
        found = effects_of(folder, {str(arm): [row.tolist() for row in right[arm]] for arm in range(3)})
        wrong += found.excluding_zero > 0
    assert wrong <= 16  # P(more) < 0.04 at 5 %


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = write_sweep(tmp_path / "sweep", {("augment=none",): [0.8, 0.81, 0.79], ("augment=flip",): [0.7, 0.71, 0.72]})
    for number, file in enumerate(sorted(folder.glob("*/summary.json"))):
        write_data(file.parent, ("<b>coat</b>", "bag|", "boot"))
        status = json.loads((file.parent / "status.json").read_text())
        (file.parent / "status.json").write_text(json.dumps(status | {"data": "d"}))
        flips = "flip" in file.parent.name
        right = [50 + number if flips else 90 + number % 3, 40 + number % 2, 0]
        file.write_text(json.dumps(json.loads(file.read_text()) | {"test_correct_by_class": right}))
    return folder


def page_of(sweep: Path, metric: str = "accuracy/test", figures: bool = False) -> tuple[str, str]:
    analysis = analyse_folders([sweep], ReportOptions(metric))
    content = build_content(analysis, draw_all(analysis) if figures else ())
    return html(content, sweep), markdown(content, sweep)


def test_page_has_a_closed_table_of_classes(sweep: Path) -> None:
    page, text = page_of(sweep, figures=True)
    section = page.partition('<section id="classes">')[2].partition("</section>")[0]
    assert "<details><summary>2 classes x 1 arm: 1 of 2 intervals exclude zero</summary>" in section
    assert "&lt;b&gt;coat" in section
    assert "<b>coat" not in section
    assert 'id="figure-classes"' in section
    assert page.count('id="figure-classes"') == 1
    assert "## Classes" in text
    assert "simultaneous" in text.partition("## Classes")[2].partition("## Figures")[0]


def test_arm_that_is_not_comparable_is_left_out(sweep: Path) -> None:
    """A run that diverged leaves a selection of the others."""
    file = next(sweep.glob("*flip*/status.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "diverged"}))
    analysis = analyse_folders([sweep], ReportOptions())
    assert analysis.comparable == frozenset()
    assert analysis.classes == ClassEffects()


def test_page_of_another_metric_or_of_older_runs_has_none(sweep: Path) -> None:
    assert "## Classes" not in page_of(sweep, metric="accuracy/val")[1]
    for file in sweep.glob("*/summary.json"):
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "test_correct_by_class"}))
    page, text = page_of(sweep)
    assert "## Classes" not in text
    assert 'id="classes"' not in page
