"""Designs compared with slow, obvious reference implementations."""

from __future__ import annotations

import itertools

import pytest

from train.errors import UsageError
from train.sweep.design import Factor, all_combinations, design_arms, factors

AXES = [
    {"norm": ["none", "batch"]},
    {"norm": ["none", "batch", "layer"], "init": ["gaussian", "xavier"]},
    {"a": ["1"], "b": ["1", "2", "3"], "c": ["x", "y"]},
]


def as_sets(arms):
    return [frozenset(levels.items()) for levels in arms]


@pytest.mark.parametrize("axes", AXES)
def test_grid_is_product_starting_at_first_levels(axes) -> None:
    arms = as_sets(design_arms("grid", factors(axes, []), {}))
    assert arms == [frozenset(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    assert arms[0] == {(axis, levels[0]) for axis, levels in axes.items()}


@pytest.mark.parametrize("axes", AXES)
def test_one_at_a_time_is_defaults_and_each_level_alone(axes) -> None:
    arms = design_arms("one_at_a_time", factors(axes, []), {})
    assert arms == [{}, *({axis: level} for axis, levels in axes.items() for level in levels)]


@pytest.mark.parametrize("axes", AXES)
def test_leave_one_out_differs_from_baseline_in_one_axis(axes) -> None:
    arms = as_sets(design_arms("leave_one_out", factors(axes, []), {}))
    first = frozenset((axis, levels[0]) for axis, levels in axes.items())
    grid = [frozenset(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    assert arms[0] == first
    assert set(arms[1:]) == {arm for arm in grid if len(arm - first) == 1}
    assert len(arms) == len(set(arms))


def test_zipped_axes_move_together() -> None:
    axes = {"lr": ["1", "2", "3"], "norm": ["none", "batch"], "peak": [".1", ".2", ".3"]}
    zipped = factors(axes, [["lr", "peak"]])
    pairs = list(zip(axes["lr"], axes["peak"], strict=True))
    expected = {(lr, peak, norm) for lr, peak in pairs for norm in axes["norm"]}
    assert {(arm["lr"], arm["peak"], arm["norm"]) for arm in design_arms("grid", zipped, {})} == expected
    arms = design_arms("one_at_a_time", zipped, {})
    assert arms == [{}, *({"lr": lr, "peak": peak} for lr, peak in pairs), {"norm": "none"}, {"norm": "batch"}]


def test_named_baseline_comes_first() -> None:
    norm_and_init = factors({"norm": ["none", "batch"], "init": ["xavier", "kaiming"]}, [])
    grid = design_arms("grid", norm_and_init, {"norm": "batch"})
    assert grid[0] == {"norm": "batch", "init": "xavier"}
    assert len(grid) == 4
    added = design_arms("grid", norm_and_init, {"norm": "layer"})
    assert added[0] == {"norm": "layer", "init": "xavier"}
    assert len(added) == 5, "a baseline outside the grid is added to it"
    assert design_arms("one_at_a_time", norm_and_init, {"norm": "batch"}) == [
        {"norm": "batch"},
        {"norm": "none"},
        {"norm": "batch", "init": "xavier"},
        {"norm": "batch", "init": "kaiming"},
    ]
    assert design_arms("leave_one_out", norm_and_init, {"init": "kaiming"}) == [
        {"norm": "none", "init": "kaiming"},
        {"norm": "batch", "init": "kaiming"},
        {"norm": "none", "init": "xavier"},
    ]


def test_baseline_level_of_zipped_axis_sets_its_partner() -> None:
    zipped = factors({"lr": ["1", "2"], "peak": [".1", ".2"]}, [["lr", "peak"]])
    assert design_arms("grid", zipped, {"lr": "2"})[0] == {"lr": "2", "peak": ".2"}


def test_designs_without_axes_have_one_arm() -> None:
    assert design_arms("grid", [], {}) == design_arms("one_at_a_time", [], {}) == [{}]
    assert all_combinations([]) == [{}]
    assert all_combinations([Factor(("seed",), ({"seed": "0"}, {"seed": "1"}))]) == [{"seed": "0"}, {"seed": "1"}]


@pytest.mark.parametrize(
    ("zipped", "message"),
    [
        ([["lr", "norm"]], "lr has 3, norm has 2"),
        ([["lr", "pek"]], "pek is not an axis of this sweep. Give it levels, as in pek=1,2. Did you mean 'peak'?"),
        ([["lr", "peak"], ["peak", "norm"]], "peak is named twice"),
    ],
)
def test_factors_rejects_invalid_zip(zipped, message: str) -> None:
    with pytest.raises(UsageError, match=r"sweep\.zip") as error:
        factors({"lr": ["1", "2", "3"], "peak": [".1", ".2", ".3"], "norm": ["none", "batch"]}, zipped)
    assert message in str(error.value)


def test_design_arms_rejects_unknown_baseline_axis() -> None:
    with pytest.raises(UsageError, match=r"nrm is not an axis of this sweep. To set it for every arm, write nrm=batch."):
        design_arms("grid", factors({"norm": ["none", "batch"]}, []), {"nrm": "batch"})
