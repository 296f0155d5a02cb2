"""Tuned keys in a report: the level at which every arm is compared, its consequences and its description."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pytest
from scipy.stats import ttest_ind

from tests.report.folders import config_for, write_run
from tests.report.test_report import results, table_rows
from train.report.analysis import Analysis
from train.report.make import ReportOptions, analyse_folders, make_report
from train.report.table_text import UNKNOWN
from train.store.identity import arm_id, identity
from train.store.manifest import Manifest, PlannedArm, PlannedRun, write_manifest

Result: TypeAlias = tuple[float, float] | Literal["diverged", "failed", "interrupted", "missing"]
"""The result of one run: validation and test accuracy, or its state."""

LR = "optimizer.lr"
QUIET = ReportOptions(tensorboard=False)
SPREAD = (-0.01, 0.0, 0.01)


def runs(val: float, test: float) -> tuple[Result, ...]:
    """Return three seeds around these accuracies."""
    return tuple((round(val + d, 4), round(test + d, 4)) for d in SPREAD)


SINGLE_RATE = "0.1"
DIVERGED: tuple[Result, ...] = ("diverged", "diverged", "diverged")
TABLE: Mapping[tuple[str, str], Sequence[Result]] = {
    ("none", "0.02"): runs(0.70, 0.99),  # best on the test split, which must not affect the choice
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
"""(norm, learning rate) -> a result per seed. At rate 0.1 batch norm is 16 points better than none; tuned, 9 points worse."""


def write(
    folder: Path, table: Mapping[tuple[str, str], Sequence[Result]], *, tune: Sequence[str] = (LR,), plan: bool = True
) -> Path:
    """Write the runs, and with `plan` the manifest of their sweep."""
    arms, planned = [], []
    for number, ((norm, rate), outcomes) in enumerate(table.items()):
        arm_overrides = (f"norm={norm}", f"{LR}={rate}")
        config = config_for(arm_overrides)
        shared = arm_id(config, tune) if tune else ""
        arms.append(PlannedArm(arm_id(config), {"norm": norm, LR: rate}, arm_overrides, shared))
        for seed, result in enumerate(outcomes):
            overrides = [*arm_overrides, f"seed={seed}"]
            planned.append(PlannedRun(identity(config_for(overrides)), arm_id(config), f"{norm}-{rate}-{seed}", tuple(overrides)))
            if isinstance(result, tuple):
                val, test = result
                write_run(folder / planned[-1].folder, overrides, test, started=number, summary={"val_accuracy": val})
            elif result != "missing":
                write_run(folder / planned[-1].folder, overrides, None, result, started=number)
    if plan:
        levels = {"norm": tuple(dict.fromkeys(n for n, _ in table)), LR: tuple(dict.fromkeys(r for _, r in table))}
        axes = {axis: names for axis, names in levels.items() if len(names) > 1 or axis in tune}
        seeds = {"seed": ("0", "1", "2")}
        manifest = Manifest(("train", "-m"), "grid", axes, seeds, arms[0].id, tuple(arms), tuple(planned), tune=tuple(tune))
        write_manifest(folder, manifest)
    return folder


def analysed(folder: Path, **options: object) -> Analysis:
    return analyse_folders([folder], ReportOptions(tensorboard=False, **options))  # type: ignore[arg-type]


def chosen(analysis: Analysis) -> dict[str, str]:
    """Return arm -> the level at which it is compared."""
    return {name: choice.chosen.setting[LR] for name, choice in analysis.chosen}


def threat(analysis: Analysis, kind: str) -> str:
    sentences = [threat.sentence for threat in analysis.threats if threat.kind == kind]
    return sentences[0] if sentences else ""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tuned"), TABLE)


@pytest.fixture(scope="module")
def page(sweep: Path) -> str:
    return make_report([sweep], sweep, QUIET)[0].read_text()


@pytest.fixture(scope="module")
def tuned(sweep: Path) -> Analysis:
    return analysed(sweep)


def test_tuning_reverses_the_conclusion(tuned: Analysis, tmp_path: Path) -> None:
    untuned = analysed(write(tmp_path, {key: results for key, results in TABLE.items() if key[1] == SINGLE_RATE}, tune=()))
    at_one_rate = {claim.level: claim for claim in untuned.claims[0].levels}["norm=batch"]
    at_best_rates = {claim.level: claim for claim in tuned.claims[0].levels}["norm=batch"]
    assert "16.0 percentage points higher than norm=none (baseline)" in at_one_rate.sentence
    assert at_one_rate.sentence.endswith("at the learning rate 0.1, not tuned per arm.")
    assert "9.0 percentage points lower than norm=none (baseline)" in at_best_rates.sentence
    assert at_best_rates.sentence.endswith("the learning rate tuned for every arm over 0.02, 0.05, 0.1 and 0.2.")
    assert threat(untuned, "learning_rate")
    assert not threat(tuned, "learning_rate")


def test_choice_uses_validation_accuracy_only(tuned: Analysis) -> None:
    assert chosen(tuned) == {"norm=none (baseline)": "0.05", "norm=batch": "0.2", "norm=group": "0.02"}
    assert tuned.study.baseline.levels == {"norm": "none"}
    assert [sorted(sample.values) for sample in tuned.samples.values()] == [[0.87, 0.88, 0.89], [0.78, 0.79, 0.80], []]


def test_page_describes_levels_choice_and_cost(page: str, sweep: Path) -> None:
    section = page.split('id="tuning"')[1].split("</section>")[0]
    assert "36 runs: 9 at the chosen levels are compared, 27 at other levels only served to choose" in section
    assert "test accuracy, by which the arms are compared, played no part in the choice" in section
    lines = (sweep / "report.md").read_text().splitlines()
    cells = [[cell.strip().replace("\\", "") for cell in line.split("|")[1:-1]] for line in lines if "optimizer.lr=" in line]
    levels = [row for row in cells if len(row) == 7]
    assert len(levels) == len(TABLE)
    assert ["", "optimizer.lr=0.05", "90.00 ± 0.58", "3", "0 / 0", "0", "chosen"] in levels
    assert ["", "optimizer.lr=0.2", "80.00 ± 0.58", "3", "0 / 0", "0", "chosen, the largest tried"] in levels
    assert ["", "optimizer.lr=0.2", UNKNOWN, "0", "2 / 1", "0", ""] in levels
    rows = table_rows(page)
    assert "norm=none (baseline) at optimizer.lr=0.05" in rows["baseline"][1]
    assert "norm=batch at optimizer.lr=0.2" in rows
    assert "optimizer.lr=" not in page.split("</h1>")[0]


def test_arm_lost_at_every_level_is_not_comparable(tuned: Analysis, page: str) -> None:
    claim = {claim.level: claim for claim in tuned.claims[0].levels}["norm=group"]
    assert claim.verdict == "not_comparable"
    assert "no run of norm=group completed at any level tried" in claim.sentence
    assert "12 runs" in threat(tuned, "tuning_lost")
    assert "norm=group no level could be chosen" in " ".join(table_rows(page))
    assert "none could be chosen: runs diverged or failed at every level" in page
    excluded = page.split('id="excluded"')[1].split("</section>")[0]
    assert excluded.count("norm=group at optimizer.lr=0.2") == 3
    assert excluded.count("norm=none (baseline) at optimizer.lr=0.2") == 3


def test_tuning_threats_of_the_choice(tuned: Analysis) -> None:
    assert "edge of the range tried for norm=batch (optimizer.lr=0.2, the largest)" in threat(tuned, "tuning_edge")
    assert "the best level may lie outside" in threat(tuned, "tuning_edge")
    assert "the same runs and the same seeds" in threat(tuned, "tuned_with_the_same_seeds")
    assert not threat(tuned, "tuning_provisional")
    assert not threat(tuned, "tuning_unequal")


def test_metric_of_validation_split_is_optimistic(sweep: Path) -> None:
    analysis = analysed(sweep, metric="accuracy/val")
    assert "optimistic" in threat(analysis, "tuned_on_the_metric")
    assert not threat(analysis, "tuned_with_the_same_seeds")
    assert chosen(analysis) == {"norm=none (baseline)": "0.05", "norm=batch": "0.2", "norm=group": "0.02"}


@pytest.mark.usefixtures("page")
def test_results_csv_marks_compared_runs(sweep: Path) -> None:
    rows = results(sweep)
    assert len(rows) == 36
    compared = {(row["norm"], row[LR]) for row in rows if row["compared"] == "true"}
    assert compared == {("none", "0.05"), ("batch", "0.2"), ("group", "0.02")}
    assert {row["compared"] for row in rows} == {"true", "false"}
    assert {row["arm"] for row in rows if row["norm"] == "batch"} == {"norm=batch"}


def test_tune_option_works_without_a_plan(tmp_path: Path, train_report) -> None:
    write(tmp_path, TABLE, plan=False)
    assert len(analysed(tmp_path).study.arms) == len(TABLE)
    result = train_report(tmp_path, "--no-tensorboard", "--tune", LR)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^norm=batch +3  79.00 .* at optimizer.lr=0.2$", result.stdout, re.MULTILINE)
    assert "tuned for every arm over 0.02, 0.05, 0.1 and 0.2" in result.stdout
    assert "norm=none" in (tmp_path / "report.md").read_text().split("Baseline:")[1].splitlines()[0]


def test_tune_option_works_with_an_untuned_plan(tmp_path: Path) -> None:
    write(tmp_path, TABLE, tune=())
    (tmp_path / "none-0.05-0" / "status.json").unlink()  # a missing run
    for folder in tmp_path.glob("batch-0.05-*"):
        (folder / "status.json").unlink()
    analysis = analysed(tmp_path, tune=(LR,))
    assert chosen(analysis) == {"norm=none (baseline)": "0.02", "norm=batch": "0.2", "norm=group": "0.02"}
    assert "4 runs" in threat(analysis, "tuning_provisional")
    assert "3 of norm=batch" in threat(analysis, "tuning_unequal")


@pytest.mark.parametrize(
    ("key", "text"), [("optimizer.rl", "Did you mean 'optimizer.lr'?"), ("seed", "levels are averaged over seeds")]
)
def test_tune_option_rejects_a_bad_key(sweep: Path, train_report, key: str, text: str) -> None:
    result = train_report(sweep, "--tune", key)
    assert result.returncode == 2
    assert f"--tune {key}" in result.stderr
    assert text in result.stderr


RANKED: list[tuple[str, Mapping[str, Sequence[Result]], str, str]] = [
    ("a diverged run lowers the rank", {"0.05": runs(0.6, 0.6), "0.1": (*runs(0.9, 0.9)[:2], "diverged")}, "0.05", ""),
    ("a failed run lowers the rank", {"0.05": runs(0.6, 0.6), "0.1": (*runs(0.9, 0.9)[:2], "failed")}, "0.05", ""),
    (
        "smallest share of lost runs",
        {"0.05": (*runs(0.6, 0.6)[:2], "diverged"), "0.1": ((0.9, 0.9), "diverged", "diverged")},
        "0.05",
        "tuning_lossy",
    ),
    (
        "pending runs lower the rank",
        {"0.05": runs(0.6, 0.6), "0.1": (*runs(0.9, 0.9)[:2], "missing")},
        "0.05",
        "tuning_provisional",
    ),
    (
        "pending ranks above lost",
        {"0.05": (*runs(0.6, 0.6)[:2], "diverged"), "0.1": (*runs(0.5, 0.5)[:2], "interrupted")},
        "0.1",
        "tuning_provisional",
    ),
    # the two means differ by a rounding error
    ("tie goes to the first", {"0.1": ((0.68, 0.9), (0.7, 0.9), (0.72, 0.9)), "0.05": runs(0.7, 0.6)}, "0.05", "tuning_tie"),
    ("single level", {"0.1": runs(0.6, 0.7)}, "0.1", "tuning_one_level"),
]


@pytest.mark.parametrize(("levels", "best", "kind"), [row[1:] for row in RANKED], ids=[row[0] for row in RANKED])
def test_choice_ranks_levels(tmp_path: Path, levels: Mapping[str, Sequence[Result]], best: str, kind: str) -> None:
    analysis = analysed(write(tmp_path, {("none", rate): results for rate, results in levels.items()}))
    assert chosen(analysis) == {"baseline": best}
    kinds = {threat.kind for threat in analysis.threats if threat.kind.startswith("tuning")} - {"tuning_edge"}
    assert kinds == ({kind} if kind else set())


def test_no_choice_without_a_validation_accuracy(tmp_path: Path) -> None:
    write(tmp_path, {key: results for key, results in TABLE.items() if key[0] != "group"})
    for path in tmp_path.glob("*/summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"val_accuracy": None}))
    analysis = analysed(tmp_path)
    assert "no level could be chosen" in threat(analysis, "tuning_unmeasured")
    assert chosen(analysis) == {"norm=none (baseline)": "0.02", "norm=batch": "0.02"}
    assert "tuned for every arm" not in analysis.claims[0].sentence
    assert "no level could be chosen" in make_report([tmp_path], tmp_path, QUIET)[0].read_text()


def test_claims_name_other_tuned_keys_and_the_untuned_rate(tmp_path: Path) -> None:
    key = "regularization.weight_decay"
    for norm, best in (("none", 0.9), ("batch", 0.8)):
        for level, loss in (("0.001", 0.1), ("0.01", 0.0)):
            for seed, offset in enumerate(SPREAD):
                write_run(
                    tmp_path / f"{norm}{level}{seed}", [f"norm={norm}", f"{key}={level}", f"seed={seed}"], best - loss + offset
                )
    (claim,) = analysed(tmp_path, tune=(key,), baseline="norm=none").claims
    assert claim.sentence.endswith(f"{key} tuned for every arm, at the learning rate 0.2, not tuned per arm.")
    assert "10.0 percentage points lower" in claim.sentence


def test_other_seeds_favour_no_arm_however_many_levels_it_has() -> None:
    """Arms that do not differ, one with seven levels and one with one: by the runs that are compared, the first seems better."""
    generator, sweeps = np.random.default_rng(0), 4000

    def sample(levels: int, own_runs: int) -> np.ndarray:
        """Return the five test values of an arm in each sweep. own_runs: that try the levels; 0: the five do."""
        runs = own_runs or 5
        validation = generator.normal(size=(sweeps, levels, runs))
        test = 0.5 * validation + np.sqrt(0.75) * generator.normal(size=validation.shape)
        chosen = test[np.arange(sweeps), validation.mean(2).argmax(1)]
        return generator.normal(size=(sweeps, 5)) if own_runs else chosen

    for own_runs, low, high in ((2, -0.03, 0.03), (0, 0.25, 0.35)):
        few, many = sample(1, own_runs), sample(7, own_runs)
        assert low < (many - few).mean() < high
        if own_runs:
            _, p = ttest_ind(many, few, axis=1, equal_var=False)
            assert np.mean(np.asarray(p) < 0.05) < 0.055
