"""Schedules against values by hand, and torch's schedulers where they coincide."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch.optim import lr_scheduler

from train.parts import schedule

CONF = Path(__file__).parents[2] / "conf/schedule"


def factors(made, total):
    return [made(step, total) for step in range(total)]


def torchs(make, total):
    """The learning rates of a torch scheduler on an optimizer of lr 1, one per step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, values = make(optimizer), []
    for _ in range(total):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(values) < total:
            scheduler.step()
    return values


@pytest.mark.parametrize(
    ("made", "total", "expected"),
    [
        (schedule.constant(), 3, [1, 1, 1]),
        (schedule.constant(warmup=0.4), 10, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        (schedule.constant(warmup=0.9), 1, [1]),
        (schedule.step(), 8, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        (schedule.step(milestones=[0.5], factor=0.5, warmup=0.5), 4, [0.5, 1, 0.5, 0.5]),
        (schedule.step(milestones=[]), 2, [1, 1]),
        (schedule.step(), 1, [1]),
        (schedule.cosine(warmup=0), 5, [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0]),
        (schedule.cosine(final=0.2, warmup=0), 3, [1, 0.6, 0.2]),
        (schedule.cosine(final=0, warmup=0.5), 6, [1 / 3, 2 / 3, 1, 0.75, 0.25, 0]),
        (schedule.cosine(), 1, [1]),
        (schedule.one_cycle(peak=0.5, start=0.2), 6, [0.2, 0.6, 1, 0.75, 0.25, 0]),
        (schedule.one_cycle(), 1, [1]),
        (schedule.triangular(peak=0.5, start=0.2, final=0.1), 6, [0.2, 0.6, 1, 0.7, 0.4, 0.1]),
        (schedule.triangular(peak=0.4, start=0.5, final=0), 5, [0.5, 1, 2 / 3, 1 / 3, 0]),
        (schedule.triangular(), 1, [1]),
        (schedule.triangular(peak=0.5), 2, [1, 0.07]),
    ],
)
def test_schedule_values_by_hand(made, total, expected):
    assert factors(made, total) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("fraction", [0.07, 0.14, 0.29, 0.57])  # fractions whose product with 100 is not exact
def test_step_milestone_is_at_its_step(fraction):
    values = factors(schedule.step(milestones=[fraction]), 100)
    assert values.index(0.1) == round(fraction * 100)


@pytest.mark.parametrize("total", [2, 7, 40])
def test_cosine_and_constant_match_torch(total):
    def cosine(optimizer):
        return lr_scheduler.CosineAnnealingLR(optimizer, total - 1, eta_min=0.1)

    assert factors(schedule.cosine(final=0.1, warmup=0), total) == pytest.approx(torchs(cosine, total), abs=1e-9)


def test_step_matches_torch():
    def steps(optimizer):
        return lr_scheduler.MultiStepLR(optimizer, [20, 30], 0.3)

    assert factors(schedule.step(milestones=[0.5, 0.75], factor=0.3), 40) == pytest.approx(torchs(steps, 40))


@pytest.mark.parametrize(("total", "peak"), [(40, 0.3), (33, 0.3), (20, 0.55)])
def test_one_cycle_matches_torch(total, peak):
    def cycle(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, 1.0, total, pct_start=peak, cycle_momentum=False, final_div_factor=4)

    assert factors(schedule.one_cycle(peak=peak, final=0.01), total) == pytest.approx(torchs(cycle, total), abs=1e-9)


@pytest.mark.parametrize(("total", "peak"), [(40, 0.3), (33, 0.3), (20, 0.55)])
def test_triangular_is_numpys_interpolation(total, peak):
    """As the speed recipes write it: `np.interp` through three points, here counted from the first step to the last."""
    corners, values = [0, peak * total - 1, total - 1], [0.2, 1, 0.07]
    expected = np.interp(range(total), corners, values)
    assert factors(schedule.triangular(peak=peak), total) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("total", [1, 2, 3, 10, 1001])
def test_schedule_is_positive_at_start_and_finite(path, total):
    values = factors(instantiate(yaml.safe_load(path.read_text())), total)
    assert values[0] > 0
    assert all(0 <= factor < math.inf for factor in values)
    if total > 1 and path.stem in ("cosine", "one_cycle"):
        assert values[-1] == pytest.approx(0, abs=1e-12)
