"""Reports and `train-report diff` say where runs were made from other data, other code or another YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.report.folders import config_for, write_run
from train.report.arms import build_study
from train.report.collect import collect
from train.report.diff import difference
from train.report.input_facts import InputFacts
from train.report.inputs import input_facts
from train.report.make import ReportOptions, make_report
from train.store.identity import arm_id, identity, run_id
from train.store.inputs import Inputs, write_data
from train.store.manifest import Manifest, PlannedArm, PlannedRun, write_manifest


def data(cat: str = "cats", dog: str = "dogs", test: str = "test", images: int = 20) -> dict[str, Any]:
    """Return the content of a data set; the arguments stand for images."""
    train = {"images": 2 * images, "counts": [images, images], "contents": [cat, dog], "order": "1"}
    return {
        "classes": ["cat", "dog"],
        "splits": {"train": train, "test": {"images": 40, "counts": [20, 20], "contents": [test, "t"], "order": "2"}},
    }


def made_from(
    folder: Path,
    overrides: Sequence[str],
    content: Mapping[str, Any] | None,
    code: Mapping[str, str] | None = None,
    first_batch: str = "",
) -> Path:
    """Write a completed run that was made from these data and this code; with None it does not record them."""
    inputs, config = Inputs(content or {}, code or {}), config_for(overrides)
    ids = {name: run_id(make(config), config, inputs.data_id) for name, make in (("identity", identity), ("arm", arm_id))}
    status: dict[str, Any] = {"identity_version": 3, **ids}
    status |= {} if content is None else {"data": inputs.data_id, "own_code": dict(inputs.code)}
    summary = {"fingerprint": {"first_batch": {"sha256": first_batch}}} if first_batch else {}
    seed = next(int(item.partition("=")[2]) for item in overrides if item.startswith("seed="))
    write_run(folder, overrides, 0.9 + seed / 100, status=status, summary=summary)
    if content is not None:
        write_data(folder, inputs)
    return folder


def facts_of(folder: Path) -> InputFacts:
    return input_facts(build_study(collect([folder])))


def page_of(folder: Path) -> str:
    make_report([folder], folder, ReportOptions(tensorboard=False))
    return (folder / "report.md").read_text()


def threats(page: str) -> str:
    return "\n".join(line for line in page.splitlines() if line.startswith("- **serious:**") and "Fewer than" not in line)


SWAPPED = data(cat="dogs", dog="cats")
OTHER_DATA = {
    "swapped classes": (SWAPPED, "train/cat holds what train/dog held; train/dog holds what train/cat held"),
    "other images": (data(dog="puppies"), "train/dog: other images or names of files (20)"),
    "fewer images": (data(cat="c", dog="d", images=19), "train/cat: 20 images -> 19; train/dog: 20 images -> 19"),
    "other test images": (data(test="new"), "test/cat: other images or names of files (20)"),
}


@pytest.mark.parametrize("change", OTHER_DATA)
def test_report_says_how_the_data_of_arms_differ(tmp_path: Path, change: str) -> None:
    content, expected = OTHER_DATA[change]
    for seed in range(2):
        made_from(tmp_path / f"a{seed}", ["norm=batch", f"seed={seed}"], data())
        made_from(tmp_path / f"b{seed}", ["norm=none", f"seed={seed}"], content)
    facts = facts_of(tmp_path)
    (text,) = facts.data
    assert text.startswith("from 2 runs of baseline to 2 runs of norm=none data.content=")
    assert text.partition(": ")[2] == expected
    assert facts.same_test_data is (change != "other test images")


def test_runs_of_one_configuration_and_two_data_are_two_arms_and_a_serious_threat(tmp_path: Path) -> None:
    made_from(tmp_path / "a", ["seed=0"], data())
    made_from(tmp_path / "b", ["seed=0"], SWAPPED)
    page = page_of(tmp_path)
    assert "Effect of data.content" in page
    assert "Runs were made with different data, though their settings of data are the same" in threats(page)
    assert "1 run of data.content=" in threats(page)


def test_data_that_were_asked_for_are_no_threat(tmp_path: Path) -> None:
    """Another choice, or other settings, of data is the question. Where they lie is none, if they are the same."""
    for seed in range(2):
        made_from(tmp_path / f"a{seed}", ["data=noise", f"seed={seed}"], data())
        made_from(tmp_path / f"b{seed}", ["data=noise", "data.train_size=64", f"seed={seed}"], data(images=64))
        made_from(tmp_path / f"c{seed}", ["data=fashion_mini", "data.root=/a", f"seed={seed}"], data("c"))
        made_from(tmp_path / f"d{seed}", ["data=fashion_mini", "data.root=/b", f"seed={seed + 2}"], data("c"))
    assert facts_of(tmp_path).data == ()
    study = build_study(collect([tmp_path]))
    assert set(study.factors) == {"data", "data.train_size"}
    assert len(study.arms) == 3


def test_planned_axis_of_places_is_no_threat(tmp_path: Path) -> None:
    arms, runs = [], []
    for place, content in (("/a", data()), ("/b", SWAPPED)):
        overrides = (f"data.root={place}",)
        config, id = config_for(overrides), Inputs(content).data_id
        arms.append(PlannedArm(run_id(arm_id(config), config, id), {"data.root": place}, overrides, data=id))
        for seed in range(2):
            named = (*overrides, f"seed={seed}")
            folder = made_from(tmp_path / f"{place[1:]}{seed}", named, content)
            run = config_for(named)
            runs.append(PlannedRun(run_id(identity(run), run, id), arms[-1].id, folder.name, named))
    axes = {"data.root": ("/a", "/b")}
    write_manifest(tmp_path, Manifest(("train", "-m"), "grid", axes, {"seed": ("0", "1")}, arms[0].id, tuple(arms), tuple(runs)))
    assert facts_of(tmp_path).data == ()
    assert list(build_study(collect([tmp_path])).labels.values()) == ["data.root=/a (baseline)", "data.root=/b"]


@pytest.mark.parametrize(("old", "new"), [("source 1a2b", "source 3c4d"), ("1.0.3", "1.0.4")])
def test_report_says_which_code_differs(tmp_path: Path, old: str, new: str) -> None:
    for seed in range(3):
        made_from(tmp_path / f"a{seed}", ["norm=batch", f"seed={seed}"], data())
        made_from(tmp_path / f"b{seed}", ["norm=none", f"seed={seed}"], data(), {"mine": old if seed else new, "shared": "1"})
    assert facts_of(tmp_path).code == (f"mine: {new} in 1 run of norm=none and {old} in 2 runs of norm=none",)


def test_report_says_how_configurations_of_one_arm_differ(tmp_path: Path) -> None:
    """The same overrides meant two configurations: a YAML or a default has changed in between."""
    arms, runs = [], []
    for groups in (2, 4):
        overrides = ["norm=group", f"norm.groups={groups}"]
        config = config_for(overrides)
        arms.append(PlannedArm(run_id(arm_id(config), config, Inputs(data()).data_id), {"norm": "group"}, ("norm=group",)))
        for seed in range(2):
            folder = made_from(tmp_path / f"{groups}-{seed}", [*overrides, f"seed={seed}"], data())
            run = config_for([*overrides, f"seed={seed}"])
            runs.append(PlannedRun(run_id(identity(run), run, Inputs(data()).data_id), arms[-1].id, folder.name, ("norm=group",)))
    write_manifest(tmp_path, Manifest(("train", "-m"), "grid", {"norm": ("group",)}, {}, arms[0].id, tuple(arms), tuple(runs)))
    page = page_of(tmp_path)
    assert "norm=group: norm.groups: 2 -\\> 4" in threats(page)
    assert "Runs were made with different configurations" in threats(page)


def test_runs_without_a_record_count_by_their_first_batch_and_the_page_says_so(tmp_path: Path) -> None:
    for seed in range(2):
        made_from(tmp_path / f"new{seed}", ["norm=none", f"seed={seed}"], data(), first_batch=f"batch {seed}")
        made_from(tmp_path / f"old{seed}", ["norm=batch", f"seed={seed}"], None, first_batch=f"batch {seed}")
    page = page_of(tmp_path)
    assert "2 runs did not record the data that went in, and counted because the first batch was the same" in page
    assert "unknown" not in page.partition("Threats")[2]
    assert threats(page) == ""
    assert "All arms share these images" in page


def test_page_says_that_data_are_unknown(tmp_path: Path) -> None:
    for seed in range(2):
        made_from(tmp_path / f"new{seed}", ["norm=none", f"seed={seed}"], data(), first_batch=f"batch {seed}")
        made_from(tmp_path / f"old{seed}", ["norm=none", f"seed={seed + 2}"], None, first_batch="another batch")
        made_from(tmp_path / f"bare{seed}", ["norm=batch", f"seed={seed}"], None)
    page = page_of(tmp_path)
    assert "4 runs did not record the data that went in, nor does a first batch show them" in page
    assert "All arms share these images" not in page
    assert "4 / 0 / 0" in page, "they count for the arm of the same configuration"


def test_diff_says_what_differs(tmp_path: Path) -> None:
    first = made_from(tmp_path / "a", ["seed=0"], data(), {"mine": "source 1a2b"})
    copy = made_from(tmp_path / "copy", ["seed=0", "data.root=/elsewhere"], data(), {"mine": "source 1a2b"})
    assert "The same experiment: same configuration, same seeds." in difference(first, copy)
    assert "data: no difference" in difference(first, copy)
    other = difference(first, made_from(tmp_path / "b", ["seed=0"], SWAPPED, {"mine": "source 3c4d"}))
    assert "The same experiment" not in other
    assert "same configuration, same seeds, but other data (train/cat holds what train/dog held; " in other
    assert "and other code (mine: source 1a2b -> source 3c4d)" in other
    assert "train/cat  20 images cats  20 images dogs" in other
    assert "own_code.mine  source 1a2b  source 3c4d" in other
    seeds = difference(first, made_from(tmp_path / "c", ["seed=1"], data(), {"mine": "source 1a2b"}))
    assert "Runs of one arm: they differ only in their seeds." in seeds
    assert "same configuration, other seeds, but other data" in difference(
        first, made_from(tmp_path / "d", ["seed=1"], SWAPPED, {"mine": "source 1a2b"})
    )
    unknown = difference(first, made_from(tmp_path / "e", ["seed=0"], None))
    assert "Whether their data are the same is not recorded." in unknown
