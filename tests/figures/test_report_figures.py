"""The figures of a report; a warning of matplotlib is an error here."""

from __future__ import annotations

import math
import re

import pytest

from train.figures.cost import CLOCK_S, MAX_TICKS, ArmCost, draw_cost, spacing
from train.figures.curves import ArmCurves, Chart, CurveLine, draw_panels, draw_together
from train.figures.style import ArmStyle

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
