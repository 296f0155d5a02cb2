"""Plans and looks in `sweep.json`: what was planned before anybody looked, and that no change of the file is lost."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from train.errors import UsageError
from train.store.files import MANIFEST_FILE, MANIFEST_LOCK
from train.store.lock import Lock
from train.store.manifest import Manifest, PlannedArm, PlannedRun, as_planned, merge_manifests, read_manifest, write_manifest
from train.store.manifest_update import add_look, of_plans, update_manifest
from train.store.plans import MOST_LOOKS, Look, closing


def manifest_of(norms: Sequence[str], seeds: int, when: str = "2026-01-31T12:00:00+0000", of_seeds: int = 0) -> Manifest:
    """Return the manifest of one command; `of_seeds`: how many are planned in all, where the runs are those of a first stage."""
    manifest = Manifest(
        command=("train", "-m", f"norm={','.join(norms)}", f"seed=range({seeds})"),
        design="grid",
        axes={"norm": tuple(norms)},
        seeds={"seed": tuple(map(str, range(of_seeds or seeds)))},
        baseline=norms[0],
        arms=tuple(PlannedArm(norm, {"norm": norm}, (f"norm={norm}",)) for norm in norms),
        runs=tuple(
            PlannedRun(f"{norm}{seed}", norm, f"{norm}{seed}", (f"norm={norm}", f"seed={seed}"))
            for norm in norms
            for seed in range(seeds)
        ),
    )
    return replace(manifest, plans=(as_planned(manifest, when),))


def look(runs: int = 4, closes: bool = True, plans: int = 1) -> Look:
    counts = {"none": runs // 2, "batch": runs - runs // 2}
    return Look("2026-01-31T13:00:00+0000", "final" if closes else "exploratory", plans, closes, counts, "accuracy/test", 0.05)


FIRST = manifest_of(("none", "batch"), 2)


def test_plans_and_looks_are_read_as_they_were_written(tmp_path: Path):
    write_manifest(tmp_path, replace(FIRST, looks=(look(),)))
    assert read_manifest(tmp_path) == replace(FIRST, looks=(look(),))


def test_file_of_an_earlier_version_has_one_plan_and_no_look(tmp_path: Path):
    write_manifest(tmp_path, FIRST)
    content = json.loads((tmp_path / MANIFEST_FILE).read_text())
    del content["plans"], content["looks"]
    for run in content["runs"]:
        del run["plan"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(content))
    old = read_manifest(tmp_path)
    assert old is not None
    assert (old.plans, old.looks, {run.plan for run in old.runs}) == ((), (), {0})
    assert of_plans(old, 1) == old
    merged = merge_manifests(old, manifest_of(("none", "batch"), 4))
    assert [plan.when for plan in merged.plans] == ["", "2026-01-31T12:00:00+0000"]
    assert of_plans(merged, 1).runs == old.runs
    add_look(tmp_path, look())
    looked_at = read_manifest(tmp_path)
    assert looked_at is not None
    assert [plan.when for plan in looked_at.plans] == [""]


@pytest.mark.parametrize(
    ("again", "plans", "of_first"),
    [
        (manifest_of(("none", "batch"), 2), 1, 4),
        (manifest_of(("none", "batch"), 1), 1, 4),
        (manifest_of(("none",), 2), 1, 4),
        (manifest_of(("none", "batch"), 5), 2, 4),
        (manifest_of(("none", "batch", "group"), 2), 2, 4),
        (manifest_of(("none", "group"), 1), 2, 4),
    ],
    ids=["repeated", "fewer seeds", "fewer arms", "more seeds", "one more arm", "other arms"],
)
def test_a_plan_is_what_adds_runs(again: Manifest, plans: int, of_first: int):
    merged = merge_manifests(FIRST, again)
    assert len(merged.plans) == plans
    assert merged.plans[0] == FIRST.plans[0]
    assert len(of_plans(merged, 1).runs) == of_first
    assert of_plans(merged, 1).arms == FIRST.arms
    assert of_plans(merged, 1).baseline == "none"
    assert len(of_plans(merged, plans).runs) == len({run.identity for run in (*FIRST.runs, *again.runs)})


def test_stages_of_one_sweep_are_one_plan():
    first = manifest_of(("none", "batch"), 2, of_seeds=6)
    merged = merge_manifests(first, manifest_of(("none", "batch"), 4, "2026-01-31T12:30:00+0000", of_seeds=6))
    assert [(plan.when, plan.runs) for plan in merged.plans] == [("2026-01-31T12:00:00+0000", 8)]
    assert {run.plan for run in merged.runs} == {0}


def test_run_of_another_experiment_has_the_number_of_the_one_that_it_replaces():
    """Another YAML: all ids change, and nothing was added."""
    grown = merge_manifests(FIRST, manifest_of(("none", "batch"), 3))
    runs = tuple(replace(run, identity=f"new {run.identity}", arm=f"new {run.arm}", plan=0) for run in grown.runs)
    arms = tuple(replace(arm, id=f"new {arm.id}") for arm in grown.arms)
    again = replace(manifest_of(("none", "batch"), 3), runs=runs, arms=arms, baseline="new none")
    merged = merge_manifests(grown, again)
    assert len(merged.plans) == 2
    assert sorted(run.plan for run in merged.runs) == [0, 0, 0, 0, 1, 1]
    assert of_plans(merged, 1).baseline == "new none"


def test_growth_keeps_the_looks():
    assert merge_manifests(replace(FIRST, looks=(look(),)), manifest_of(("none", "batch"), 5)).looks == (look(),)


def looks_in(folder: Path) -> tuple[Look, ...]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest.looks


def test_look_that_shows_the_same_is_recorded_once(tmp_path: Path):
    write_manifest(tmp_path, FIRST)
    add_look(tmp_path, look())
    add_look(tmp_path, replace(look(), when="2026-02-01T00:00:00+0000"))
    assert looks_in(tmp_path) == (look(),)
    add_look(tmp_path, look(6))
    assert looks_in(tmp_path) == (look(), look(6))


def test_look_that_closed_a_plan_is_never_forgotten(tmp_path: Path):
    closed = (look(), *(look(n, closes=False) for n in range(MOST_LOOKS)))
    write_manifest(tmp_path, replace(FIRST, looks=closed))
    add_look(tmp_path, look(7))
    found = looks_in(tmp_path)
    assert len(found) == MOST_LOOKS + 1
    assert closing(found) == found[0] == look()
    assert found[-1] == look(7)


def test_look_changes_nothing_else_of_the_file(tmp_path: Path):
    write_manifest(tmp_path, FIRST)
    before = json.loads((tmp_path / MANIFEST_FILE).read_text())
    add_look(tmp_path, look())
    after = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert {key for key in after if after[key] != before[key]} == {"looks"}


def test_look_at_a_folder_without_a_plan_writes_nothing_but_the_lock(tmp_path: Path):
    add_look(tmp_path, look())
    assert {path.name for path in tmp_path.iterdir()} <= {MANIFEST_LOCK}


def test_look_goes_beside_a_sweep_that_holds_its_folder(tmp_path: Path):
    """The sweep's lock is for its whole life, that of the manifest for a moment."""
    write_manifest(tmp_path, FIRST)
    lock = Lock(tmp_path)
    assert lock.acquire() is None
    add_look(tmp_path, look())
    lock.release()
    assert looks_in(tmp_path) == (look(),)


