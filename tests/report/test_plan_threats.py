"""What a report says of choices that its sweep's plan did not make before the first run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.folders import write_run, write_sweep
from train.report.analysis import Analysis
from train.report.header import header_fields
from train.report.make import ReportOptions, analyse_folders
from train.store.manifest import merge_manifests, read_manifest, write_manifest

ARMS = {("norm=none",): (0.790, 0.800, 0.801), ("norm=batch",): (0.795, 0.801, 0.805)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("planned") / "sweep", ARMS)


def planned(analysis: Analysis) -> list[tuple[str, str]]:
    return [(threat.severity, threat.sentence) for threat in analysis.threats if threat.kind == "not_as_planned"]


def metric_field(analysis: Analysis) -> str:
    return dict(header_fields(analysis))["Metric"]


def test_report_as_planned_has_no_caution(sweep: Path) -> None:
    analysis = analyse_folders([sweep], ReportOptions())
    assert planned(analysis) == []
    assert "as planned before the first run" in metric_field(analysis)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (ReportOptions(metric="loss/test"), "the metric is loss/test, not accuracy/test"),
        (ReportOptions(baseline="norm=batch"), "the baseline is norm=batch, not norm=none"),
        (ReportOptions(smallest_effect=0.02), "the smallest effect of interest is 0.02, not 0.005"),
    ],
)
def test_choice_that_is_not_the_plans_is_a_caution(sweep: Path, options: ReportOptions, text: str) -> None:
    analysis = analyse_folders([sweep], options)
    ((severity, sentence),) = planned(analysis)
    assert severity == "caution"
    assert text in sentence
    assert ("the plan names accuracy/test" in metric_field(analysis)) == (options.metric != "accuracy/test")


def test_runs_picked_from_a_sweep_are_a_caution(sweep: Path) -> None:
    picked = sorted(path.parent for path in sweep.glob("*/status.json"))[1:]
    ((severity, sentence),) = planned(analyse_folders(picked, ReportOptions()))
    assert severity == "caution"
    assert "5 runs picked from the 6 of the sweep" in sentence


def test_runs_without_a_plan_are_called_so(tmp_path: Path) -> None:
    for started, (norm, accuracy) in enumerate((("none", 0.7), ("batch", 0.8))):
        write_run(tmp_path / norm, [f"norm={norm}"], accuracy, started=started)
    analysis = analyse_folders([tmp_path], ReportOptions())
    ((severity, sentence),) = planned(analysis)
    assert severity == "note"
    assert "No plan names a metric" in sentence
    assert "plan" not in metric_field(analysis), "the note says it"


def test_plan_of_an_earlier_version_names_no_metric(sweep: Path, tmp_path: Path) -> None:
    manifest = read_manifest(sweep)
    assert manifest is not None
    folder = write_sweep(tmp_path / "sweep", ARMS)
    write_manifest(folder, replace(manifest, metric=""))
    analysis = analyse_folders([folder], ReportOptions())
    assert planned(analysis) == []
    assert "an earlier version made the plan" in metric_field(analysis)


def test_first_plan_keeps_its_metric_when_the_sweep_is_repeated(sweep: Path) -> None:
    old = read_manifest(sweep)
    assert old is not None
    merged = merge_manifests(old, replace(old, metric="loss/train", smallest_effect=0.1))
    assert (merged.metric, merged.smallest_effect) == ("accuracy/test", None)
