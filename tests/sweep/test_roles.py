"""Seeds that tell the roles of randomness apart: the design, and what it is refused for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from tests.harness import SMALL
from tests.sweep.test_study import plan_of
from train.errors import UsageError
from train.store.manifest import read_manifest
from train.store.run import find_runs, read_run
from train.sweep.roles import design

Train = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(("roles", "count"), [(2, 2), (2, 3), (3, 3), (3, 5), (5, 5), (5, 7), (4, 11)])
def test_two_runs_share_one_role_at_most_or_all_but_one(roles: int, count: int):
    seeds = [10 + 3 * place for place in range(count)]
    rows = design(roles, seeds)
    square, alone = rows[: count * count], rows[count * count :]
    assert len(set(rows)) == count * count + roles * count
    assert square[:count] == [(seed,) * roles for seed in seeds]
    common = [sum(map(int.__eq__, first, second)) for first, second in combinations(square, 2)]
    assert max(common) == 1
    for role in range(roles):
        assert all([row[role] for row in square].count(seed) == count for seed in seeds), "each seed as often"
    for place, row in enumerate(alone):
        (changed,) = {role for role in range(roles) if row[role] not in seeds}
        assert changed == place // count
        assert set(row) - {row[changed]} == {seeds[place % count]}


@pytest.mark.slow
def test_sweep_trains_the_runs_of_the_design_and_repeats_none(train: Train, tmp_path: Path):
    command = ("-m", "sweep.roles=[init,order]", "seed=3,5", "hydra.sweep.dir=s", "hydra/launcher=basic", *SMALL)
    result = train(*command)
    assert result.returncode == 0, result.stdout + result.stderr
    runs = [read_run(folder) for folder in find_runs([tmp_path / "s"])]
    assert {(run.seeds["init"], run.seeds["order"]) for run in runs} == set(design(2, [3, 5]))
    assert {(run.seed, run.seeds["augment"], run.seeds["split"]) for run in runs} == {(0, 0, 0)}
    manifest = read_manifest(tmp_path / "s")
    assert manifest is not None
    assert len(manifest.runs) == 8
    assert len({run.arm for run in runs}) == 1
    assert "reused: 8 done" in train(*command, "sweep.dry_run=true").stdout


@pytest.mark.parametrize(
    ("arguments", "reason", "remedy"),
    [
        (["seed=range(6)"], "6 seeds", "'seed=range(7)'"),
        (["seed=range(4)"], "4 seeds", "'seed=range(5)'"),
        (["seed=range(3)"], "3 seeds", "'seed=range(5)'"),
        (["seed=range(9)"], "9 seeds", "'seed=range(11)'"),
        (["seed=0"], "not seed=0", "'seed=range(7)'"),
        (["norm=none,batch"], "which it lacks", "'seed=range(7)'"),
        (["seeds.init=range(5)"], "not seeds.init", "'seed=range(7)'"),
        (["seed=range(5)", "seeds.order=1,2"], "not seed and seeds.order", "'seed=range(7)'"),
        (["seed=range(5)", "seeds.order=1"], "not seed and seeds.order=1", "'seed=range(7)'"),
        (["seed=-1,0,1,2,3"], "whole numbers from 0", "'seed=range(7)'"),
        (["seed=range(5)", "sweep.roles=[init]"], "two roles", "init, order, augment, dropout and split"),
        (["seed=range(5)", "sweep.roles=[]"], "two roles", "init, order, augment, dropout and split"),
        (["seed=range(5)", "sweep.roles=[init,orders]"], "sweep.roles[1]=orders", "'order'"),
        (["seed=range(5)", "sweep.max_seeds=10"], "one design", "Omit sweep.max_seeds"),
    ],
)
def test_seeds_of_which_no_design_can_be_made_are_one_message(arguments: list[str], reason: str, remedy: str):
    with pytest.raises(UsageError) as refused:
        plan_of("variance", "~hydra.sweeper.params.seed", *arguments)
    assert "sweep.roles" in str(refused.value)
    assert reason in str(refused.value)
    assert remedy in str(refused.value)


def test_refusal_is_one_message_and_leaves_nothing(train: Train, tmp_path: Path):
    result = train("study=variance", "seed=range(6)", *SMALL)
    assert result.returncode == 2
    assert "sweep.roles=[init,order,augment,dropout,split]: 6 seeds" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "outputs").exists()
