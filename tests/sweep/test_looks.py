"""Sweeps with planned looks: which arms get seeds, what is decided, and that a repeated sweep goes on with the same decisions."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from tests.harness import COMMAND
from train.errors import UsageError
from train.store.decisions import Decision, PlannedLooks
from train.store.manifest import Manifest, read_manifest
from train.store.plans import Look
from train.store.run import find_runs, read_run
from train.sweep import looks
from train.sweep.axes import read_request
from train.sweep.plan import make_plan
from train.sweep.settings import parse_sweep

Train = Callable[..., "subprocess.CompletedProcess[str]"]
PARTS = Path(__file__).with_name("skilled")
SMALL = [
    *(
        "data=named",
        "model=skilled",
        "data.val_fraction=0.25",
        "trainer.batch_size=10",
        "trainer.epochs=1",
        "trainer.max_steps=1",
    ),
    *("augment=none", "norm=none", "init=pytorch", "observe=off", "trainer.device=cpu", "trust=skilled_net"),
    *("report.tensorboard=false", "hydra.sweep.dir=out", "hydra/launcher=basic", "sweep.reuse_other_code=true"),
]
SWEEP = ["-m", "--config-dir", str(PARTS), *SMALL]
UNTIL = ["seed=range(3)", "sweep.until=decided", "sweep.max_seeds=6", "sweep.margin=0.03"]
ARMS = "model.skill=0.8,0.5,0.79"
PATH = os.pathsep.join(filter(None, [str(PARTS), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def sweep_in(train_in: Train) -> Train:
    """Return a function that makes a small sweep in a folder, with the parts in `skilled`."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return train_in(folder, *SWEEP, *arguments, PYTHONPATH=PATH)

    return run


