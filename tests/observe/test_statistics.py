"""Each statistic of a tensor against a float64 computation, value by value where possible."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from train.observe.measurements import BINS, LIMIT, bin_counts, histogram_from_counts
from train.observe.statistics import (
    LARGEST_POWER,
    activation_statistics,
    euclidean_norms,
    gradient_statistics,
    magnitude,
    similarity,
    standard_deviation,
    standard_deviations,
)
from train.tags import measured

ALL, GRADIENT = measured("full", "activation_"), measured("full", "gradient_")
SHAPES = {"conv": ([6, 5, 4, 3], 1), "linear": ([6, 5], 1), "tokens": ([6, 7, 5], 2), "channels last": ([2, 3, 4, 5], 3)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FUNCTIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "": lambda x: x}
ONE = torch.ones(())


def normal(shape: list[int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference_statistics(y: Tensor, channel_dim: int, function: str) -> dict[str, float]:
    """Return the statistics computed from their definitions in float64."""
    channels = y.double().movedim(channel_dim, 0).flatten(1).numpy()
    statistics = {
        "mean": channels.mean(),
        "std": channels.std(),
        "zero": (channels == 0).mean(),
        "nonfinite": (~np.isfinite(channels)).sum(),
        "channel_mean_sq": np.mean([channel.mean() ** 2 for channel in channels]),
        "channel_var": np.mean([channel.var() for channel in channels]),
    }
    if function:
        statistics["dead"] = np.mean([all(value == 0 for value in channel) for channel in channels])
    if function == "tanh":
        statistics["saturated"] = np.mean([abs(value) > 0.97 for value in channels.flat])
    if function == "sigmoid":
        statistics["saturated"] = np.mean([value < 0.03 or value > 0.97 for value in channels.flat])
    return {name: float(value) for name, value in statistics.items()}


def as_floats(statistics: dict[str, Tensor]) -> dict[str, float]:
    assert all(value.shape == () and value.dtype == torch.float32 for value in statistics.values())
    return {name: value.item() for name, value in statistics.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_activation_statistics_follow_their_definitions(shape: str, function: str, dtype: torch.dtype) -> None:
    sizes, channel_dim = SHAPES[shape]
    y = FUNCTIONS[function](3 * normal(sizes)).to(dtype)
    y.select(channel_dim, 2).zero_()
    before = y.clone()
    assert as_floats(activation_statistics(y, channel_dim, function, ALL)) == pytest.approx(
        reference_statistics(y, channel_dim, function), rel=1e-5
    )
    assert torch.equal(y, before), "the input is not changed"


def test_activation_statistics_ignore_the_memory_format() -> None:
    y = normal([4, 6, 5, 5]).relu()
    formats = [y.contiguous(memory_format=form) for form in (torch.contiguous_format, torch.channels_last)]
    contiguous, channels_last = (as_floats(activation_statistics(y, 1, "relu", ALL)) for y in formats)
    assert contiguous == pytest.approx(channels_last, rel=1e-5)


def test_statistics_return_only_wanted_values() -> None:
    assert set(activation_statistics(normal([4, 3]), 1, "tanh", {"std", "saturated"})) == {"std", "saturated"}
    assert set(activation_statistics(normal([4, 3]), 1, "", {"std", "saturated", "dead"})) == {"std"}
    assert set(gradient_statistics(normal([4, 3]), ONE, {"std"})) == {"std"}


def test_every_statistic_that_is_computed_is_in_the_table() -> None:
    class Everything(frozenset[str]):
        def __contains__(self, _: object) -> bool:
            return True

    assert set(activation_statistics(normal([4, 3]), 1, "tanh", Everything())) == ALL
    assert set(gradient_statistics(normal([4, 3]), ONE, Everything())) == GRADIENT


def test_std_is_exact_around_a_large_mean() -> None:
    """The mean square minus the squared mean would be rounding errors only."""
    y = 1000 + 0.01 * normal([64, 8, 4, 4])
    assert activation_statistics(y, 1, "", {"std"})["std"].item() == pytest.approx(y.double().std(correction=0).item(), rel=1e-3)


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e25, 1e36])
def test_statistics_survive_squares_outside_float32(size: float) -> None:
    """A signal that fades or explodes through twenty layers becomes this small or large; its std is not 0 or infinite."""
    y = size * (normal([8, 4, 3, 3]) + torch.arange(4.0)[:, None, None])
    expected = pytest.approx(y.double().std(correction=0).item(), rel=1e-5)
    statistics = activation_statistics(y, 1, "", {"mean", "std"})
    assert statistics["std"].item() == expected
    assert statistics["mean"].item() == pytest.approx(y.double().mean().item(), rel=1e-5)
    assert gradient_statistics(y, ONE, {"std"})["std"].item() == expected
    assert standard_deviation(y).item() == expected
    assert euclidean_norms([y])[0].item() == pytest.approx(y.double().norm().item(), rel=1e-5)
    assert similarity(y).item() == pytest.approx(similarity(y / size).item(), abs=1e-5)


def test_magnitude_is_the_power_of_two_of_frexp() -> None:
    powers = [math.ldexp(1.0, exponent) for exponent in range(-149, 128)]
    for peak in [*powers, *(1.5 * power for power in powers), *(math.nextafter(power, 0) for power in powers[24:]), 3e38]:
        expected = math.ldexp(1.0, min(max(math.frexp(torch.tensor(peak).item())[1], -LARGEST_POWER), LARGEST_POWER))
        assert magnitude(torch.tensor([[peak / 4], [-peak], [0.0]]).repeat(1, 9)[1:]).item() == expected, peak
    for peak in (0.0, -0.0, math.inf, -math.inf, math.nan):
        assert magnitude(torch.tensor([[peak], [peak]])).item() == 1
    assert magnitude(torch.tensor(-3.0)).item() == 4


def test_many_tensors_have_the_statistics_of_each_alone() -> None:
    tensors = [normal([8, 3, 3, 3]), 1e-25 * normal([40]), 1e25 * normal([5, 7]), torch.zeros(4), normal([3]).bfloat16()]
    tensors += [torch.tensor([1.0, bad]) for bad in (math.nan, math.inf)]
    for together, alone in ((standard_deviations, standard_deviation), (euclidean_norms, lambda x: euclidean_norms([x])[0])):
        found = together(tensors)
        assert [repr(value) for value in found.tolist()] == [repr(alone(x).item()) for x in tensors]
        assert len(together([])) == 0


def test_statistics_of_many_values_are_exact() -> None:
    y = normal([512, 4, 64, 64]) + 1
    expected = reference_statistics(y, 1, "relu")
    assert as_floats(activation_statistics(y, 1, "relu", ALL)) == pytest.approx(expected, rel=1e-5)
    assert standard_deviation(y).item() == pytest.approx(expected["std"], rel=1e-5)
    assert euclidean_norms([y])[0].item() == pytest.approx(y.double().norm().item(), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_statistics_count_nonfinite_values(bad: float) -> None:
    y = normal([4, 3, 2, 2])
    y[1, 2, 0, 1] = y[3, 0, 1, 1] = bad
    statistics = as_floats(activation_statistics(y, 1, "relu", ALL))
    assert statistics["nonfinite"] == 2
    assert not math.isfinite(statistics["mean"])
    assert math.isnan(statistics["std"])
    gradient = as_floats(gradient_statistics(y, ONE, GRADIENT))
    assert (gradient["nonfinite"], math.isnan(gradient["std"])) == (2, True)


def test_dead_channels_are_zero_in_every_image() -> None:
    y = torch.ones(4, 4, 3, 3)
    y[:, 0] = 0
    y[:3, 1] = 0
    y[:, 2] = -0.0
    y[0, 2, 0, 0] = math.nan
    assert activation_statistics(y, 1, "relu", {"dead"})["dead"].item() == 0.25


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_statistics_divide_by_the_loss_scale(dtype: torch.dtype) -> None:
    gradient = (2.0**10 * normal([8, 3, 4, 4])).to(dtype)
    expected = gradient.double().std(correction=0).item() / 2**10
    assert gradient_statistics(gradient, torch.tensor(2.0**10), GRADIENT)["std"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_similarity_is_the_mean_cosine_of_all_pairs(dtype: torch.dtype) -> None:
    y = (normal([7, 3, 2, 2]) + 0.5).to(dtype)
    rows = y.double().flatten(1)
    cosines = [torch.cosine_similarity(a, b, dim=0).item() for a, b in combinations(rows, 2)]
    assert similarity(y).item() == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)


def test_similarity_extremes() -> None:
    parallel = normal([1, 6]).expand(5, 6) * torch.arange(1, 6)[:, None]
    assert similarity(parallel).item() == pytest.approx(1, abs=1e-6)
    assert similarity(torch.eye(4)).item() == pytest.approx(0, abs=1e-6)
    assert similarity(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])).item() == pytest.approx(-1, abs=1e-6)
    assert math.isnan(similarity(torch.zeros(3, 2)).item())
    assert math.isnan(similarity(torch.ones(1, 2)).item())


@pytest.mark.parametrize("dtype", DTYPES)
def test_bin_counts_match_numpy(dtype: torch.dtype) -> None:
    # Multiples of 1/4 in bins of width 1/4, so that rounding cannot move a value over an edge.
    y = (torch.randint(0, BINS, (6, 50), generator=torch.Generator().manual_seed(0)) / 4 - 3).to(dtype)
    y[0, 0], y[0, 1] = -3, BINS / 4 - 3
    histogram = histogram_from_counts("tag", bin_counts(y).tolist())
    counts, edges = np.histogram(y.float().numpy(), bins=BINS)
    assert list(histogram.counts) == counts.tolist()
    assert list(histogram.edges) == pytest.approx(edges.tolist())


def test_bin_counts_of_equal_nonfinite_and_many_values() -> None:
    constant = histogram_from_counts("tag", bin_counts(torch.full((3, 4), 2.0)).tolist())
    assert (constant.edges[0], constant.edges[-1], sum(constant.counts)) == (1.5, 2.5, 12)
    broken = normal([3, 4])
    broken[1, 2], broken[0, 0] = math.nan, -math.inf
    remaining = histogram_from_counts("tag", bin_counts(broken).tolist())
    finite = broken[broken.isfinite()]
    assert (remaining.edges[0], remaining.edges[-1], sum(remaining.counts)) == (finite.min().item(), finite.max().item(), 10)
    assert not math.isfinite(bin_counts(torch.full((3, 4), math.nan))[0].item())
    assert bin_counts(torch.ones(8, LIMIT // 4)).tolist()[2:] == pytest.approx(
        [0] * (BINS // 2) + [LIMIT] + [0] * (BINS // 2 - 1)
    )
