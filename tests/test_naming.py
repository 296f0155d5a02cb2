"""Names of arms: one for all outputs; of run folders: readable, safe on every file system, and unique."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.conftest import Train
from tests.harness import SMALL
from tests.report.folders import write_sweep
from train.naming import ABSENT, SLUG_BYTES, arm_folder, arm_names, job_name, run_name, slug, sweep_name
from train.report.make import ReportOptions, make_report
from train.store.manifest import Design
from train.store.run import find_runs

SLUGS = {
    "": "defaults",
    "init=xavier norm=batch": "init=xavier,norm=batch",
    "data.root=/home/me/images": "data.root=-home-me-images",
    "+augment.stop.p=0.5": "+augment.stop.p=0.5",
    "~schedule.final": "~schedule.final",
    "data.shape=[3,32,32]": "data.shape=-3,32,32",
    "model.name='a:b*c?'": "model.name=-a-b-c",
    "..": "run",
    "/": "run",
}


@pytest.mark.parametrize("overrides", SLUGS)
def test_slug_of_overrides(overrides: str) -> None:
    assert slug(overrides.split()) == SLUGS[overrides]


def test_slug_replaces_spaces_and_non_ascii_letters() -> None:
    assert slug(["a=größe 3", "b=\n\t\0"]) == "a=gr-e-3,b="


@pytest.mark.parametrize(
    "overrides", [["x=" + "y" * 1000], [f"key{n}=value{n}" for n in range(100)], ["é" * 300], ["a" * 119 + "/b"]]
)
def test_run_name_fits_into_a_file_system(tmp_path: Path, overrides: list[str]) -> None:
    name = run_name(overrides)
    assert len(slug(overrides).encode()) <= SLUG_BYTES
    (tmp_path / f"1234_{name}").mkdir()
    assert re.fullmatch(r"[A-Za-z0-9=.,_+~-]+", name)


def test_run_names_of_the_same_moment_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: run_name(["init=xavier"]), range(200)))
    assert len(set(names)) == 200
    assert len({sweep_name() for _ in range(200)}) == 200


def test_run_name_contains_the_time_and_the_overrides() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[a-z0-9]{5}_init=xavier", run_name(["init=xavier"]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[a-z0-9]{5}_sweep", sweep_name())


def test_job_name_is_unique_and_reproducible() -> None:
    long = [f"key{n}=value{n}" for n in range(100)]
    names = [
        job_name(overrides)
        for overrides in (["seed=0"], ["seed=1"], [*long, "seed=0"], [*long, "seed=1"], ["a=b,c"], ["a=b", "c"])
    ]
    assert len(set(names)) == len(names), "also if the readable part is truncated or equal"
    assert names[0] == job_name(["seed=0"])
    assert all(re.fullmatch(r"[A-Za-z0-9=.,_+~-]+_[0-9a-f]{8}", name) and len(name) <= 255 for name in names)


LEVELS = ({"init": "xavier", "norm": "batch"}, {"init": "xavier", "norm": "none"}, {"init": "lsuv", "norm": "none"})
NAMES: list[tuple[str, bool, Sequence[dict[str, str]], list[str]]] = [
    ("grid", True, LEVELS, ["init=xavier norm=batch (baseline)", "init=xavier norm=none", "init=lsuv norm=none"]),
    ("changes", False, LEVELS, ["baseline", "norm=none", "init=lsuv norm=none"]),
    ("one arm", True, [{}], ["baseline"]),
    ("one factor", True, [{"norm": "batch"}, {"norm": "none"}], ["norm=batch (baseline)", "norm=none"]),
    ("other data", True, [{"norm": "batch"}] * 2, ["norm=batch (baseline)", "norm=batch (123456)"]),
    ("other data of a change", False, [{"norm": "batch"}] * 2, ["baseline", "like the baseline (123456)"]),
    ("equal changes", False, [LEVELS[0], *LEVELS[1:2] * 2], ["baseline", "norm=none (123456)", "norm=none (223456)"]),
    ("no such key", True, [{"norm": "none", "norm.groups": ABSENT}, {"norm": "group", "norm.groups": "4"}],
     ["norm=none (baseline)", "norm=group norm.groups=4"]),
    ("the key alone", False, [{"norm.groups": "4"}, {"norm.groups": ABSENT}], ["baseline", f"norm.groups={ABSENT}"]),
    ("lists", True, [{"augment": "[flip,crop]"}, {"augment": "[]"}], ["augment=[flip,crop] (baseline)", "augment=[]"]),
]  # fmt: skip


@pytest.mark.parametrize(("grid", "arms", "expected"), [row[1:] for row in NAMES], ids=[row[0] for row in NAMES])
def test_arm_names_are_combinations_or_differences(grid: bool, arms: Sequence[dict[str, str]], expected: list[str]) -> None:
    by_id = {f"{number}23456789": levels for number, levels in enumerate(arms)}
    assert list(arm_names(by_id, "023456789", combinations=grid).values()) == expected


def test_folder_of_an_arm_is_safe_and_like_those_of_its_runs() -> None:
    assert arm_folder("init=xavier norm=none") == slug(["init=xavier", "norm=none"])
    assert arm_folder("augment=[flip,../x] (baseline)") == "augment=-flip,..-x-,baseline"


SWEEPS: dict[Design, tuple[list[str], list[str]]] = {
    "grid": (
        ["norm=none,batch", "init=kaiming,xavier"],
        ["norm=none init=kaiming (baseline)", "norm=none init=xavier", "norm=batch init=kaiming", "norm=batch init=xavier"],
    ),
    "one_at_a_time": (["norm=batch,none", "init=kaiming,xavier"], ["baseline", "norm=none", "init=xavier"]),
}


@pytest.mark.parametrize("design", SWEEPS)
def test_every_output_of_a_sweep_calls_an_arm_by_one_name(train: Train, tmp_path: Path, design: Design) -> None:
    """The dry run, the progress, the answer, and what the runs write for TensorBoard; the others are like those below."""
    axes, arms = SWEEPS[design]
    dry, done = (
        train("-m", *SMALL, *axes, f"sweep.design={design}", "hydra.sweep.dir=sweep", f"sweep.dry_run={dry}").stdout
        for dry in ("true", "false")
    )
    assert dry.split("arms\n")[1].split("\nsweep ")[0].split("\n") == [f"  {name}" for name in arms]
    expected = set(arms)
    assert set(re.findall(r"^\[\d/\d\] running (.*) \(cpu", done, re.MULTILINE)) == expected
    assert set(re.findall(r"^\[\d/\d\] done (.*) after", done, re.MULTILINE)) == expected
    assert set(re.findall(r"^(\S.*?) +1  -", done.split("test accuracy\n")[-1], re.MULTILINE)) == expected
    assert {arm_in_hparams(path) for path in find_runs([tmp_path / "sweep"])} == expected
    check_report(tmp_path / "sweep", arms)


@pytest.mark.parametrize("design", SWEEPS)
def test_every_output_of_a_report_calls_an_arm_by_one_name(tmp_path: Path, design: Design) -> None:
    """Claims, cautions, pairs and figures of runs that trained, which tiny runs do not."""
    _, arms = SWEEPS[design]
    changes = [[part for part in name.split() if "=" in part] for name in arms]
    runs = {tuple(change): (0.5 + 0.1 * number, 0.52 + 0.13 * number) for number, change in enumerate(changes)}
    folder = write_sweep(tmp_path / "sweep", runs, design=design, layers=2)
    page, terminal = make_report([folder], folder, ReportOptions(pairs=True))
    assert set(re.findall(r"^(\S.*?) +2  [\d.]+", terminal, re.MULTILINE)) == set(arms)
    check_report(folder, arms)
    text, expected = page.read_text(), set(arms)
    pairs = {tuple(sorted(pair)) for pair in re.findall(r'<th scope="row">(.*) minus (.*?)</th>', text)}
    assert pairs == set(combinations(sorted(arms), 2))
    (few,) = re.findall(r"Fewer than 3 runs with a value: (.*?)\. ", text)
    assert {name.strip() for name in re.split(r" \(2\)(?:,| and|$)", few) if name} == expected
    claims = text.split('id="claims"')[1].split("</section>")[0]
    claimed = set(re.findall(r"</b> (.*?) (?:has a|against|and) ", claims))
    assert claimed == ({"norm=batch", "init=xavier"} if design == "grid" else expected - {"baseline"}), "levels of a grid"
    with (folder / "pairs.csv").open() as file:
        assert {row[column] for row in csv.DictReader(file) for column in ("first", "second")} == expected


def check_report(folder: Path, arms: Sequence[str]) -> None:
    """Check the names in the page, its figures, the table of runs, and the folders for TensorBoard."""
    page, expected = (folder / "report.html").read_text(), set(arms)
    assert set(re.findall(r'data-label="arm">(.*?)<', page)) == expected
    assert set(re.findall(r"<summary>(.*?)</summary><pre>", page)) == expected
    for figure in (path for path in (folder / "figures").glob("*.svg") if path.stem != "interactions"):
        compared = {name for name in arms if "baseline" not in name or figure.stem != "differences"}
        assert set(labels_of(figure, arms)) == compared
    with (folder / "results.csv").open() as file:
        assert {row["arm"] for row in csv.DictReader(file)} == expected
    assert {path.name for path in (folder / "summary").iterdir() if path.is_dir()} == set(map(arm_folder, arms))


def labels_of(figure: Path, arms: Sequence[str]) -> list[str]:
    """Return the arm that each numbered label of a figure names: it may be shortened, or go on in the next line."""
    texts = re.findall(r"<!-- (.*?) -->", figure.read_text())
    named = []
    for text, following in zip(texts, [*texts[1:], ""], strict=True):
        if label := re.fullmatch(r"\d  (.*)", text):
            patterns = [re.escape(shown).replace("…", ".*") for shown in (label[1], f"{label[1]} {following}")]
            (arm,) = (name for name in arms if any(re.fullmatch(pattern, name) for pattern in patterns))
            named.append(arm)
    return named


def arm_in_hparams(folder: Path) -> str:
    events = EventAccumulator(str(folder)).Reload().PluginTagToContent("hparams")["_hparams_/session_start_info"]
    data: Any = plugin_data_pb2
    return data.HParamsPluginData.FromString(events).session_start_info.hparams["arm"].string_value
