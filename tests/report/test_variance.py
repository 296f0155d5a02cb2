"""The page of `report.analysis=variance`: its conclusions, table and figure, from runs with known effects of seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.report.folders import config_for, write_run
from train.config import Seeds
from train.errors import UsageError
from train.report.make import make_report
from train.report.options import ReportOptions
from train.report.variance import check
from train.store.manifest import Manifest
from train.sweep.roles import design

ROLES = tuple(Seeds.model_fields)
OPTIONS = ReportOptions(analysis="variance")


def write_study(
    folder: Path, scales: Mapping[str, float], rest: float, count: int = 7, status: Mapping[str, Any] | None = None
) -> Path:
    """Write the runs of a study: around 80 %, a normal effect of this scale, in points, for the seed of each role, and a rest."""
    generator = np.random.default_rng(0)
    effects = {role: 0.01 * scale * generator.standard_normal(2 * count) for role, scale in scales.items()}
    rest_of: dict[tuple[int, ...], float] = {}
    for number, row in enumerate(design(len(scales), range(count))):
        seeds = dict.fromkeys(ROLES, 0) | dict(zip(scales, row, strict=True))
        noise = rest_of.setdefault(
            tuple(seeds[role] for role in scales if scales[role]), 0.01 * rest * generator.standard_normal()
        )
        accuracy = 0.8 + noise + sum(effects[role][seeds[role]] for role in scales)
        run = write_run(
            folder / f"{number:03}", (), accuracy, records=2, layers=1, status={"identity": f"{number:012x}"} | dict(status or {})
        )
        (run / "config.yaml").write_text(yaml.dump(config_for([]) | {"seeds": seeds}, sort_keys=False))
    return folder


def reported(folder: Path, out: Path, options: ReportOptions = OPTIONS) -> tuple[str, str]:
    """Return what the terminal shows, and the page as Markdown."""
    _, shown = make_report([folder], out, options)
    return shown, (out / "report.md").read_text()


def test_page_names_the_role_that_explains_most(tmp_path: Path) -> None:
    scales = {"init": 0.02, "order": 1.0, "split": 0.02}
    shown, page = reported(write_study(tmp_path / "runs", scales, rest=0.1, count=11), tmp_path / "out")
    assert "mostly order: order explains most of it" in shown
    assert "Fixing init saves at most" in shown
    assert "of the variance (" in page
    assert "![" in page
    assert (tmp_path / "out" / "figures" / "spread.svg").exists()
    assert "varied: init, order, split; one seed: augment, dropout" in page
    assert "| **order** | **" in page
    assert "| init | " in page
    rows = (tmp_path / "out" / "variance.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in rows] == ["seed_of", "init", "order", "split", "what they do together", "all of them"]


def test_page_says_that_roles_act_together_and_how_many_seeds_it_takes(tmp_path: Path) -> None:
    shown, page = reported(
        write_study(tmp_path / "runs", dict.fromkeys(ROLES[:3], 0.0) | {"split": 0.3}, 0.5, 5), tmp_path / "out"
    )
    assert "no draw: Runs that differ in the seed of init, order and augment alone have the same value" in shown
    other, _ = reported(write_study(tmp_path / "more", dict.fromkeys(ROLES[:2], 1e-3), 0.5, 11), tmp_path / "out2")
    assert "no single role: No role explains it" in other
    assert "For a standard error of 0.10 points vary everything, " in other
    assert re.search(r"differ by more than 1\.\d points \(1\.\d to 1\.\d\) in one of twenty pairs", other)
    assert "The split has 2,000 images. An accuracy on all such images is known to 1.8 points either way (95 %)" in other
    assert "Two trained networks that differ by less than 0.3 points here, fewer than six images" in other
    assert "to the last bit" in other
    assert "Bold: the share is above 0" in page


def test_plain_seeds_give_the_spread_and_no_source(tmp_path: Path) -> None:
    for seed in range(5):
        write_run(tmp_path / "runs" / str(seed), [f"seed={seed}"], 0.8 + 0.001 * seed**1.5, records=2, layers=1)
    shown, _ = reported(tmp_path / "runs", tmp_path / "out")
    assert "a standard deviation of 0.3" in shown
    assert "source unknown: Each run has seeds of its own" in shown
    assert "between" in shown
    assert "fixing saves little" not in shown


def test_too_few_seeds_give_no_advice(tmp_path: Path) -> None:
    shown, _ = reported(write_study(tmp_path / "runs", dict.fromkeys(ROLES[:3], 0.3), 0.3, count=3), tmp_path / "out")
    assert "undecided" in shown
    assert re.search(r"How much (the seed of \w+|each of the seeds of .* and \w+) does by itself is too uncertain for", shown)
    assert "vary everything" not in shown


def test_lost_runs_and_other_machines_are_threats(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "runs", dict.fromkeys(ROLES[:2], 0.3), 0.3, count=3)
    for number, source in ((2, "003"), (3, "004")):
        status = folder / f"{number:03}" / "status.json"
        content = json.loads(status.read_text())
        status.write_text(json.dumps(content | {"device": f"gpu {source}"}))
    write_run(folder / "x", ["seed=99"], None, "diverged", records=2, layers=1)
    shown, page = reported(folder, tmp_path / "out")
    assert "Runs used several devices" in page
    assert "no other source of spread" not in page
    assert "1 run has no value or learned nothing" in page
    assert shown


def test_several_versions_of_the_code_are_a_source_of_spread(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "runs", dict.fromkeys(ROLES[:2], 0.3), 0.3, count=3)
    status = folder / "002" / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"git": {"commit": "fedcba9876543210"}}))
    _, page = reported(folder, tmp_path / "out")
    assert "Runs used several versions of the code (train 0.1.0, torch 2.14.1, commit 0123456789;" in page
    assert "no other source of spread" not in page


def test_loss_has_no_noise_floor_and_no_points(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "runs", dict.fromkeys(ROLES[:2], 0.3), 0.3, count=5)
    shown, page = reported(folder, tmp_path / "out", ReportOptions(analysis="variance", metric="loss/test"))
    assert "noise floor" not in shown
    assert "points" not in page
    assert "test loss" in page


@pytest.mark.parametrize(
    ("seeds", "overrides", "reason", "remedy"),
    [
        (["seed"], [], "nothing tells them apart", "study=variance"),
        ([], [], "nothing tells them apart", "study=variance"),
        (["seeds.init"], [], "nothing tells them apart", "sweep.roles=[init,order,split]"),
        (["seeds.init", "seeds.augment"], ["augment=none"], "seeds.augment: there is no augmentation", "sweep.roles=[init]"),
        (["seeds.init", "seeds.order", "seeds.split"], ["data.val_fraction=0"], "seeds.split: ", "sweep.roles=[init,order]"),
        (["seeds.init", "seeds.order", "seeds.dropout"], [], "seeds.dropout: ", "sweep.roles=[init,order]"),
    ],
)
def test_plan_that_tells_nothing_is_refused(seeds: Sequence[str], overrides: Sequence[str], reason: str, remedy: str) -> None:
    manifest = Manifest((), "grid", {}, dict.fromkeys(seeds, ("0", "1")), "", (), ())
    with pytest.raises(UsageError) as refused:
        check(manifest, {"a": config_for(overrides)})
    assert reason in str(refused.value)
    assert remedy in str(refused.value)
