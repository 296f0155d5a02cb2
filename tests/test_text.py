"""Every format of a number, on values at which it changes."""

from __future__ import annotations

import math

import pytest

from train.text import (
    MINUS,
    bounded_percent,
    duration,
    exact_duration,
    exact_percent,
    factor,
    listed,
    number,
    percent,
    plural,
    rough_duration,
    scaled,
    setting,
    settings,
    short_number,
    short_percent,
    size,
    three_digits,
    two_digits,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.8412), "84.1 %"),
        (percent(0.5, 0), "50 %"),
        (short_percent(0.95), "95 %"),
        (short_percent(1 / 3), "33.3 %"),
        (exact_percent(0.1225), "12.25 %"),
        (exact_percent(-0.5), f"{MINUS}50 %"),
        (bounded_percent(0.0), "0 %"),
        (bounded_percent(0.001), "<1 %"),
        (bounded_percent(0.999), ">99 %"),
        (bounded_percent(1.0), "100 %"),
        (number(0.0), "0"),
        (number(2.302585), "2.303"),
        (number(0.000012), "1.2e-05"),
        (number(-math.inf), "-inf"),
        (three_digits(0.83), "0.830"),
        (three_digits(0.00015), "1.5e-04"),
        (three_digits(0.0), "0"),
        (two_digits(0.4918), "0.49"),
        (factor(0.966), "x0.97"),
        (factor(0.0), "x0.00"),
        (factor(150.0), "x2e+02"),
        (setting(0.1), "0.1"),
        (setting(2000.0), "2,000"),
        (settings([0.1, 0.2, 2000.0]), "0.1, 0.2 and 2,000"),
        (duration(0.9), "0:00"),
        (duration(3599.9), "59:59"),
        (duration(3600), "1:00:00"),
        (duration(2 * 86400 + 3 * 3600 + 4 * 60 + 5), "2 d 3:04:05"),
        (exact_duration(119.94), "119.9 s"),
        (exact_duration(120), "2:00"),
        (rough_duration(0.2), "1 s"),
        (rough_duration(89), "89 s"),
        (rough_duration(12 * 60 + 20), "12 min"),
        (rough_duration(3 * 3600 + 5 * 60), "3 h 05 min"),
        (scaled(812), "812 "),
        (scaled(999_600), "1 M"),
        (scaled(4.1e9), "4.1 G"),
        (size(3 << 20), "3 MiB"),
        (size(5 << 30), "5.00 GiB"),
        (plural(1, "run"), "1 run"),
        (plural(2000, "run"), "2,000 runs"),
        (listed([]), ""),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_formats(text: str, expected: str) -> None:
    assert text == expected


def test_short_numbers_are_short() -> None:
    values = (0, 1.0, 0.02, 500, 1e4, 2e-5, 1e-13)
    assert [short_number(x) for x in values] == ["0", "1", "0.02", "500", "1e4", "2e-5", "1e-13"]