@pytest.fixture(scope="module")
def decided(sweep_in: Train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep in which one arm is decided at the first look and the other at the second: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("decided")
    result = sweep_in(folder, ARMS, *UNTIL)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "out", result.stdout


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


def decisions_of(folder: Path) -> dict[str, Decision]:
    """Return the decisions by the level of the arms."""
    manifest = manifest_of(folder)
    names = {arm.id: " ".join(arm.levels.values()) for arm in manifest.arms}
    return {names[id]: decision for id, decision in manifest.decisions.items()}


def seeds_of(folder: Path) -> dict[float, int]:
    """Return the number of runs with a result by `model.skill`."""
    return Counter(run.config["model"]["skill"] for run in map(read_run, find_runs([folder])) if run.state == "done")


def starts_of(folder: Path) -> dict[str, str]:
    return {run.identity: str(run.status["started"]) for run in map(read_run, find_runs([folder]))}


@pytest.mark.slow
def test_decided_arm_gets_no_more_seeds_and_the_others_go_on(decided: tuple[Path, str]) -> None:
    folder, output = decided
    assert seeds_of(folder) == {0.8: 6, 0.5: 3, 0.79: 6}
    decisions = decisions_of(folder)
    assert (decisions["0.5"].verdict, decisions["0.5"].look, decisions["0.5"].seeds) == ("different", 1, 3)
    assert (decisions["0.79"].verdict, decisions["0.79"].look, decisions["0.79"].seeds) == ("equivalent", 2, 6)
    assert "model.skill=0.5: different after 3 seeds, " in output
    assert "percentage points; no more seeds" in output
    assert "model.skill=0.79: equivalent after 6 seeds, " in output
    assert "looks  after 3 and 6 seeds per arm, 9 to 18 runs" in output
    assert "stage  look 2 of 2, after 6 seeds: the baseline and 1 of 2 other arms" in output
    assert "15 runs: 15 done" in output


@pytest.mark.slow
def test_page_shows_the_interval_of_the_look_that_decided(decided: tuple[Path, str]) -> None:
    folder, output = decided
    page = (folder / "report.md").read_text()
    worse = next(line for line in page.splitlines() if "worse:" in line)
    decision = decisions_of(folder)["0.5"]
    assert decision.low is not None
    assert f"{abs(100 * decision.low):.1f}" in worse
    assert "3 against 3 runs, Welch, look 1 of 2 after 3 seeds" in worse
    assert "equivalent: model.skill=0.79" in output, "within the margin, without report.smallest_effect"
    assert "planned before the first run, after 3 and 6 seeds per arm" in page


@pytest.mark.long
def test_repeated_sweep_makes_the_same_decisions_and_no_run_twice(
    decided: tuple[Path, str], sweep_in: Train, tmp_path: Path
) -> None:
    """One stage each time; then as if the sweep had been killed before its last decision was written."""
    for number in range(1, 4):
        result = sweep_in(tmp_path, ARMS, *UNTIL, "sweep.stages=one")
        assert result.returncode == 0, result.stdout + result.stderr
        assert ("next   look 2 of 2" in result.stdout) == (number == 1)
    assert decisions_of(tmp_path / "out") == decisions_of(decided[0])
    starts = starts_of(tmp_path / "out")
    assert len(starts) == 15
    path = tmp_path / "out" / "sweep.json"
    path.write_text(path.read_text().replace('"equivalent"', '"open"'))
    again = sweep_in(tmp_path, ARMS, *UNTIL)
    assert "reused: 15 done" in again.stdout
    assert decisions_of(tmp_path / "out") == decisions_of(decided[0])
    assert starts_of(tmp_path / "out") == starts


@pytest.mark.slow
def test_growing_a_sweep_beyond_its_planned_looks_is_refused(decided: tuple[Path, str], sweep_in: Train) -> None:
    before = (decided[0] / "sweep.json").read_text()
    result = sweep_in(decided[0].parent, ARMS, *UNTIL, "sweep.max_seeds=9")
    assert result.returncode == 2, result.stdout
    assert "sweep.max_seeds=9 (it was 6): 2 looks at the sweep in out were taken" in result.stderr
    assert "Repeat the sweep as it was planned, or start another" in result.stderr
    assert (decided[0] / "sweep.json").read_text() == before


@pytest.mark.slow
def test_sweep_that_grows_after_its_page_ends_with_final_and_exploratory_verdicts(sweep_in: Train, tmp_path: Path) -> None:
    """Without planned looks: its own page is a look, and what is planned later was planned after it."""
    first = sweep_in(tmp_path, "model.skill=0.8,0.5", "seed=range(2)")
    assert "verdicts: final: all 4 runs of the plan have ended." in first.stdout, first.stdout + first.stderr
    grown = sweep_in(tmp_path, "model.skill=0.8,0.5", "seed=range(3)")
    assert "verdicts: exploratory: 2 of the 6 runs were planned after a page of the first 4 (" in grown.stdout
    found = re.findall(r"^  (\w+ \(\w+\)): .*?(\d against \d) runs", grown.stdout, re.MULTILINE)
    assert [(verdict.partition(" ")[2], runs) for verdict, runs in found] == [
        ("(final)", "2 against 2"),
        ("(exploratory)", "3 against 3"),
    ]
    manifest = manifest_of(tmp_path / "out")
    assert [(plan.runs, plan.command[-1]) for plan in manifest.plans] == [(4, "seed=range(2)"), (6, "seed=range(3)")]
    assert [(look.standing, look.closes, look.plans) for look in manifest.looks] == [("final", True, 1), ("exploratory", True, 2)]


LOOKS = PlannedLooks("seed", ("0", "1", "2", "3"), (2, 4), 0.03, True, "accuracy/test", ("a", "b", "c"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"looks": (2, 4, 6)}, "sweep.max_seeds=6 (it was 4): 1 look at the sweep in out was taken"),
        ({"looks": (3, 4)}, "sweep.max_seeds=4 (the blocks had 2 seeds, not 3)"),
        ({"seeds": ("1", "2", "3", "4")}, "seed (the seeds were seed=0,1,2,3)"),
        ({"axis": "seeds.init"}, "seeds.init (the seeds were seed=0,1,2,3)"),
        ({"margin": None}, "sweep.margin=null (it was 0.03)"),
        ({"margin": 0.05}, "sweep.margin=0.05 (it was 0.03)"),
        ({"stops": False}, "sweep.until=null (it was decided)"),
        ({"metric": "loss/test"}, "report.metric=loss/test (it was accuracy/test)"),
        ({"arms": ("a", "b")}, "sweep.max_seeds=4 (with other arms, another baseline, or from other data)"),
    ],
)
def test_other_looks_than_those_begun_are_refused(changes: dict[str, Any], message: str) -> None:
    begun = Manifest((), "grid", {}, {}, "a", (), (), planned_looks=LOOKS)
    decided = replace(begun, decisions={"b": Decision(1, 2, "open", 0.001)})
    looks.refuse_other_looks(decided, LOOKS, Path("out"))
    looks.refuse_other_looks(begun, replace(LOOKS, **changes), Path("out"))
    with pytest.raises(UsageError, match=re.escape(message)):
        looks.refuse_other_looks(decided, replace(LOOKS, **changes), Path("out"))


