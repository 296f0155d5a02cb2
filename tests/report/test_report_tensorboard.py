"""Answers of a real TensorBoard server about the arms that a report writes into the folder of a sweep."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from scipy import stats

from tests.report.folders import write_run, write_sweep
from tests.tensorboard_server import Query, serve_tensorboard
from train.report.history import MOST_OBSERVED, read_layer_curves
from train.report.make import ReportOptions, make_report
from train.report.tensorboard import write_table
from train.sinks.contracts import Record, RunInfo, Summary
from train.sinks.hparams import hparams_row
from train.sinks.tensorboard import TensorBoardSink
from train.store.metrics import read_records
from train.store.run import find_runs, read_run

pytestmark = pytest.mark.slow

ARMS = {
    ("norm=batch",): (0.80, 0.82, 0.83),
    ("norm=none", "optimizer.lr=0.05"): (0.60, 0.62, 0.64),
    ("norm=group", "norm.groups=4"): (0.7,),
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Return a sweep with the HParams columns of all arms, runs with their own event files, and two reports written."""
    folder = write_sweep(tmp_path_factory.mktemp("tensorboard") / "sweep", ARMS, records=4)
    rows = {path: hparams_row(run.config, run.choices, run.overrides) for path in find_runs([folder]) for run in [read_run(path)]}
    write_table(folder, list(rows.values()), ["norm"])
    for path, row in rows.items():
        run = read_run(path)
        sink = TensorBoardSink("", row)
        sink.start(RunInfo(path, "", "cpu", "float32", 1, 1, 3, 3, 1.0, 4, 10, "noise", 12, 4, 4))
        sink.record(Record(3, 1, 0, {"accuracy/test": float(run.summary["test_accuracy"])}))
        sink.finish(Summary("done", "", path, 3, 1.0, 1, 1))
        sink.close()
    for _ in range(2):
        make_report([folder], folder, ReportOptions())
    return folder


@pytest.fixture(scope="module")
def query(sweep) -> Iterator[Query]:
    with serve_tensorboard(sweep, lambda query: len(query("scalars/tags")) >= 10) as query:
        yield query


def test_write_charts_gives_each_arm_a_mean_and_interval(sweep, query):
    runs = query("scalars/tags")
    arms = {run for run in runs if run.startswith("summary/")}
    assert arms == {
        "summary/norm=batch,optimizer.lr=0.2,baseline",
        "summary/norm=none,optimizer.lr=0.05",
        "summary/norm=group,optimizer.lr=0.2,norm.groups=4",
    }
    curves = [
        {
            record.step: record.values["accuracy/val"]
            for record in read_records(path / "metrics.jsonl")
            if "accuracy/val" in record.values
        }
        for path in find_runs([sweep])
        if "norm=batch" in path.name
    ]
    series = {
        name: query(f"scalars/scalars?run=summary/norm=batch,optimizer.lr=0.2,baseline&tag={tag}accuracy/val")
        for name, tag in (("mean", ""), ("low", "low/"), ("high", "high/"))
    }
    assert [step for _, step, _ in series["mean"]] == sorted(curves[0])
    for (_, step, mean), (_, _, low), (_, _, high) in zip(series["mean"], series["low"], series["high"], strict=True):
        values = [curve[step] for curve in curves]
        half = stats.t.ppf(0.975, 2) * statistics.stdev(values) / math.sqrt(3)
        assert mean == pytest.approx(statistics.mean(values), rel=1e-5)
        assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-4)


def test_write_charts_gives_an_arm_of_one_run_no_interval(query):
    tags = set(query("scalars/tags")["summary/norm=group,optimizer.lr=0.2,norm.groups=4"])
    assert "loss/train" in tags
    assert not {tag for tag in tags if tag.startswith(("mean/", "low/", "high/"))}


