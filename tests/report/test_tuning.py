"""Tuned keys in a report: which level every arm is compared at, what follows from it, and what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from tests.report.folders import config_for, write_run
from tests.report.test_report import results, table_rows
from train.report.analysis import Analysis
from train.report.make import ReportOptions, analyse_folders, make_report
from train.report.table_text import UNKNOWN
from train.store.identity import arm_id, identity
from train.store.manifest import Manifest, PlannedArm, PlannedRun

Result: TypeAlias = tuple[float, float] | Literal["diverged", "failed", "interrupted", "missing"]
"""Of one run: validation and test accuracy, or what became of it."""

LR = "optimizer.lr"
QUIET = ReportOptions(tensorboard=False)
SPREAD = (-0.01, 0.0, 0.01)


def runs(val: float, test: float) -> tuple[Result, ...]:
    """Three seeds around these."""
    return tuple((round(val + d, 4), round(test + d, 4)) for d in SPREAD)


NAIVE = "0.1"
DIVERGED: tuple[Result, ...] = ("diverged", "diverged", "diverged")
TABLE: Mapping[tuple[str, str], Sequence[Result]] = {
    ("none", "0.02"): runs(0.70, 0.99),  # the best on the test split, which must not matter
    ("none", "0.05"): runs(0.90, 0.88),
    ("none", "0.1"): runs(0.60, 0.58),
    ("none", "0.2"): DIVERGED,
    ("batch", "0.02"): runs(0.60, 0.59),
    ("batch", "0.05"): runs(0.65, 0.64),
    ("batch", "0.1"): runs(0.75, 0.74),
    ("batch", "0.2"): runs(0.80, 0.79),
    ("group", "0.02"): DIVERGED,
    ("group", "0.05"): DIVERGED,
    ("group", "0.1"): DIVERGED,
    ("group", "0.2"): ("diverged", "diverged", "failed"),
}
"""(norm, learning rate) -> a result for every seed. At the rate .1 batch norm is 16 points better than none; tuned, 9 worse."""


def write(
    folder: Path, table: Mapping[tuple[str, str], Sequence[Result]], *, tune: Sequence[str] = (LR,), plan: bool = True
) -> Path:
    """The runs, and the plan of a sweep that would have made them."""
    arms, planned = [], []
    for number, ((norm, rate), outcomes) in enumerate(table.items()):
        typed = (f"norm={norm}", f"{LR}={rate}")
        config = config_for(typed)
        shared = arm_id(config, tune) if tune else ""
        arms.append(PlannedArm(arm_id(config), {"norm": norm, LR: rate}, typed, shared))
        for seed, result in enumerate(outcomes):
            overrides = [*typed, f"seed={seed}"]
            planned.append(PlannedRun(identity(config_for(overrides)), arm_id(config), f"{norm}-{rate}-{seed}", tuple(overrides)))
            if isinstance(result, tuple):
                val, test = result
                write_run(folder / planned[-1].folder, overrides, test, started=number, summary={"val_accuracy": val})
            elif result != "missing":
                write_run(folder / planned[-1].folder, overrides, None, result, started=number)
    if plan:
        levels = {"norm": tuple(dict.fromkeys(n for n, _ in table)), LR: tuple(dict.fromkeys(r for _, r in table))}
        axes = {axis: found for axis, found in levels.items() if len(found) > 1 or axis in tune}
        seeds = {"seed": ("0", "1", "2")}
        manifest = Manifest(("train", "-m"), "grid", axes, seeds, arms[0].id, tuple(arms), tuple(planned), tune=tuple(tune))
        (folder / "sweep.json").write_text(manifest.as_json())
    return folder


def analysed(folder: Path, **options: object) -> Analysis:
    return analyse_folders([folder], ReportOptions(tensorboard=False, **options))  # type: ignore[arg-type]


def chosen(analysis: Analysis) -> dict[str, str]:
    """Arm -> the level that it is compared at."""
    return {name: choice.chosen.setting[LR] for name, choice in analysis.chosen}


def threat(analysis: Analysis, kind: str) -> str:
    found = [threat.sentence for threat in analysis.threats if threat.kind == kind]
    return found[0] if found else ""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tuned"), TABLE)


@pytest.fixture(scope="module")
def page(sweep: Path) -> str:
    return make_report([sweep], sweep, QUIET).read_text()


@pytest.fixture(scope="module")
def tuned(sweep: Path) -> Analysis:
    return analysed(sweep)


def test_tuning_turns_the_conclusion_round(tuned: Analysis, tmp_path: Path) -> None:
    naive = analysed(write(tmp_path, {key: results for key, results in TABLE.items() if key[1] == NAIVE}, tune=()))
    at_one_rate = {claim.level: claim for claim in naive.claims[0].levels}["norm=batch"]
    at_their_best = {claim.level: claim for claim in tuned.claims[0].levels}["norm=batch"]
    assert "16.0 percentage points higher than baseline" in at_one_rate.sentence
    assert at_one_rate.sentence.endswith("at the learning rate 0.1, not tuned per arm.")
    assert "9.0 percentage points lower than baseline" in at_their_best.sentence
    assert at_their_best.sentence.endswith("the learning rate tuned for every arm over 0.02, 0.05, 0.1 and 0.2.")
    assert threat(naive, "learning_rate")
    assert not threat(tuned, "learning_rate")


def test_the_level_is_chosen_by_the_validation_split_and_by_nothing_else(tuned: Analysis) -> None:
    assert chosen(tuned) == {"baseline": "0.05", "norm=batch": "0.2", "norm=group": "0.02"}
    assert tuned.study.baseline.levels == {"norm": "none"}
    assert [sorted(sample.values) for sample in tuned.samples.values()] == [[0.87, 0.88, 0.89], [0.78, 0.79, 0.80], []]


def test_the_page_says_what_was_tried_chosen_and_paid(page: str, sweep: Path) -> None:
    section = page.split('id="tuning"')[1].split("</section>")[0]
    assert "36 runs, of which 9 at the chosen levels are compared and 27 at others only served to choose" in section
    assert "test accuracy, by which they are compared, had no part in the choice" in section
    lines = (sweep / "report.md").read_text().splitlines()
    cells = [[cell.strip().replace("\\", "") for cell in line.split("|")[1:-1]] for line in lines if "optimizer.lr=" in line]
    levels = [row for row in cells if len(row) == 7]
    assert len(levels) == len(TABLE)
    assert ["", "optimizer.lr=0.05", "90.00 ± 0.58", "3", "0 / 0", "0", "chosen"] in levels
    assert ["", "optimizer.lr=0.2", "80.00 ± 0.58", "3", "0 / 0", "0", "chosen, the largest tried"] in levels
    assert ["", "optimizer.lr=0.2", UNKNOWN, "0", "2 / 1", "0", ""] in levels
    rows = table_rows(page)
    assert "norm=none at optimizer.lr=0.05" in rows["baseline"][1]
    assert "norm=batch at optimizer.lr=0.2" in rows
    assert "optimizer.lr=" not in page.split("</h1>")[0]


def test_an_arm_that_diverged_at_every_level_is_reported_as_such(tuned: Analysis, page: str) -> None:
    claim = {claim.level: claim for claim in tuned.claims[0].levels}["norm=group"]
    assert claim.verdict == "not_comparable"
    assert "no run of norm=group came to its end at any level that was tuned over" in claim.sentence
    assert "12 runs" in threat(tuned, "tuning_lost")
    assert "norm=group no level could be chosen" in " ".join(table_rows(page))
    assert "none could be chosen: runs diverged or failed at every level" in page
    lost = page.split('id="missing"')[1].split("</section>")[0]
    assert lost.count("norm=group at optimizer.lr=0.2") == 3
    assert lost.count("baseline at optimizer.lr=0.2") == 3


def test_what_speaks_against_the_choice(tuned: Analysis) -> None:
    assert "edge of the range tried for norm=batch (optimizer.lr=0.2, the largest)" in threat(tuned, "tuning_edge")
    assert "the best may lie outside" in threat(tuned, "tuning_edge")
    assert "hence the same seeds" in threat(tuned, "tuned_with_the_same_seeds")
    assert not threat(tuned, "tuning_provisional")
    assert not threat(tuned, "tuning_unequal")


def test_compared_by_the_validation_split_the_figures_are_optimistic(sweep: Path) -> None:
    analysis = analysed(sweep, metric="accuracy/val")
    assert "optimistic" in threat(analysis, "tuned_on_the_metric")
    assert not threat(analysis, "tuned_with_the_same_seeds")
    assert chosen(analysis) == {"baseline": "0.05", "norm=batch": "0.2", "norm=group": "0.02"}


@pytest.mark.usefixtures("page")
def test_the_table_of_runs_keeps_every_run_and_says_which_took_part(sweep: Path) -> None:
    rows = results(sweep)
    assert len(rows) == 36
    took_part = {(row["norm"], row[LR]) for row in rows if row["compared"] == "true"}
    assert took_part == {("none", "0.05"), ("batch", "0.2"), ("group", "0.02")}
    assert {row["compared"] for row in rows} == {"true", "false"}
    assert {row["arm"] for row in rows if row["norm"] == "batch"} == {"norm=batch"}


def test_the_command_tunes_what_no_plan_says(tmp_path: Path, train_report) -> None:
    write(tmp_path, TABLE, plan=False)
    assert len(analysed(tmp_path).study.arms) == len(TABLE)
    told = train_report(tmp_path, "--no-tensorboard", "--tune", LR)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^norm=batch +3  79.00 .* at optimizer.lr=0.2$", told.stdout, re.MULTILINE)
    assert "tuned for every arm over 0.02, 0.05, 0.1 and 0.2" in told.stdout
    assert "norm=none" in (tmp_path / "report.md").read_text().split("Baseline:")[1].splitlines()[0]


def test_a_plan_that_says_nothing_of_it_can_be_tuned_too(tmp_path: Path) -> None:
    write(tmp_path, TABLE, tune=())
    (tmp_path / "none-0.05-0" / "status.json").unlink()  # one not made
    for folder in tmp_path.glob("batch-0.05-*"):
        (folder / "status.json").unlink()
    analysis = analysed(tmp_path, tune=(LR,))
    assert chosen(analysis) == {"baseline": "0.02", "norm=batch": "0.2", "norm=group": "0.02"}
    assert "4 runs" in threat(analysis, "tuning_provisional")
    assert "3 of norm=batch" in threat(analysis, "tuning_unequal")


@pytest.mark.parametrize(
    ("key", "said"), [("optimizer.rl", "Did you mean 'optimizer.lr'?"), ("seed", "seeds are what a level is averaged over")]
)
def test_a_key_that_cannot_be_tuned(sweep: Path, train_report, key: str, said: str) -> None:
    result = train_report(sweep, "--tune", key)
    assert result.returncode == 2
    assert f"--tune {key}" in result.stderr
    assert said in result.stderr


RANKED: list[tuple[str, Mapping[str, Sequence[Result]], str, str]] = [
    ("lost runs count against a level", {"0.05": runs(0.6, 0.6), "0.1": (*runs(0.9, 0.9)[:2], "diverged")}, "0.05", ""),
    ("so does a failure", {"0.05": runs(0.6, 0.6), "0.1": (*runs(0.9, 0.9)[:2], "failed")}, "0.05", ""),
    (
        "of lossy levels the one that lost least",
        {"0.05": (*runs(0.6, 0.6)[:2], "diverged"), "0.1": ((0.9, 0.9), "diverged", "diverged")},
        "0.05",
        "tuning_lossy",
    ),
    (
        "a level that waits comes later",
        {"0.05": runs(0.6, 0.6), "0.1": (*runs(0.9, 0.9)[:2], "missing")},
        "0.05",
        "tuning_provisional",
    ),
    (
        "but before one that lost",
        {"0.05": (*runs(0.6, 0.6)[:2], "diverged"), "0.1": (*runs(0.5, 0.5)[:2], "interrupted")},
        "0.1",
        "tuning_provisional",
    ),
    # the two means differ by a rounding error
    ("of equals the first", {"0.1": ((0.68, 0.9), (0.7, 0.9), (0.72, 0.9)), "0.05": runs(0.7, 0.6)}, "0.05", "tuning_tie"),
    ("one level", {"0.1": runs(0.6, 0.7)}, "0.1", "tuning_one_level"),
]


@pytest.mark.parametrize(("levels", "best", "kind"), [row[1:] for row in RANKED], ids=[row[0] for row in RANKED])
def test_ranks(tmp_path: Path, levels: Mapping[str, Sequence[Result]], best: str, kind: str) -> None:
    analysis = analysed(write(tmp_path, {("none", rate): results for rate, results in levels.items()}))
    assert chosen(analysis) == {"baseline": best}
    kinds = {threat.kind for threat in analysis.threats if threat.kind.startswith("tuning")} - {"tuning_edge"}
    assert kinds == ({kind} if kind else set())


def test_without_a_validation_accuracy_nothing_is_chosen_and_nothing_called_tuned(tmp_path: Path) -> None:
    write(tmp_path, {key: results for key, results in TABLE.items() if key[0] != "group"})
    for path in tmp_path.glob("*/summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"val_accuracy": None}))
    analysis = analysed(tmp_path)
    assert "nothing could be chosen" in threat(analysis, "tuning_unmeasured")
    assert chosen(analysis) == {"baseline": "0.02", "norm=batch": "0.02"}
    assert "tuned for every arm" not in analysis.claims[0].sentence
    assert "no level could be chosen" in make_report([tmp_path], tmp_path, QUIET).read_text()


def test_another_key_than_the_rate_is_named_in_the_claims_and_leaves_the_rate_untuned(tmp_path: Path) -> None:
    key = "regularization.weight_decay"
    for norm, best in (("none", 0.9), ("batch", 0.8)):
        for level, less in (("0.001", 0.1), ("0.01", 0.0)):
            for seed, away in enumerate(SPREAD):
                write_run(
                    tmp_path / f"{norm}{level}{seed}", [f"norm={norm}", f"{key}={level}", f"seed={seed}"], best - less + away
                )
    (claim,) = analysed(tmp_path, tune=(key,), baseline="norm=none").claims
    assert claim.sentence.endswith(f"{key} tuned for every arm, at the learning rate 0.2, not tuned per arm.")
    assert "10.0 percentage points lower" in claim.sentence
