"""Designs, against slow and obvious twins."""

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


def as_sets(found):
    return [frozenset(levels.items()) for levels in found]


@pytest.mark.parametrize("axes", AXES)
def test_a_grid_is_the_product_and_begins_with_the_first_levels(axes) -> None:
    found = as_sets(design_arms("grid", factors(axes, []), {}))
    assert found == [frozenset(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    assert found[0] == {(axis, levels[0]) for axis, levels in axes.items()}


@pytest.mark.parametrize("axes", AXES)
def test_one_at_a_time_is_the_configuration_as_it_is_and_each_level_alone(axes) -> None:
    found = design_arms("one_at_a_time", factors(axes, []), {})
    assert found == [{}, *({axis: level} for axis, levels in axes.items() for level in levels)]


@pytest.mark.parametrize("axes", AXES)
def test_leave_one_out_differs_from_the_full_recipe_in_one_axis(axes) -> None:
    found = as_sets(design_arms("leave_one_out", factors(axes, []), {}))
    first = frozenset((axis, levels[0]) for axis, levels in axes.items())
    grid = [frozenset(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]
    assert found[0] == first
    assert set(found[1:]) == {arm for arm in grid if len(arm - first) == 1}
    assert len(found) == len(set(found))


def test_axes_that_are_paired_move_together() -> None:
    axes = {"lr": ["1", "2", "3"], "norm": ["none", "batch"], "peak": [".1", ".2", ".3"]}
    of = factors(axes, [["lr", "peak"]])
    pairs = list(zip(axes["lr"], axes["peak"], strict=True))
    expected = {(lr, peak, norm) for lr, peak in pairs for norm in axes["norm"]}
    assert {(arm["lr"], arm["peak"], arm["norm"]) for arm in design_arms("grid", of, {})} == expected
    alone = design_arms("one_at_a_time", of, {})
    assert alone == [{}, *({"lr": lr, "peak": peak} for lr, peak in pairs), {"norm": "none"}, {"norm": "batch"}]


def test_the_baseline_can_be_named() -> None:
    of = factors({"norm": ["none", "batch"], "init": ["xavier", "kaiming"]}, [])
    grid = design_arms("grid", of, {"norm": "batch"})
    assert grid[0] == {"norm": "batch", "init": "xavier"}
    assert len(grid) == 4
    added = design_arms("grid", of, {"norm": "layer"})
    assert added[0] == {"norm": "layer", "init": "xavier"}
    assert len(added) == 5, "a baseline outside the grid is added to it"
    assert design_arms("one_at_a_time", of, {"norm": "batch"}) == [
        {"norm": "batch"},
        {"norm": "none"},
        {"norm": "batch", "init": "xavier"},
        {"norm": "batch", "init": "kaiming"},
    ]
    assert design_arms("leave_one_out", of, {"init": "kaiming"}) == [
        {"norm": "none", "init": "kaiming"},
        {"norm": "batch", "init": "kaiming"},
        {"norm": "none", "init": "xavier"},
    ]


def test_one_of_paired_axes_names_the_other_in_the_baseline() -> None:
    of = factors({"lr": ["1", "2"], "peak": [".1", ".2"]}, [["lr", "peak"]])
    assert design_arms("grid", of, {"lr": "2"})[0] == {"lr": "2", "peak": ".2"}


def test_without_axes_there_is_one_arm() -> None:
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
def test_pairs_that_make_no_sense_are_refused(zipped, message: str) -> None:
    with pytest.raises(UsageError, match=r"sweep\.zip") as caught:
        factors({"lr": ["1", "2", "3"], "peak": [".1", ".2", ".3"], "norm": ["none", "batch"]}, zipped)
    assert message in str(caught.value)


def test_a_baseline_of_something_that_is_no_axis_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nrm is not an axis of this sweep. To set it for every arm, write nrm=batch."):
        design_arms("grid", factors({"norm": ["none", "batch"]}, []), {"nrm": "batch"})