def test_looks_at_a_sweep_whose_verdicts_were_seen_are_refused() -> None:
    seen = Look("2026-01-31T12:00:00", "final", 1, True, {}, "accuracy/test", 0.05)
    with pytest.raises(
        UsageError, match=r"sweep.max_seeds=4: the verdicts of the sweep in out were seen already .2026-01-31T12:00"
    ):
        looks.refuse_other_looks(Manifest((), "grid", {}, {}, "a", (), (), looks=(seen,)), LOOKS, Path("out"))


@pytest.mark.parametrize(
    ("verdicts", "look", "seeds"),
    [
        ({}, 1, (2, 2, 2)),
        ({"b": (1, "open"), "c": (1, "open")}, 2, (4, 4, 4)),
        ({"b": (1, "different"), "c": (1, "open")}, 2, (4, 2, 4)),
        ({"b": (1, "different"), "c": (1, "not_comparable")}, 1, (2, 2, 2)),
        ({"b": (1, "different"), "c": (2, "open")}, 2, (4, 2, 4)),
        ({"b": (2, "undecided"), "c": (1, "equivalent")}, 2, (4, 4, 2)),
    ],
)
def test_stage_has_the_seeds_of_open_arms_and_of_the_baseline(
    verdicts: dict[str, tuple[int, Any]], look: int, seeds: tuple[int, ...]
) -> None:
    """The runs of earlier looks are among them, so that a repeated sweep makes again what failed."""
    policy = looks.LookPolicy(cast(Any, None), LOOKS)
    decisions = {arm: Decision(at, LOOKS.looks[at - 1], verdict, 0.01) for arm, (at, verdict) in verdicts.items()}
    assert policy.next_look(decisions) == look
    assert tuple(policy.seeds(decisions, look).values()) == seeds


@pytest.mark.long
def test_failed_runs_leave_an_arm_open_until_they_are_made_again(sweep_in: Train, tmp_path: Path) -> None:
    arms = ["model.how=fine,fails,diverges", "seed=range(2)", "sweep.until=decided", "sweep.max_seeds=4"]
    result = sweep_in(tmp_path, *arms)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "model.how=fails: not decided after 2 seeds, as 2 runs failed; repeat the sweep" in result.stdout
    assert "model.how=diverges: not comparable after 2 seeds; no more seeds" in result.stdout
    assert "10 runs: 4 done, 2 diverged, 4 failed" in result.stdout
    assert [decision.verdict for decision in decisions_of(tmp_path / "out").values()] == ["open", "not_comparable"]
    (tmp_path / "mended").touch()
    again = sweep_in(tmp_path, *arms)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "10 runs: 8 done, 2 diverged" in again.stdout
    assert decisions_of(tmp_path / "out")["fails"].verdict == "undecided"


@pytest.mark.slow
def test_no_stage_follows_where_the_sweep_stops_at_an_error(sweep_in: Train, tmp_path: Path) -> None:
    result = sweep_in(
        tmp_path, "model.how=fine,fails", "seed=range(1)", "sweep.max_seeds=2", "sweep.on_error=stop", "hydra/launcher=pool"
    )
    assert result.returncode == 1, result.stdout
    assert len(manifest_of(tmp_path / "out").runs) == 2
    assert not manifest_of(tmp_path / "out").decisions
    again = sweep_in(tmp_path, "model.how=fine,fails,waits", "seed=range(1)", "sweep.max_seeds=2", "sweep.rerun=none")
    assert "nothing is decided, as 1 run of this one did not end: look 1 of 2, after 1 seed" in again.stdout