def test_no_change_is_lost_among_many_writers(tmp_path: Path):
    """A sweep that plans more runs, and reports that add looks, at the same time."""
    write_manifest(tmp_path, FIRST)

    def grow(count: int) -> None:
        update_manifest(tmp_path, lambda old: merge_manifests(old, manifest_of(("none", f"arm {count}"), 2)))

    writers = [threading.Thread(target=add_look, args=(tmp_path, look(n, closes=False))) for n in range(8)]
    writers += [threading.Thread(target=grow, args=(n,)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert {sum(found.runs.values()) for found in manifest.looks} == set(range(8))
    assert {arm.id for arm in manifest.arms} == {"none", "batch", *(f"arm {n}" for n in range(8))}
    assert len(manifest.plans) == 9


def test_lock_that_is_no_file_of_its_own_is_refused(tmp_path: Path):
    folder, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_text("mine")
    write_manifest(folder, FIRST)
    (folder / MANIFEST_LOCK).symlink_to(elsewhere)
    with pytest.raises(OSError, match="link"):
        add_look(folder, look())
    assert elsewhere.read_text() == "mine"
    (folder / MANIFEST_LOCK).unlink()
    os.mkfifo(folder / MANIFEST_LOCK)
    with pytest.raises(OSError, match="regular file"):
        add_look(folder, look())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("plans", {}),
        ("plans", [{"when": "now"}]),
        ("plans", ["all"]),
        ("looks", [{"when": "now", "standing": "certain", "plans": 1, "closes": True, "runs": {}, "metric": "m", "level": 0.05}]),
        ("looks", [{"when": "now", "standing": "final", "plans": 1, "closes": "yes", "runs": {}, "metric": "m", "level": 0.05}]),
        (
            "looks",
            [{"when": "now", "standing": "final", "plans": 1, "closes": True, "runs": {"a": "b"}, "metric": "m", "level": 1}],
        ),
        ("looks", 3),
    ],
)
def test_records_of_another_kind_are_one_message(tmp_path: Path, key: str, value: object):
    write_manifest(tmp_path, FIRST)
    content = json.loads((tmp_path / MANIFEST_FILE).read_text()) | {key: value}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=key):
        read_manifest(tmp_path)


@pytest.mark.parametrize("plans", [-5, 0, 1, 99])
def test_strange_numbers_of_plans_end_no_report(plans: int):
    """A file from somebody else may say anything."""
    found = of_plans(replace(FIRST, looks=(look(plans=plans),)), plans)
    assert found.runs == FIRST.runs
