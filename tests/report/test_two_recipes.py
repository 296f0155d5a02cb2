"""`train-report effects A B`: what a change does within two recipes, and whether it depends on the rest."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.report.folders import write_sweep
from train.report import cli
from train.report.contracts import Sample
from train.report.statistics.side_by_side import side_by_side
from train.report.two_recipes import FIGURE, NUMBERS

FULL = {
    ("norm=batch", "augment=flip_crop", "init=kaiming"): (0.900, 0.902, 0.904),
    ("norm=none", "augment=flip_crop", "init=kaiming"): (0.895, 0.898, 0.899),
    ("norm=group", "augment=flip_crop", "init=kaiming"): (0.890, 0.892, 0.893),
    ("norm=batch", "augment=none", "init=kaiming"): (0.800, 0.801, 0.803),
    ("norm=batch", "augment=[flip_crop,cutout]", "init=kaiming"): (0.880, 0.882, 0.884),
    ("norm=batch", "augment=flip_crop", "init=xavier"): (0.870, 0.871, 0.872),
}
BARE = {
    ("norm=none", "augment=none", "optimizer=sgd"): (0.500, 0.501, 0.503),
    ("norm=batch", "augment=none", "optimizer=sgd"): (0.600, 0.602, 0.603),
    ("norm=group", "augment=none", "optimizer=sgd"): (0.500, 0.503, 0.502),
    ("norm=none", "augment=flip_crop", "optimizer=sgd"): (0.600, 0.601, 0.602),
    ("norm=none", "augment=cutout", "optimizer=sgd"): (0.510, 0.520, 0.530),
    ("norm=none", "augment=none", "optimizer=adamw"): (0.510, 0.520, 0.530),
}
CHANGES = {
    "norm: + batch": (("norm=none", "norm=batch"), 0.0047, 0.1003),
    "norm: + group": (("norm=none", "norm=group"), -0.0057, 0.0003),
    "augment: + flip_crop": (("augment=none", "augment=flip_crop"), 0.1007, 0.0997),
    "augment: + cutout": (("augment=flip_crop", "augment=[flip_crop,cutout]"), -0.02, 0.0187),
    "init: xavier for kaiming": (("init=kaiming", "init=xavier"), -0.031, None),
    "optimizer: adamw for sgd": (("optimizer=sgd", "optimizer=adamw"), None, 0.0187),
}


@pytest.fixture
def sweeps(tmp_path: Path) -> tuple[Path, Path]:
    full = write_sweep(tmp_path / "full", FULL, design="leave_one_out")
    return full, write_sweep(tmp_path / "bare", BARE, design="one_at_a_time")


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / NUMBERS).open(newline="") as file:
        return {row["change"]: row for row in csv.DictReader(file)}


def test_changes_start_at_the_bare_recipe_and_stand_side_by_side(
    sweeps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.run(["effects", *map(str, sweeps), "--out", str(out)]) == 0
    text, rows = capsys.readouterr().out, rows_of(out)
    assert set(rows) == set(CHANGES)
    for name, (_, in_full, in_bare) in CHANGES.items():
        for column, expected in (("difference_a", in_full), ("difference_b", in_bare)):
            found = float(rows[name][column]) if rows[name][column] else None
            assert found == pytest.approx(expected, abs=6e-5), (name, column)
        both = in_full is not None and in_bare is not None
        assert bool(rows[name]["dependence"]) == both
        assert name in text
    assert rows["augment: + flip_crop"]["reading"] == "higher in both"
    assert "better in both" in text
    assert rows["norm: + batch"]["reading"] == "depends on the rest"
    assert (out / FIGURE).read_text().count("<svg") == 1


def test_intervals_are_those_of_welch_at_sidaks_level(sweeps: tuple[Path, Path], tmp_path: Path) -> None:
    assert cli.run(["effects", *map(str, sweeps), "--out", str(tmp_path)]) == 0
    row = rows_of(tmp_path)["norm: + batch"]
    intervals = 2 * 4 + 2 + 4  # of four changes in both, of two in one, and four dependences
    batch, none = FULL["norm=batch", "augment=flip_crop", "init=kaiming"], FULL["norm=none", "augment=flip_crop", "init=kaiming"]
    expected = stats.ttest_ind(batch, none, equal_var=False).confidence_interval(0.95 ** (1 / intervals))
    assert [float(row["low_a"]), float(row["high_a"])] == pytest.approx(list(expected), rel=1e-6)


def test_sweeps_in_either_order_say_the_same(sweeps: tuple[Path, Path], tmp_path: Path) -> None:
    """The level where a change starts follows B: here it is what is left out of the full recipe."""
    full, bare = sweeps
    assert cli.run(["effects", str(bare), str(full), "--out", str(tmp_path)]) == 0
    row = rows_of(tmp_path)["norm: none for batch"]
    assert float(row["difference_a"]) == pytest.approx(-0.1003, abs=6e-5)
    assert float(row["difference_b"]) == pytest.approx(-0.0047, abs=6e-5)


@pytest.mark.parametrize(
    ("first", "second", "reading"),
    [
        (0.05, 0.06, "higher in both"),
        (-0.05, -0.06, "lower in both"),
        (0.05, -0.05, "flips"),
        (0.05, 0.0, "depends on the rest"),
        (0.002, 0.001, "clear in A"),
        (-0.001, -0.002, "clear in B"),
        (0.001, 0.0005, "open"),
    ],
)
def test_reading_of_two_intervals(first: float, second: float, reading: str) -> None:
    def pair(difference: float) -> tuple[Sample, Sample]:
        around = np.linspace(-1e-3, 1e-3, 5)
        return Sample("a", tuple(map(float, around))), Sample("b", tuple(map(float, difference + around)))

    (found,) = side_by_side({"x": pair(first)}, {"x": pair(second)}).values()
    assert found.reading == reading


def test_arms_that_did_not_all_train_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeps = [write_sweep(tmp_path / name, arms, design="leave_one_out") for name, arms in (("full", FULL), ("bare", BARE))]
    run = next(folder for folder in sweeps[0].iterdir() if folder.name.startswith("norm=none,augment=flip_crop"))
    status = (run / "status.json").read_text().replace('"done"', '"diverged"')
    (run / "status.json").write_text(status)
    assert cli.run(["effects", *map(str, sweeps), "--out", str(tmp_path)]) == 0
    assert rows_of(tmp_path)["norm: + batch"]["difference_a"] == ""
    assert "norm: + batch: not compared in A: 1 of 3 runs of norm=none did not train." in capsys.readouterr().out


@pytest.mark.parametrize("sweeps_per_case", [100, pytest.param(2_000, marks=pytest.mark.long)])
def test_intervals_cover_jointly(sweeps_per_case: int) -> None:
    """Six changes in both recipes, with spreads of their own; the two baselines are shared by all changes."""
    generator, missed = np.random.default_rng(0), 0
    truth = np.array([[0.0, 1.0, 0.0, 2.0, 0.0, 0.0], [0.0, 1.0, 2.0, 0.0, 0.0, 0.0]])
    for _ in range(sweeps_per_case):
        sides = []
        for means in truth:
            base = Sample("base", tuple(map(float, generator.standard_normal(5))))
            noise = generator.standard_normal((6, 5)) * np.array([1.0, 2.0, 1.0, 0.5, 1.0, 3.0])[:, None]
            arms = [Sample(str(n), tuple(map(float, row))) for n, row in enumerate(means[:, None] + noise)]
            sides.append({arm.arm: (base, arm) for arm in arms})
        found = side_by_side(*sides)
        effects = [
            (effect, true)
            for n, both in enumerate(found.values())
            for effect, true in zip(
                (both.first, both.second, both.dependence), (*truth[:, n], truth[0, n] - truth[1, n]), strict=True
            )
        ]
        missed += any(not (e and e.low is not None and e.high is not None and e.low <= t <= e.high) for e, t in effects)
    assert missed <= stats.binom.ppf(0.999, sweeps_per_case, 0.05)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({("optimizer=sgd",): (0.5, 0.6), ("optimizer=adamw",): (0.5, 0.6)}, "have no change in common"),
        (None, "no such folder"),
    ],
)
def test_folders_without_a_common_change_are_one_message(
    second: dict[tuple[str, ...], Sequence[float]] | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = write_sweep(tmp_path / "full", FULL, design="leave_one_out"), tmp_path / "other"
    if second:
        write_sweep(other, second)
    assert cli.run(["effects", str(first), str(other)]) == 2
    assert message in capsys.readouterr().err