@pytest.mark.long
def test_looks_without_stopping_give_all_seeds_to_every_arm(sweep_in: Train, tmp_path: Path) -> None:
    result = sweep_in(tmp_path, "model.skill=0.8,0.2", "seed=range(3)", "sweep.max_seeds=5")
    assert result.returncode == 0, result.stdout + result.stderr
    assert seeds_of(tmp_path / "out") == {0.8: 5, 0.2: 5}
    assert "different after 3 seeds" in result.stdout
    assert "; its seeds go on" in result.stdout
    assert "3 against 3 runs, Welch, look 1 of 2" in result.stdout


def test_dry_run_prints_looks_and_the_size_of_the_sweep(sweep_in: Train, tmp_path: Path) -> None:
    result = sweep_in(tmp_path, ARMS, "seed=range(5)", "sweep.until=decided", "sweep.max_seeds=12", "sweep.dry_run=true")
    assert result.returncode == 0, result.stderr
    lines = (
        "3 arms x 5 seeds = 15 runs",
        "looks  after 5, 10 and 12 seeds per arm, 15 to 36 runs (sweep.max_seeds=12)",
        "without sweep.margin, an arm without an effect never stops before 12 seeds",
        "for 15 runs",
        "all seeds, to 12 per arm: 36 runs, about ",
    )
    for line in lines:
        assert line in result.stdout
    assert not list(tmp_path.iterdir())


