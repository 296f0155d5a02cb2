"""The figures of one run; a warning of matplotlib is an error here."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from train.figures.batch import draw_batch
from train.figures.profile import draw_profile
from train.figures.signal import Point, draw_signal
from train.figures.style import log_scale, style


@pytest.mark.parametrize(
    "profiles",
    [
        [(0, [1.0, 0.5])],
        [(0, [1.0, 0.5]), (10, [math.nan, math.inf])],
        [(0, [0.0, 0.0]), (10, [1e-30, 1e30])],
        [(step, [1.0, 2.0]) for step in range(6)],
    ],
    ids=["one step", "broken", "zero and huge", "six steps"],
)
@pytest.mark.parametrize("expected", [[None, None], [0.9, None], [0.9, 0.8]], ids=["no theory", "in part", "theory"])
def test_profile_of_any_values_is_drawn(profiles, expected) -> None:
    assert draw_profile(["stage1.conv1", "act$_1$"], profiles, expected, "norm=$x$").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "values", [[0.5, 3.0], [0.5, 0.5], [0.9, 1.1], [0.11, 0.19], [2.0, 30.0], [1e-9, 3e3], [1e-30, 2e-30], [math.nan, math.nan]]
)
def test_logarithmic_axis_has_numbers_within_a_decade_too(values) -> None:
    with style():
        axes = Figure().add_subplot()
        axes.plot(values)
        log_scale(axes.yaxis)
        low, high = axes.get_ylim()
        shown = [label.get_text() for label in axes.yaxis.get_ticklabels(which="both") if label.get_text()]
        inside = {text for text in shown if low <= float(text) <= high}
    assert len(inside) >= 2
    assert len(inside) == len([text for text in shown if low <= float(text) <= high])


@pytest.mark.parametrize(
    "values", [[1.0, 0.5, 0.7], [0.0, math.nan, math.inf], [1e-30, 1e30, 1.0]], ids=["usual", "none", "huge"]
)
@pytest.mark.parametrize("gap", ["", "the reason"])
@pytest.mark.parametrize("name", ["conv1", "act$_1$", "blocks.12.attention.projection.weight.of.a.very.deep.module", "\u4e00"])
def test_signal_of_any_values_is_drawn(values, gap, name) -> None:
    points = [
        Point(f"{name}{index}", index % 2 == 0, value, None if gap else value, None if gap else 1.0, 1.0, gap)
        for index, value in enumerate(values)
    ]
    picture = Image.open(io.BytesIO(draw_signal(points, "norm=$x$")))
    assert np.asarray(picture.convert("L"))[:, -3:].min() == 255  # nothing is cut off at the right


@pytest.mark.parametrize("count", [1, 8, 9, 16])
@pytest.mark.parametrize(("channels", "sizes"), [(1, (12, 12)), (3, (12, 8)), (2, (4, 4))])
def test_batch_is_drawn_beside_its_originals(count, channels, sizes) -> None:
    plain, augmented = (np.random.default_rng(0).normal(size=(count, channels, size, size)).astype(np.float32) for size in sizes)
    picture = Image.open(io.BytesIO(draw_batch(plain, augmented, "augment=flip")))
    assert picture.width > 1000
    assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 8


def test_batch_of_equal_pixels_is_drawn() -> None:
    flat = np.zeros((2, 1, 4, 4), dtype=np.float32)
    assert draw_batch(flat, flat, "x").startswith(b"\x89PNG")


@pytest.mark.slow
def test_first_figure_on_a_machine_says_nothing_of_fonts(tmp_path):
    program = "import logging; logging.basicConfig(level=logging.INFO); import train.figures.style"
    environment = os.environ | {"MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert list(tmp_path.glob("fontlist*")), "the fonts were listed"
    assert done.stderr == ""
