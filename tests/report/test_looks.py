"""Planned looks on written runs: what a look decides, and that a page has each arm's comparison at its own look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from train.errors import UsageError
from train.report.analysis import Analysis
from train.report.looks import decision_line, repeated_p, take_look
from train.report.make import ReportOptions, analyse_folders
from train.store.decisions import Decision, PlannedLooks
from train.store.manifest import Manifest, read_manifest, write_manifest
from train.sweep.reuse import stored_runs

LOOKS = (3, 6)
SPREAD = (0.0, 0.004, -0.004, 0.002, -0.002, 0.0)


def values(mean: float, seeds: int = 6) -> list[float]:
    return [mean + spread for spread in SPREAD[:seeds]]


def sweep(folder: Path, arms: Mapping[str, Sequence[float]], margin: float | None = 0.02) -> Manifest:
    """Write the runs of these norms, the baseline first, and return the manifest, with looks after three and six seeds."""
    write_sweep(folder, {(f"norm={norm}",): scores for norm, scores in arms.items()})
    manifest = read_manifest(folder)
    assert manifest is not None
    names = tuple(arm.id for arm in manifest.arms)
    looks = PlannedLooks("seed", tuple(map(str, range(6))), LOOKS, margin, True, "accuracy/test", names)
    manifest = replace(manifest, planned_looks=looks)
    write_manifest(folder, manifest)
    return manifest


def look_at(folder: Path, manifest: Manifest, look: int, *norms: str) -> dict[str, Decision]:
    """Take a look at the arms of these norms, and return the decisions by norm."""
    names = {arm.levels["norm"]: arm.id for arm in manifest.arms}
    taken, _ = take_look(manifest, stored_runs(folder), look, [names[norm] for norm in norms])
    return {norm: taken[names[norm]] for norm in norms}


def analysed(folder: Path, manifest: Manifest, decisions: Mapping[str, Decision]) -> Analysis:
    names = {arm.levels["norm"]: arm.id for arm in manifest.arms}
    write_manifest(folder, replace(manifest, decisions={names[norm]: decision for norm, decision in decisions.items()}))
    return analyse_folders([folder], ReportOptions())


def test_look_decides_by_the_runs_that_it_counts_alone(tmp_path: Path) -> None:
    manifest = sweep(tmp_path / "s", {"none": values(0.5), "batch": [*values(0.8, 3), 0.1, 0.1, 0.1], "layer": values(0.501)})
    first = look_at(tmp_path / "s", manifest, 1, "batch", "layer")
    assert (first["batch"].verdict, first["layer"].verdict) == ("different", "open")
    second = look_at(tmp_path / "s", manifest, 2, "layer")["layer"]
    assert (second.verdict, second.look, second.seeds) == ("equivalent", 2, 6)
    assert first["batch"].level < second.level < 0.0254, "half of 5 %, by Sidak"
    assert look_at(tmp_path / "s", manifest, 1, "layer")["layer"] == first["layer"], "whoever else is looked at"


def test_last_look_leaves_an_arm_undecided_unless_runs_failed(tmp_path: Path) -> None:
    manifest = sweep(tmp_path / "s", {"none": values(0.5), "batch": values(0.501), "layer": values(0.502)}, margin=None)
    layer = next(run for run in manifest.runs if "norm=layer" in run.overrides and "seed=4" in run.overrides)
    status = tmp_path / "s" / layer.folder / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"status": "failed", "reason": "no memory"}))
    taken = look_at(tmp_path / "s", manifest, 2, "batch", "layer")
    assert (taken["batch"].verdict, taken["layer"].verdict) == ("undecided", "open")
    assert taken["layer"].note == "1 run failed"
    assert manifest.planned_looks is not None
    line = decision_line("norm=layer", taken["layer"], manifest.planned_looks)
    assert line == "norm=layer: not decided after 6 seeds, as 1 run failed; repeat the sweep to make them again"


@pytest.mark.parametrize(("state", "count"), [("diverged", 3), ("diverged", 1)])
def test_arm_that_diverges_gets_no_more_seeds(state: str, count: int, tmp_path: Path) -> None:
    manifest = sweep(tmp_path / "s", {"none": values(0.5), "batch": values(0.6)})
    for run in [run for run in manifest.runs if "norm=batch" in run.overrides][:count]:
        status = tmp_path / "s" / run.folder / "status.json"
        status.write_text(json.dumps(json.loads(status.read_text()) | {"status": state}))
    assert look_at(tmp_path / "s", manifest, 1, "batch")["batch"].verdict == "not_comparable"


def test_page_compares_every_arm_at_its_own_look(tmp_path: Path) -> None:
    """What the baseline does later, here learning nothing, changes no verdict of an earlier look."""
    folder = tmp_path / "s"
    manifest = sweep(folder, {"none": values(0.5), "batch": values(0.8, 3), "layer": values(0.501)})
    decisions = look_at(folder, manifest, 1, "batch") | look_at(folder, manifest, 2, "layer")
    first = analysed(folder, manifest, decisions)
    verdicts = {level.level: level.verdict for claim in first.claims for level in claim.levels}
    assert list(verdicts.values()) == ["better", "equivalent"]
    for arm in first.study.arms[1:]:
        comparison, decision = first.comparisons[arm.id], decisions[arm.levels["norm"]]
        assert (comparison.low, comparison.high) == pytest.approx((decision.low, decision.high))
        assert (comparison.n, comparison.n_baseline) == (decision.seeds, decision.seeds)
        assert comparison.p_adjusted is not None
        assert (comparison.p_adjusted < 0.05) == comparison.excludes_zero
    late = next(run for run in manifest.runs if "norm=none" in run.overrides and "seed=5" in run.overrides)
    status = folder / late.folder / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"status": "diverged"}))
    later = analyse_folders([folder], ReportOptions())
    assert [level.verdict for claim in later.claims for level in claim.levels] == ["better", "not_comparable"]


def test_page_by_another_metric_or_baseline_has_no_planned_looks(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    manifest = sweep(folder, {"none": values(0.5), "batch": values(0.8, 3)})
    analysed(folder, manifest, look_at(folder, manifest, 1, "batch"))
    for options in (ReportOptions(metric="loss/val"), ReportOptions(baseline="norm=batch")):
        notes = [comparison.note for comparison in analyse_folders([folder], options).comparisons.values()]
        assert not any("look" in note for note in notes)


@pytest.mark.parametrize("look", [1, 2, 3])
def test_repeated_p_is_below_five_percent_where_the_interval_of_the_look_excludes_zero(look: int) -> None:
    from train.report.statistics.sequential import look_level

    planned = PlannedLooks("seed", (), (5, 10, 15), None, True, "accuracy/test", ("a", "b", "c"))
    level = look_level(planned.looks, look, 2)
    assert repeated_p(level, look, planned) == pytest.approx(0.05, rel=0.01)
    assert repeated_p(level / 2, look, planned) < 0.049
    assert repeated_p(1.0, look, planned) == 1.0
    assert 0 < repeated_p(0.0, look, planned) < 1e-6


WRONG = {
    "planned_looks": [
        {},
        {"axis": "seed"},
        *({"looks": looks} for looks in ([], [0, 3], [3, 3], [6, 3], [3, 501], [*range(1, 60)], [1.5], "3", [True, 2], [1e18])),
        {"arms": ["a"]},
        {"margin": -1},
        {"margin": "Infinity"},
        {"stops": "yes"},
    ],
    "decisions": [
        [],
        {"a": 5},
        *({"a": {"look": 1, "seeds": 3, "verdict": "open", "level": 0.01, "note": "", **wrong}} for wrong in (
            {"look": 0}, {"look": "1"}, {"verdict": "better"}, {"verdict": ["open"]}, {"level": "NaN"}, {"level": 2},
            {"low": "x"}, {"high": True}, {"note": 5}, {"seeds": None},
        )),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, all_values in WRONG.items() for value in all_values])
def test_wrong_looks_in_a_stored_file_are_one_message(key: str, value: object, tmp_path: Path) -> None:
    sweep(tmp_path / "s", {"none": [0.5], "batch": [0.6]})
    path = tmp_path / "s" / "sweep.json"
    content = json.loads(path.read_text())
    if key == "planned_looks" and isinstance(value, dict) and value and set(value) != {"axis"}:
        value = {**content[key], **value}
    path.write_text(json.dumps({**content, key: value}))
    with pytest.raises(UsageError, match=rf"sweep.json.*'{key}' should be"):
        read_manifest(tmp_path / "s")


def test_decisions_at_looks_that_are_not_planned_are_none(tmp_path: Path) -> None:
    manifest = sweep(tmp_path / "s", {"none": [0.5], "batch": [0.6]})
    odd = {manifest.arms[1].id: Decision(7, 3, "different", 0.01), "elsewhere": Decision(1, 3, "different", 0.01)}
    write_manifest(tmp_path / "s", replace(manifest, decisions=odd))
    read = read_manifest(tmp_path / "s")
    assert read is not None
    assert list(read.decisions) == ["elsewhere"]
    assert analyse_folders([tmp_path / "s"], ReportOptions()).claims
    write_run(tmp_path / "s" / "other", ["norm=group", "seed=0"], 0.7)
    assert analyse_folders([tmp_path / "s"], ReportOptions()).claims