REFUSED = {
    "seed=range(2) sweep.until=decided": "sweep.until=decided: an arm without an effect might go on for ever.",
    "seed=range(2) sweep.until=maybe": "sweep.until=maybe: it should be 'decided'",
    "seed=range(2) sweep.margin=0.01": "sweep.margin=0.01: only sweep.until=decided uses it.",
    "seed=range(2) sweep.max_seeds=9 sweep.margin=0.01": "sweep.margin=0.01: only sweep.until=decided uses it.",
    "seed=range(2) sweep.until=decided sweep.max_seeds=9 sweep.margin=0": "sweep.margin=0: it should be greater than 0",
    "seed=range(2) sweep.until=decided sweep.max_seeds=9 sweep.margin=0.01 report.smallest_effect=0.02": (
        "sweep.margin=0.01: report.smallest_effect=0.02 is another limit."
    ),
    "seed=range(2) sweep.max_seeds=0": "sweep.max_seeds=0: it should be greater than 0",
    "seed=range(2) sweep.max_seeds=2.5": "sweep.max_seeds=2.5: it should be a",
    "seed=range(2) sweep.max_seeds=501": "sweep.max_seeds=501: it should be",
    "seed=range(2) sweep.max_seeds=102": "blocks of 2 seeds give 51 looks, and 50 is the most. Give a larger first block",
    "seed=range(5) sweep.max_seeds=4": "sweep.max_seeds=4: the first block has 5 seeds already.",
    "sweep.max_seeds=9": "sweep.max_seeds=9: no seed is an axis. Give the seeds of the first block",
    "seed=3 sweep.max_seeds=9": "sweep.max_seeds=9: no seed is an axis.",
    "seeds.init=0,1 seeds.order=0,1 sweep.max_seeds=9": "blocks of seeds are those of one axis, not of seeds.init and",
    "seed=-1,0 sweep.max_seeds=9": "sweep.max_seeds=9: seed=-1,0 cannot be continued.",
    "seed=0,1 sweep.max_seeds=9 init=pytorch,kaiming": "sweep.max_seeds=9: a grid of 2 factors is compared by averages",
    "seed=0,1 sweep.max_seeds=9 report.pairs=true": "Omit report.pairs=true.",
    "seed=0,1 sweep.max_seeds=9 norm=none": "there is one arm only, so nothing is compared.",
    "seed=0,1 sweep.max_seeds=9 report.metric=time": "report.metric=time: no run records this metric.",
    "seed=0,1 sweep.max_seeds=9 sweep.stages=two": "sweep.stages=two: it should be 'all' or 'one'",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_looks_that_cannot_be_planned_are_refused(loader: Any, arguments: str) -> None:
    overrides = ["norm=none,batch", *arguments.split()]
    with pytest.raises(UsageError, match=re.escape(REFUSED[arguments])):
        planned_looks(loader, overrides)


def planned_looks(loader: Any, overrides: Sequence[str]) -> PlannedLooks:
    """Return the looks that a command plans, as far as they are planned before data are loaded."""
    names = [line for line in overrides if line.startswith(("sweep.", "report."))]
    master = loader.load_configuration("config", names, RunMode.MULTIRUN)
    settings, report = parse_sweep({key: OmegaConf.to_container(master[key], resolve=True) for key in ("sweep", "report")})
    request = read_request(None, overrides, loader)
    looks.validate(request, settings, report)
    request, seeds = looks.in_blocks(request, settings)
    return looks.plan_looks(make_plan(request, settings, loader, master), settings, report, seeds)


def test_blocks_continue_the_seeds_of_the_command(loader: Any) -> None:
    planned = planned_looks(loader, ["norm=none,batch", "seed=7,2", "sweep.max_seeds=5"])
    assert (planned.seeds, planned.looks) == (("7", "2", "8", "9", "10"), (2, 4, 5))
    planned = planned_looks(
        loader, ["norm=none,batch", "init=pytorch,kaiming", "sweep.zip=[[norm,init]]", "seed=0,1", "sweep.max_seeds=2"]
    )
    assert planned.looks == (2,)


def test_refused_sweep_is_one_message(sweep_in: Train, tmp_path: Path) -> None:
    result = sweep_in(tmp_path, ARMS, "seed=range(5)", "sweep.until=decided", "sweep.max_seeds=4")
    assert result.returncode == 2, result.stdout
    assert result.stderr == (
        "train: sweep.max_seeds=4: the first block has 5 seeds already. Raise the limit, or give fewer, as in 'seed=range(5)'.\n"
    )
    assert not list(tmp_path.iterdir())


class Started:
    """A sweep of the installed command in a folder, in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out = folder / "out"
        environment = os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}
        command = [str(COMMAND), *SWEEP, *arguments, "hydra/launcher=pool", "hydra.launcher.jobs_per_device=2"]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)

    def wait_for(self, condition: Callable[[Path], Any]) -> None:
        deadline = time.monotonic() + 120
        while not condition(self.out):
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=120)
        return self.process.returncode


@pytest.mark.long
def test_sweep_killed_between_two_stages_goes_on_with_the_same_decisions(
    decided: tuple[Path, str], sweep_in: Train, tmp_path: Path
) -> None:
    started = Started(tmp_path, ARMS, *UNTIL)
    started.wait_for(lambda out: (manifest := read_manifest(out)) and manifest.decisions)
    assert started.end(signal.SIGKILL) == -signal.SIGKILL
    done = {run.identity: str(run.status["started"]) for run in map(read_run, find_runs([started.out])) if run.state == "done"}
    assert len(done) >= 9
    again = sweep_in(tmp_path, ARMS, *UNTIL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert decisions_of(started.out) == decisions_of(decided[0])
    starts = starts_of(started.out)
    assert len(starts) == 15
    assert done.items() <= starts.items()


@pytest.mark.long
def test_interrupted_sweep_looks_at_nothing_and_goes_on_when_repeated(sweep_in: Train, tmp_path: Path) -> None:
    arguments = ["model.how=fine,waits", "seed=range(2)", "sweep.max_seeds=4", "sweep.until=decided"]
    started = Started(tmp_path, *arguments)
    started.wait_for(lambda out: sum(run.state == "running" for run in map(read_run, find_runs([out]))) == 2)
    (tmp_path / "mended").touch()
    assert started.end(signal.SIGINT) == 130
    assert len(manifest_of(started.out).runs) == 4
    assert not manifest_of(started.out).decisions
    again = sweep_in(tmp_path, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "8 runs: 8 done" in again.stdout
    assert {decision.verdict for decision in decisions_of(started.out).values()} == {"undecided"}
