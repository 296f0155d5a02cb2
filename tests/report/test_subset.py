"""Pages of a part of the runs in folders: chosen by `--where` and `--by`, or the largest group that can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from train.report import cli
from train.report.arms import build_study
from train.report.collect import collect
from train.report.metric import Metric
from train.report.plan_threats import plan_threats
from train.report.subset import comparable, others_text, selected
from train.store.where import conditions_of

Report = Callable[..., tuple[int, str, str]]
ARMS = {("norm=batch",): (0.8, 0.81, 0.82), ("norm=none",): (0.6, 0.61, 0.62), ("norm=layer",): (0.7, 0.72, 0.71)}


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Report:
    """Return a function that runs the command in an empty folder and returns exit code and both outputs."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(arguments)
        texts = capsys.readouterr()
        return code, texts.out, texts.err

    return run


def arms_of(text: str) -> list[str]:
    """Return the names of the arms in the table of a terminal."""
    table = text.partition("mean +- standard error\n")[2].partition("\n\n")[0]
    return [re.sub(r" \(baseline\)| {2,}.*", "", line) for line in table.splitlines()]


def sweep(folder: Path, **settings: object) -> Path:
    return write_sweep(folder, ARMS, records=2, layers=1, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_chosen_runs_have_a_page_of_their_own_with_a_caution(report: Report, tmp_path: Path) -> None:
    sweep(tmp_path / "s")
    (tmp_path / "s" / "report.md").write_text("that of the sweep")
    manifest = (tmp_path / "s" / "sweep.json").read_bytes()
    code, out, _ = report("s", "--where", "norm=batch,layer", "seed<2")
    assert code == 0
    assert arms_of(out) == ["norm=batch", "norm=layer"]
    assert "80.50 +- " in out
    assert "verdicts: final" not in out
    page = (tmp_path / "s" / "where_norm=batch,layer,seed-2" / "report.md").read_text()
    assert "- **caution:** The report is on 4 of 9 runs, chosen by norm=batch,layer seed\\<2. What is chosen after" in page
    assert (tmp_path / "s" / "report.md").read_text() == "that of the sweep"
    assert not (tmp_path / "s" / "summary").exists()
    assert (tmp_path / "s" / "sweep.json").read_bytes() == manifest, "a page of some runs is no look at the plan"


CONDITIONS = {
    **dict.fromkeys(
        ("accuracy/test>0.65", "status=done", "test_loss<1", "steps>0", "loss/train<1", "norm!=none time>0"), "serious"
    ),
    **dict.fromkeys(("norm=batch,layer", "seed>0", "optimizer.lr>0", "run!=x", "data/_target_!=x"), "caution"),
}


def test_runs_chosen_by_their_results_are_a_serious_threat(tmp_path: Path) -> None:
    collection = collect([sweep(tmp_path / "s")])
    for text, severity in CONDITIONS.items():
        chosen = selected(collection, conditions_of(text.split()))
        (threat,) = plan_threats(build_study(chosen.collection), Metric("accuracy/test"), 0.005)
        assert (text, threat.severity) == (text, severity)
        assert ("chosen by what came out" in threat.sentence) is (severity == "serious")


@pytest.mark.slow
def test_each_value_has_a_page(report: Report, tmp_path: Path) -> None:
    for name, epochs in (("short", 1), ("long", 2)):
        for norm, accuracy in (("batch", 0.8), ("none", 0.6)):
            overrides = [f"norm={norm}", f"trainer.epochs={epochs}"]
            write_run(tmp_path / "outputs" / f"{name}-{norm}", overrides, accuracy, records=2, layers=1)
    code, out, _ = report("outputs", "--by", "trainer.epochs", "--where", "seed=0")
    assert code == 0
    assert re.findall(r"^== (.*)$", out, re.MULTILINE) == ["seed=0 trainer.epochs=2", "seed=0 trainer.epochs=1"]
    pages = sorted(path.parent.name for path in (tmp_path / "outputs").rglob("report.md"))
    assert pages == ["by_seed=0,trainer.epochs=1", "by_seed=0,trainer.epochs=2"]
    assert "2 of 4 runs, chosen by seed=0 trainer.epochs=1" in (tmp_path / "outputs" / pages[0] / "report.md").read_text()


@pytest.mark.slow
def test_mixed_folder_has_a_page_of_what_is_comparable_and_lists_the_rest(report: Report, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    sweep(outputs / "s")
    write_run(outputs / "longer", ["trainer.epochs=9", "norm=batch"], 0.9, records=2, layers=1)
    write_run(outputs / "steps", ["trainer.max_steps=9", "norm=batch"], 0.3, records=2, layers=1)
    write_run(outputs / "other", ["data=noise"], 0.1, records=2, layers=1, choices={"data": "noise"})
    write_run(outputs / "same", ["init=xavier"], 0.83, records=2, layers=1)
    code, out, _ = report("outputs")
    assert code == 0
    assert len(arms_of(out)) == 4
    assert "The report is on 10 of 13 runs, the most that have the same data and budget: data=fashion_mini trainer.epochs=" in out
    commands = re.findall(r"^1 run: (train-report .*)$", out, re.MULTILINE)
    assert len(commands) == 3
    page = (outputs / "report.md").read_text()
    assert "Not on this page" in page
    assert "longer" not in page
    epochs = next(command for command in commands if "trainer.epochs=9" in command).split()
    assert epochs[1:] == ["outputs", "--where", "data=fashion_mini", "trainer.epochs=9"]
    for command in commands:
        assert len(selected(collect([outputs]), conditions_of(command.split()[3:])).collection.runs) == 1


def test_sweep_that_varies_the_budget_is_one_group(report: Report, tmp_path: Path) -> None:
    arms = {("trainer.epochs=1",): (0.8, 0.81, 0.82), ("trainer.epochs=2",): (0.6, 0.61, 0.62)}
    (tmp_path / "above").mkdir()
    folder = write_sweep(tmp_path / "above" / "s", arms, records=2, layers=1)
    assert comparable(collect([folder])).subset is None
    write_run(tmp_path / "above" / "single", ["trainer.epochs=2", "seed=9"], 0.5, records=2, layers=1)
    _, out, _ = report("above")
    assert "6 of 7 runs, the most that have the same data and budget: sweep=s" in out
    assert "verdicts: final" in out, "the whole plan is on the page"


def test_named_runs_are_compared_whatever_their_budget(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(epochs), [f"trainer.epochs={epochs}"], 0.5, records=1, layers=1) for epochs in (1, 2)]
    assert comparable(collect(folders)).subset is None
    assert comparable(collect([tmp_path])).subset is not None


def test_same_choice_with_other_images_is_another_group(tmp_path: Path) -> None:
    for number, data in enumerate(("aaaa", "aaaa", "bbbb", "")):
        write_run(tmp_path / str(number), [f"seed={number}"], 0.5, records=1, layers=1, status={"data": data})
    collection = comparable(collect([tmp_path]))
    assert len(collection.runs) == 2
    assert collection.subset is not None
    assert collection.subset.conditions[:2] == ("data=fashion_mini", "data_id=aaaa")
    assert any("data_id=bbbb" in line for line in others_text(collection))


def test_tuned_keys_of_a_plan_stay_tuned(tmp_path: Path) -> None:
    sweep(tmp_path / "s")
    path = tmp_path / "s" / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tune": ["optimizer.lr"]}))
    write_run(tmp_path / "s" / "tuned", ["norm=batch", "optimizer.lr=0.01", "seed=9"], 0.2, records=2, layers=1)
    chosen = selected(collect([tmp_path / "s"]), conditions_of(["norm!=none"]))
    assert chosen.tune == ("optimizer.lr",)
    assert [arm.levels for arm in build_study(chosen.collection, tune=chosen.tune).arms] == [{"norm": "batch"}, {"norm": "layer"}]


REFUSED = {
    "no key": (["--where", "nrom=batch"], "--where nrom=batch"),
    "no run": (["--where", "norm=bacth"], "norm is batch (3)"),
    "no condition": (["--where", "norm"], "--where norm"),
    "no value": (["--by", "nrom"], "--by nrom"),
    "no page": (["--by", "norm", "--metric", "accuracy/tset"], "accuracy/test"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_choice_is_one_message(case: str, report: Report, tmp_path: Path) -> None:
    sweep(tmp_path / "s")
    arguments, text = REFUSED[case]
    before = sorted(tmp_path.rglob("*"))
    code, out, error = report("s", *arguments)
    assert (code, out) == (2, "")
    assert text in error
    assert sorted(tmp_path.rglob("*")) == before


def test_key_with_many_values_is_refused(report: Report, tmp_path: Path) -> None:
    for seed in range(51):
        write_run(tmp_path / "o" / str(seed), [f"seed={seed}"], 0.5, records=1, layers=1)
    code, _, error = report("o", "--by", "seed")
    assert code == 2
    assert "51 values" in error