def test_arms_have_the_means_of_their_layers(sweep, query):
    """So that a sweep of hundreds of runs can be read by its arms alone."""
    records = [list(read_records(path / "metrics.jsonl")) for path in find_runs([sweep]) if "norm=batch" in path.name]
    for tag in ("activation_std/stage0.conv2", "activation_mean/stage0.conv0", "gradient_std/stage0.conv3"):
        series = query(f"scalars/scalars?run=summary/norm=batch,optimizer.lr=0.2,baseline&tag={tag}")
        values = [{record.step: record.values[tag] for record in run if tag in record.values} for run in records]
        assert [step for _, step, _ in series] == sorted(values[0])
        assert [mean for *_, mean in series] == pytest.approx(
            [statistics.mean(run[step] for run in values) for step in values[0]]
        )


def test_folder_of_arms_has_the_charts_of_runs(sweep):
    with serve_tensorboard(sweep / "summary", lambda query: bool(query("custom_scalars/layout"))) as query:
        categories = query("custom_scalars/layout")["category"]
    assert [category["title"] for category in categories][:3] == [
        "training",
        "arms: mean and 95 % interval",
        "std of the activations, by layer",
    ]
    assert [chart["title"] for chart in categories[2]["chart"]] == [f"stage0.conv{n}" for n in range(4)]


def test_curves_of_layers_are_thinned_out(tmp_path):
    run = read_run(write_run(tmp_path / "run", ["norm=batch"], records=1000, layers=2))
    curves = read_layer_curves(run, ["activation_std"])
    assert list(curves) == ["activation_std/stage0.conv0", "activation_std/stage0.conv1"]
    steps = curves["activation_std/stage0.conv1"].steps
    assert MOST_OBSERVED / 2 < len(steps) <= MOST_OBSERVED + 1
    assert (steps[0], steps[1] - steps[0], steps[-1]) == (0, 320, 9990)


def test_custom_page_draws_means_with_bands(query):
    categories = {category["title"]: category["chart"] for category in query("custom_scalars/layout")["category"]}
    charts = {chart["title"]: chart["margin"]["series"] for chart in categories["arms: mean and 95 % interval"]}
    assert charts["accuracy/val"] == [{"value": "mean/accuracy/val", "lower": "low/accuracy/val", "upper": "high/accuracy/val"}]


def test_no_run_lacks_some_of_the_tags_of_a_band(query):
    """TensorBoard writes 'Missing Tags' below a chart for each run that has some of them, but not all at the same steps."""
    pages = [chart for category in query("custom_scalars/layout")["category"] for chart in category["chart"]]
    bands = [list(series.values()) for chart in pages if "margin" in chart for series in chart["margin"]["series"]]
    runs = query("scalars/tags")
    assert bands
    for run, tags in runs.items():
        for band in bands:
            assert len({*band} & tags.keys()) in (0, 3), run
    steps = [
        [step for _, step, _ in query(f"scalars/scalars?run=summary/norm=none,optimizer.lr=0.05&tag={tag}")] for tag in bands[0]
    ]
    assert steps[0]
    assert steps[0] == steps[1] == steps[2]


def test_hparams_table_has_all_columns_and_a_row_per_arm(query):
    columns = {column["name"] for column in query("hparams/experiment", experimentName="")["hparamInfos"]}
    assert {"norm", "optimizer.lr", "norm.groups", "arm"} <= columns
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    metric = [{"metric": {"tag": "accuracy/test"}}, {"hparam": "norm"}]
    table = query("hparams/session_groups", allowedStatuses=statuses, startIndex=0, sliceSize=100, colParams=metric)
    means = {row["hparams"]["norm"]: row["metricValues"][0]["value"] for row in table["sessionGroups"]}
    assert means == pytest.approx({"batch": 0.81666666, "none": 0.62, "group": 0.7})


def test_write_charts_adds_no_runs_and_keeps_other_files(sweep):
    assert len(list(find_runs([sweep]))) == 7
    (sweep / "summary" / "mine.txt").write_text("kept")
    (sweep / "summary" / "mine").mkdir()
    (sweep / "summary" / "mine" / "events.out.tfevents.1.host").write_text("")
    make_report([sweep], sweep, ReportOptions())
    assert (sweep / "summary" / "mine.txt").read_text() == "kept"
    assert (sweep / "summary" / "mine" / "events.out.tfevents.1.host").exists()
    assert len(list(sweep.glob("events.out.tfevents.*"))) == 1
