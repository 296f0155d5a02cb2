"""The figures of a report; a warning of matplotlib is an error here."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from train.figures.classes import draw_classes
from train.figures.cost import CLOCK_S, MAX_TICKS, ArmCost, draw_cost, spacing
from train.figures.curves import ArmCurves, Chart, CurveLine, draw_panels, draw_together
from train.figures.forest import ForestRow, draw_forest
from train.figures.heat_table import draw_heat
from train.figures.rates import RateRow, draw_rates
from train.figures.style import ON_DARK, ON_LIGHT, WIDTH_IN, ArmStyle, shortened, style, wrapped

STYLES = [ArmStyle(1, "baseline", "#000000", "o", "-", True), ArmStyle(2, "norm=none", "#0072b2", "s", "-", False)]


@pytest.mark.parametrize("draw", [lambda chart: draw_together([chart]), draw_panels])
def test_learning_curves_keep_their_axes_when_a_run_explodes(draw) -> None:
    steady = CurveLine((0.0, 1.0, 2.0), (2.3, 1.0, 0.5), ended=True)
    pictures = []
    for last in (3.0, 1e30):
        exploded = CurveLine((0.0, 1.0), (2.3, last), ended=False)
        arms = [ArmCurves(style, [line], []) for style, line in zip(STYLES, (steady, exploded), strict=True)]
        pictures.append(draw(Chart("training loss", False, arms)).decode())
    boxes = [re.search(r'<g id="patch_2">\s*<path d="([^"]*)"', picture) for picture in pictures]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0].group(1) == boxes[1].group(1), "the exploded run must not move the axes"


@pytest.mark.parametrize("times_s", [[3600.0], [0.0, 0.0], [86400.0, 86400.0]])
def test_draw_cost_has_few_ticks_for_equal_times(times_s: list[float]) -> None:
    cost = ArmCost(STYLES[0], [(time_s, 0.5) for time_s in times_s], (times_s[0], 0.5), len(times_s))
    picture = draw_cost([cost], "test accuracy", True).decode()
    assert picture.count('id="xtick_') <= 2 * MAX_TICKS


@pytest.mark.parametrize("range_s", [0.3, 7, 59, 61, 1000, 40_000, 1e7])
def test_spacing_gives_few_clock_ticks(range_s: float) -> None:
    step = spacing(range_s)
    assert range_s / step <= MAX_TICKS
    if step <= CLOCK_S[-1]:
        assert any(math.isclose(step, tick) for tick in CLOCK_S)


@pytest.mark.parametrize(
    "arm",
    [
        ArmCurves(STYLES[1], [], [(1.0, 0.5)]),
        ArmCurves(STYLES[1], [CurveLine((1.0,), (0.5,), ended=True)], []),
        ArmCurves(STYLES[1], [], [], [(1.0, 0.4, 0.6)]),
    ],
    ids=["mean", "run", "band"],
)
def test_panel_of_one_point_shows_it(arm: ArmCurves) -> None:
    """A line without a second point, or an area without a width, is nothing that can be seen."""
    picture = draw_panels(Chart("validation accuracy", True, [arm])).decode()
    marks = [shape for shape in re.findall(r"<(?:path|use)[^>]*>", picture) if re.search("(?:fill|stroke): #0072b2", shape)]
    assert any("<use" in shape or re.search(r"stroke-width: [3-9]", shape) for shape in marks)


def test_baseline_of_one_point_is_in_every_panel() -> None:
    arms = [ArmCurves(style, [], [(1.0, value)]) for style, value in zip(STYLES, (0.5, 0.7), strict=True)]
    picture = draw_panels(Chart("validation accuracy", True, arms)).decode()
    assert re.search(r"<use[^>]*stroke: #595959", picture)


FIGURES = {
    "forest": lambda: draw_forest([ForestRow(style, 0.5, 0.1, 0.9, "+0.5") for style in STYLES], "difference " * 9, 0.2),
    "rates": lambda: draw_rates([RateRow(style, 0.5, 0.1, 0.9, "1 of 2") for style in STYLES], "runs that trained"),
    "cost": lambda: draw_cost([ArmCost(style, [(1.0, 0.5)], (1.0, 0.5), 1) for style in STYLES], "test accuracy", True),
    "classes": lambda: draw_classes(["a"], STYLES, np.array([[3.0, 0.1]]), np.array([[True, False]])),
    "panels": lambda: draw_panels(Chart("loss", False, [ArmCurves(style, [], [(0.0, 1.0), (1.0, 2.0)]) for style in STYLES])),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_as_wide_as_the_style_says_and_dark_where_preferred(name: str) -> None:
    with style():
        picture = FIGURES[name]().decode()
    box = re.search(r'viewBox="0 0 ([\d.]+)', picture)
    assert box
    assert float(box[1]) == pytest.approx(72 * WIDTH_IN)
    rules, shapes = picture.split("</style>", 1)
    assert "prefers-color-scheme:dark" in rules
    greys = {colour for colour, _ in re.findall(r"(?:fill|stroke): (#(\w\w)\2\2)\b", shapes)}
    assert {grey for grey in greys if f": {grey}" not in rules} <= {ON_LIGHT, ON_DARK}


@pytest.mark.parametrize(
    ("label", "width", "short"),
    [
        ("norm=batch", 10, "norm=batch"),
        ("norm=batch init=kaiming regularization=dropout", 30, "norm=batch init=\u2026dropout"),
        ("regularization=weight_decay", 24, "regularization=\u2026decay"),
        ("init=gaussian (baseline)", 18, "init=\u2026(baseline)"),
        ("regularization=weight_decay init=orthogonal", 18, "regular\u2026orthogonal"),
        ("x" * 30, 10, "xxxxxx\u2026xxx"),
    ],
)
def test_short_label_leaves_out_whole_words(label: str, width: int, short: str) -> None:
    assert shortened(label, width) == short


def test_label_breaks_between_words() -> None:
    assert wrapped("init=kaiming norm=batch", 14) == "init=kaiming\nnorm=batch"
    assert wrapped("regularization=dropout", 16) == "regularization=\ndropout"


@pytest.mark.parametrize(("arms", "written"), [(2, 2 * (3 * 2 - 1)), (30, 0)])
def test_cells_of_a_map_hold_numbers_where_they_have_room(arms: int, written: int) -> None:
    values = np.geomspace(1e-3, 10, 3 * arms).reshape(3, arms)
    values[1, 1] = np.nan
    with style():
        picture = draw_heat("std", ["a", "b", "c"], (STYLES * 15)[:arms], values, values).decode()
    assert len(re.findall(f'<g style="fill: (?:{ON_LIGHT}|{ON_DARK})"', picture)) == written
