"""Which verdicts are final: those of the plan. Sweeps that are looked at, grow, and are looked at again."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.folders import write_run, write_sweep
from train.report.analysis import Analysis
from train.report.content import build_content
from train.report.make import ReportOptions, analyse_folders, make_report
from train.report.more_seeds import more_seeds
from train.report.page_record import record_looks
from train.report.render import html
from train.report.statistics.sequential import look_level
from train.store.decisions import Decided, Decision, PlannedLooks
from train.store.files import MANIFEST_FILE, MANIFEST_LOCK
from train.store.manifest import Manifest, merge_manifests, read_manifest
from train.store.manifest_update import update_manifest
from train.store.plans import Look

ARMS = {("norm=none",): (0.790, 0.800, 0.801), ("norm=batch",): (0.890, 0.901, 0.905)}
MORE = {("norm=none",): (0.790, 0.800, 0.801, 0.802), ("norm=batch",): (0.890, 0.901, 0.905, 0.900)}
WITH_GROUP = {**ARMS, ("norm=group",): (0.790, 0.810, 0.805)}
OPTIONS = ReportOptions(tensorboard=False)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep", ARMS)


def grow(folder: Path, arms: Mapping[tuple[str, ...], Sequence[float]]) -> None:
    """Repeat the sweep with more seeds or arms: its finished runs stay, the others are made and planned."""
    again = write_sweep(folder.parent / f"{folder.name}_again", arms)
    planned = read_manifest(again)
    assert planned is not None
    for run in planned.runs:
        if not (folder / run.folder).exists():
            shutil.move(again / run.folder, folder / run.folder)
    shutil.rmtree(again)
    update_manifest(folder, lambda old: merge_manifests(old, planned))


def set_state(folder: Path, state: str, number: int = -1) -> None:
    """Set the state of one run of a sweep."""
    path = sorted(folder.glob("*/status.json"))[number]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": state}))


def analysed(folder: Path, options: ReportOptions = OPTIONS) -> Analysis:
    return analyse_folders([folder], options)


def reported(folder: Path, options: ReportOptions = OPTIONS) -> str:
    """Make the page, and return what a terminal shows."""
    return make_report([folder], folder, options)[1]


def look_at(folder: Path, options: ReportOptions = OPTIONS) -> Analysis:
    """Record a page as a look without drawing it."""
    record_looks(analysis := analysed(folder, options))
    return analysis


def looks_in(folder: Path) -> tuple[Look, ...]:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest.looks


def tags(analysis: Analysis | None) -> set[str]:
    assert analysis is not None
    return {level.tag for claim in analysis.claims for level in claim.levels}


def counts(analysis: Analysis | None) -> list[int]:
    """Return how many runs each arm is compared by."""
    assert analysis is not None
    return [len(sample.values) for sample in analysis.samples.values()]


def test_page_of_a_finished_plan_is_final_and_states_the_rule(sweep: Path):
    text = reported(sweep)
    assert (
        "verdicts: final: all 6 runs of the plan have ended. With more runs in this folder, verdicts are exploratory.\n" in text
    )
    assert "\n  better: norm=batch" in text
    (look,) = looks_in(sweep)
    assert (look.standing, look.closes, look.plans, set(look.runs.values())) == ("final", True, 1, {3})
    assert (look.metric, look.level) == ("accuracy/test", 0.05)


def test_page_of_a_plan_with_open_runs_is_exploratory(sweep: Path):
    set_state(sweep, "running")
    text = reported(sweep)
    assert "verdicts: exploratory: 1 of the 6 runs of the plan have not ended; the verdicts are final when all have.\n" in text
    assert "norm: better (exploratory)" in text
    assert "  better (exploratory): norm=batch" in text
    assert "seeds per arm would" not in text
    assert [(look.standing, look.closes) for look in looks_in(sweep)] == [("exploratory", False)]
    for name in ("report.html", "report.md"):
        page = (sweep / name).read_text()
        assert "1 of the 6 runs of the plan have not ended" in page.split("Claims")[0]
        assert "better (exploratory)" in page


@pytest.mark.parametrize("state", ["queued", "interrupted"])
def test_run_that_may_still_end_is_an_open_one(sweep: Path, state: str):
    set_state(sweep, state)
    assert analysed(sweep).standing.kind == "exploratory"


def test_missing_run_leaves_a_page_exploratory(tmp_path: Path):
    assert analysed(write_sweep(tmp_path / "sweep", ARMS, without=1)).standing.kind == "exploratory"


@pytest.mark.parametrize("state", ["failed", "diverged", "done"])
def test_run_that_ended_in_any_way_is_no_open_one(sweep: Path, state: str):
    set_state(sweep, state)
    assert analysed(sweep).standing.kind == "final"


def test_growth_after_a_final_page_is_exploratory_beside_the_final_verdicts(sweep: Path):
    before = analysed(sweep)
    reported(sweep)
    grow(sweep, MORE)
    after = analysed(sweep)
    assert (after.standing.kind, tags(after), counts(after)) == ("exploratory", {"exploratory"}, [4, 4])
    assert after.final is not None
    assert (after.final.standing.kind, tags(after.final), counts(after.final)) == ("final", {"final"}, [3, 3])
    assert [claim.sentence for claim in after.final.claims] == [claim.sentence for claim in before.claims]
    text = reported(sweep)
    assert re.search(
        r"^verdicts: final: all 6 runs .*\nnorm: better \(final\)\n  better \(final\): .*"
        r"\nverdicts: exploratory: 2 of the 8 runs were planned after a page of the first 6 \(20..-..-.. ..:..\); "
        r"those of the plan alone stand above\.\nnorm: better \(exploratory\)\n  better \(exploratory\): ",
        text,
        re.MULTILINE,
    )
    for name in ("report.html", "report.md"):
        page = (sweep / name).read_text()
        assert page.index("Of the runs that were planned first") < page.index("better (final)")
        assert page.index("better (final)") < page.index("Of all runs") < page.rindex("better (exploratory)")
    rows = list(csv.DictReader(io.StringIO((sweep / "results.csv").read_text())))
    assert sorted((row["plan"], row["seed"]) for row in rows) == sorted(
        (plan, seed) for plan, seeds in (("1", "012"), ("2", "3")) for seed in seeds for _ in range(2)
    )


def test_what_is_final_stays_however_often_a_sweep_grows(sweep: Path):
    look_at(sweep)
    first = analysed(sweep).claims[0].sentence
    for seeds in range(4, 7):
        grow(sweep, {arm: [*values, *(0.8,) * (seeds - 3)] for arm, values in ARMS.items()})
        look_at(sweep)
        final = analysed(sweep).final
        assert final is not None
        assert final.claims[0].sentence == first
    assert [look.standing for look in looks_in(sweep)] == ["final", "exploratory", "exploratory", "exploratory"]


def test_growth_before_anybody_looked_enlarges_the_plan(sweep: Path):
    grow(sweep, MORE)
    analysis = analysed(sweep)
    assert (analysis.standing.kind, analysis.final, counts(analysis)) == ("final", None, [4, 4])
    assert "all 8 runs of the plan" in analysis.standing.sentence


@pytest.mark.parametrize(("seeds", "standing"), [(3, "final"), (4, "exploratory")])
def test_growth_after_a_page_that_could_tell_rates(tmp_path: Path, seeds: int, standing: str):
    """Every run of the baseline diverged, so that no difference has an interval; with 4 against 4 runs p may be .029."""
    accuracies = (0.79, 0.8, 0.801, 0.805, 0.81)

    def arms(count: int) -> dict[tuple[str, ...], tuple[float, ...]]:
        return dict.fromkeys([("norm=none",), ("norm=batch",)], accuracies[:count])

    sweep = write_sweep(tmp_path / "sweep", arms(seeds))
    for path in sweep.glob("norm=none*/status.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "diverged"}))
    assert all(level.effect.low is None for claim in look_at(sweep).claims for level in claim.levels)
    grow(sweep, arms(5))
    assert analysed(sweep).standing.kind == standing


def test_growth_after_a_page_of_an_unfinished_plan_enlarges_it(tmp_path: Path):
    """A sweep that was killed, reported, and repeated with more seeds."""
    sweep = write_sweep(tmp_path / "sweep", ARMS, without=1)
    look_at(sweep)
    grow(sweep, MORE)
    assert (analysed(sweep).standing.kind, counts(analysed(sweep))) == ("final", [4, 4])


def test_growth_after_a_page_without_an_interval_enlarges_the_plan(tmp_path: Path):
    """One seed per arm supports no claim, so that nothing was tested."""
    sweep = write_sweep(tmp_path / "sweep", {arm: values[:1] for arm, values in ARMS.items()})
    look_at(sweep)
    assert [look.closes for look in looks_in(sweep)] == [False]
    grow(sweep, MORE)
    assert (analysed(sweep).standing.kind, counts(analysed(sweep))) == ("final", [4, 4])


def test_arms_that_come_later_leave_the_final_verdicts_as_they_were(sweep: Path):
    """Also the level: the family is the arms of the plan."""
    before = analysed(sweep)
    look_at(sweep)
    grow(sweep, WITH_GROUP)
    after = analysed(sweep)
    assert after.final is not None
    assert after.final.comparisons == before.comparisons
    assert len(after.comparisons) == 2
    assert next(iter(after.comparisons.values())).low != next(iter(before.comparisons.values())).low


@pytest.mark.parametrize(
    "options",
    [ReportOptions(metric="loss/test"), ReportOptions(baseline="norm=batch"), ReportOptions(smallest_effect=0.3)],
    ids=["metric", "baseline", "smallest effect"],
)
def test_page_that_does_not_follow_the_plan_is_exploratory_and_a_look(sweep: Path, options: ReportOptions):
    analysis = analysed(sweep, options)
    assert (analysis.standing.kind, tags(analysis)) == ("exploratory", {"exploratory"})
    assert "does not follow the plan" in analysis.standing.sentence
    record_looks(analysis)
    assert [(look.standing, look.closes) for look in looks_in(sweep)] == [("exploratory", True)]
    assert analysed(sweep).standing.kind == "final"
    grow(sweep, MORE)
    grown = analysed(sweep, options)
    assert (grown.standing.kind, grown.final) == ("exploratory", None)
    assert counts(analysed(sweep).final) == [3, 3]


def test_run_that_nobody_planned_is_not_in_the_final_verdicts(sweep: Path):
    write_run(sweep / "by_hand", ["norm=batch", "seed=7"], 0.5)
    analysis = analysed(sweep)
    assert "1 of the 7 runs are not of the plan" in analysis.standing.sentence
    assert counts(analysis.final) == [3, 3]


def test_run_of_the_first_plan_that_is_made_anew_opens_it_again(sweep: Path):
    look_at(sweep)
    grow(sweep, MORE)
    set_state(sweep, "running", 0)
    final = analysed(sweep).final
    assert final is not None
    assert (final.standing.kind, tags(final)) == ("exploratory", {"exploratory"})


def test_runs_without_a_plan_or_of_several_sweeps_are_as_they_were(sweep: Path, tmp_path: Path):
    runs = sorted(path.parent for path in sweep.glob("*/status.json"))
    other = write_sweep(tmp_path / "other", {("init=xavier",): (0.7, 0.71), ("init=gaussian",): (0.5, 0.51)})
    for analysis in (analyse_folders(runs, OPTIONS), analyse_folders([sweep, other], OPTIONS)):
        assert (analysis.standing.kind, analysis.standing.sentence, tags(analysis)) == (None, "", {""})


def test_page_of_several_sweeps_is_a_look_at_each(sweep: Path, tmp_path: Path):
    other = write_sweep(tmp_path / "other", {("init=xavier",): (0.7, 0.71), ("init=gaussian",): (0.5, 0.51)}, without=1)
    record_looks(analyse_folders([sweep, other], OPTIONS))
    assert [(look.standing, look.closes) for look in looks_in(sweep)] == [("exploratory", True)]
    assert [(look.standing, look.closes) for look in looks_in(other)] == [("exploratory", False)]
    grow(sweep, MORE)
    assert counts(analysed(sweep).final) == [3, 3]


def test_sweep_of_an_earlier_version_has_one_plan(sweep: Path):
    content = json.loads((sweep / MANIFEST_FILE).read_text())
    assert content.pop("plans") == content.pop("looks") == []
    for run in content["runs"]:
        del run["plan"]
    (sweep / MANIFEST_FILE).write_text(json.dumps(content))
    look_at(sweep)
    grow(sweep, MORE)
    assert counts(analysed(sweep).final) == [3, 3]


def test_report_is_made_where_its_look_cannot_be_recorded(sweep: Path):
    (sweep / MANIFEST_LOCK).mkdir()
    assert "verdicts: final" in reported(sweep)
    assert looks_in(sweep) == ()


def test_same_page_again_is_the_same_look(sweep: Path):
    reported(sweep)
    first, page = looks_in(sweep), (sweep / "report.html").read_bytes()
    reported(sweep)
    assert looks_in(sweep) == first
    assert (sweep / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("key", "value"), [("plans", 0), ("plans", -3), ("plans", 10**9), ("runs", {"unknown": -1}), ("when", "<b>now</b>")]
)
def test_strange_looks_end_no_report(sweep: Path, key: str, value: Any):
    look_at(sweep)
    grow(sweep, MORE)
    content = json.loads((sweep / MANIFEST_FILE).read_text())
    content["looks"][0][key] = value
    (sweep / MANIFEST_FILE).write_text(json.dumps(content))
    assert "<b>now</b>" not in html(build_content(look_at(sweep), ()), sweep)


def planned_looks(folder: Path, **verdicts: Decided) -> None:
    """Make a sweep one with planned looks after 3 and 6 seeds, with the decisions of the first for these norms."""

    def plan(manifest: Manifest | None) -> Manifest:
        assert manifest is not None
        names = {arm.levels["norm"]: arm.id for arm in manifest.arms}
        looks = PlannedLooks("seed", tuple("012345"), (3, 6), 0.03, True, "accuracy/test", tuple(names.values()))
        level = look_level(looks.looks, 1, len(names) - 1)
        decisions = {names[norm]: Decision(1, 3, verdict, level) for norm, verdict in verdicts.items()}
        return replace(manifest, planned_looks=looks, decisions=decisions, smallest_effect=looks.margin)

    update_manifest(folder, plan)


def tags_by_level(analysis: Analysis) -> dict[str, str]:
    return {level.level: level.tag for claim in analysis.claims for level in claim.levels}


def test_between_planned_looks_the_verdicts_of_decided_arms_are_final(tmp_path: Path):
    sweep = write_sweep(tmp_path / "sweep", WITH_GROUP)
    planned_looks(sweep, batch="different", group="open")
    analysis = look_at(sweep)
    assert analysis.standing.sentence == "interim: 1 of 2 planned looks taken; the verdicts of 1 of 2 arms are final."
    assert tags_by_level(analysis) == {"norm=batch": "final", "norm=group": "interim"}
    assert [(look.standing, look.closes) for look in looks_in(sweep)] == [("interim", False)]
    assert not more_seeds(analysis).commands
    assert "better (final): norm=batch" in reported(sweep)
    assert "better (final)" in (sweep / "report.html").read_text()


def test_before_the_first_planned_look_nothing_is_decided(tmp_path: Path):
    sweep = write_sweep(tmp_path / "sweep", WITH_GROUP, without=1)
    planned_looks(sweep)
    analysis = look_at(sweep)
    assert "none of the 2 planned looks was taken yet" in analysis.standing.sentence
    assert set(tags_by_level(analysis).values()) == {"exploratory"}
    assert [(look.standing, look.closes) for look in looks_in(sweep)] == [("interim", False)]


def test_sweep_whose_looks_decided_every_arm_is_final_and_closed(tmp_path: Path):
    sweep = write_sweep(tmp_path / "sweep", WITH_GROUP)
    planned_looks(sweep, batch="different", group="undecided")
    before = look_at(sweep)
    assert "every arm was compared at its planned looks" in before.standing.sentence
    assert set(tags_by_level(before).values()) == {""}
    assert [(look.standing, look.closes) for look in looks_in(sweep)] == [("final", True)]
    grow(sweep, {**WITH_GROUP, ("norm=layer",): (0.5, 0.51, 0.52)})
    after = analysed(sweep)
    assert (after.standing.kind, tags(after.final)) == ("exploratory", {"final"})
    assert after.final is not None
    assert [claim.sentence for claim in after.final.claims] == [claim.sentence for claim in before.claims]


CLOSE = {("norm=none",): (0.790, 0.800, 0.801), ("norm=batch",): (0.795, 0.801, 0.805)}


def test_more_seeds_are_fresh_ones_in_a_new_folder(tmp_path: Path):
    """Those that were seen, with more of them, would be looked at twice."""
    sweep = write_sweep(tmp_path / "sweep", CLOSE)
    analysis = analysed(sweep)
    (level,) = analysis.claims[0].levels
    assert level.verdict == "inconclusive"
    assert level.seeds is not None
    more = more_seeds(analysis)
    assert f"(80 % power): {level.seeds} per arm" in more.sentence
    assert "Added to this folder after this page, they make exploratory verdicts." in more.sentence
    at_once, in_blocks = map(shlex.split, more.commands)
    assert at_once == ["train", "-m", "norm=none,batch", f"seed=range(3,{3 + level.seeds})"]
    stages = ["sweep.until=decided", "sweep.margin=0.005", f"sweep.max_seeds={level.seeds}"]
    assert in_blocks == ["train", "-m", "norm=none,batch", *stages, "seed=range(3,6)"]
    look_at(sweep)
    grow(sweep, {arm: [*values, 0.8, 0.81] for arm, values in CLOSE.items()})
    grown = more_seeds(analysed(sweep))
    assert grown.sentence == more.sentence
    assert shlex.split(grown.commands[0])[-1] == f"seed=range(5,{5 + level.seeds})"


def test_blocks_are_suggested_only_where_looks_can_be_planned(tmp_path: Path):
    """Not for all pairs of arms, whose number of comparisons is another."""
    sweep = write_sweep(tmp_path / "sweep", CLOSE)
    content = json.loads((sweep / MANIFEST_FILE).read_text())
    content["command"] += ["report.pairs=true", "hydra.sweep.dir=elsewhere"]
    (sweep / MANIFEST_FILE).write_text(json.dumps(content))
    (command,) = more_seeds(analysed(sweep)).commands
    assert "report.pairs=true 'seed=range(3," in command
    assert "hydra.sweep.dir" not in command


def test_nothing_is_suggested_where_seeds_decide_nothing(tmp_path: Path):
    sweep = write_sweep(tmp_path / "sweep", CLOSE)
    assert not more_seeds(analysed(sweep, ReportOptions(smallest_effect=0.001))).commands  # too many
    assert not more_seeds(analysed(sweep, ReportOptions(smallest_effect=0.2))).commands  # decided
    set_state(sweep, "running")
    assert not more_seeds(analysed(sweep)).commands
