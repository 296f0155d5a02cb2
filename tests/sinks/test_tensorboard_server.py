"""Answers of a real TensorBoard server about runs that the sink wrote."""

import base64
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tensorboard_server import Query, serve_tensorboard
from train.sinks.contracts import TEXTS, Record, RunInfo, Summary
from train.sinks.hparams import hparams_row, known_columns
from train.sinks.tensorboard import TensorBoardSink
from train.sinks.tensorboard_protos import BY_LAYER, METRICS, charts

pytestmark = pytest.mark.slow

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory) -> Path:
    """Six runs: three seeds of two arms, of which one diverged."""
    parent = tmp_path_factory.mktemp("logdir")
    for norm in ("batch", "none"):
        for seed in range(3):
            status = "diverged" if (norm, seed) == ("none", 2) else "done"
            write_run(parent / f"{norm}{seed}", norm, seed, status)
    return parent


def write_run(folder, norm, seed, status):
    folder.mkdir()
    config = {"seed": seed, "seeds": {"init": seed}, "norm": {"kind": norm}, "optimizer": {"lr": 0.1}}
    sink = TensorBoardSink("a: 1\n", hparams_row(config, {"norm": norm}, [f"norm={norm}", "optimizer.lr=0.1", f"seed={seed}"]))
    sink.start(RunInfo(folder, norm, "cpu", "float32", 1, 1, 3, 3, 1.0, 4, 10, "noise", 12, 4, 4))
    accuracy = {"batch": 0.75, "none": 0.25}[norm] + seed / 8
    for step in range(3):
        sink.record(Record(step, 0, 0, {"loss/train": 1 / (step + 1), "activation_std/head": 1.0, "accuracy/val": 0.5}))
    sink.histogram("activation_histogram/head", 0, [0.0, 1.0, 2.0], [3, 4])
    sink.image("heatmap/activation_std", 2, PNG)
    if status == "done":
        sink.record(Record(3, 1, 0, {"accuracy/test": accuracy, "loss/test": 1.0 + seed}))
    sink.finish(Summary(status, "", folder, 3, 1.0, 1, 1, val_accuracy=accuracy / 2))
    sink.close()


@pytest.fixture(scope="module", params=["false", pytest.param("auto", marks=pytest.mark.long)])
def query(logdir, request) -> Iterator[Query]:
    """Query with the event file reader that TensorBoard chooses and with its slow one."""

    def is_loaded(query: Query) -> bool:
        return sum("final/done" in tags for tags in query("scalars/tags").values()) >= 6

    with serve_tensorboard(logdir, is_loaded, f"--load_fast={request.param}") as query:
        yield query


def test_server_lists_scalars_images_histograms_and_config(query):
    runs = {f"{norm}{seed}" for norm in ("batch", "none") for seed in range(3)}
    scalars = query("scalars/tags")
    assert scalars.keys() == runs
    final = {"final/done", "final/diverged"}
    assert set(scalars["none2"]) == {"loss/train", "accuracy/val", "activation_std/head", *final}
    assert set(scalars["none1"]) == {*scalars["none2"], "accuracy/test", "loss/test", "final/accuracy_val"}
    for plugin, *tags in [
        ("images", "heatmap/activation_std"),
        ("histograms", "activation_histogram/head"),
        ("text", TEXTS["result"], "config"),
    ]:
        assert {run: sorted(found) for run, found in query(f"{plugin}/tags").items()} == dict.fromkeys(runs, sorted(tags)), plugin
    ((_, step, buckets),) = query("histograms/histograms?run=none0&tag=activation_histogram/head")
    assert step == 0
    assert sum(count for _, _, count in buckets) == 7


def test_server_merges_layouts_and_finds_the_curves_of_a_chart(query):
    categories = {category["title"]: category["chart"] for category in query("custom_scalars/layout")["category"]}
    assert list(categories) == list(charts(["activation_std/head"]))
    assert [chart["title"] for chart in categories[BY_LAYER["activation_std"]]] == ["head"]
    assert [chart["title"] for chart in categories["activations"]] == list(charts()["activations"])
    (pattern,) = categories["activations"][0]["multiline"]["tag"]
    curves = query(f"custom_scalars/scalars?run=none0&tag={urllib.parse.quote(pattern)}")
    assert curves["regex_valid"]
    assert list(curves["tag_to_events"]) == ["activation_std/head"]


def test_server_shows_the_seeds_of_an_arm_as_one_row(query):
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    columns = [{"hparam": "norm"}, {"metric": {"tag": "accuracy/test"}}]
    table = query("hparams/session_groups", allowedStatuses=statuses, startIndex=0, sliceSize=100, colParams=columns)
    rows = {row["hparams"]["norm"]: row for row in table["sessionGroups"]}
    assert table["totalSize"] == 2
    assert rows["batch"]["hparams"] == {
        "norm": "batch",
        "optimizer.lr": 0.1,
        "arm": "norm=batch optimizer.lr=0.1",
        "norm.kind": "batch",
    }
    means = {norm: {value["name"]["tag"]: value["value"] for value in row["metricValues"]} for norm, row in rows.items()}
    assert means["batch"] == pytest.approx(
        {"accuracy/test": 0.875, "loss/test": 2, "final/accuracy_val": 0.4375, "final/done": 1, "final/diverged": 0}
    )
    assert means["none"] == pytest.approx(
        {"accuracy/test": 0.3125, "loss/test": 1.5, "final/accuracy_val": 0.15625, "final/done": 2 / 3, "final/diverged": 1 / 3}
    )
    assert [session["status"] for session in rows["none"]["sessions"]] == ["STATUS_SUCCESS", "STATUS_SUCCESS", "STATUS_FAILURE"]
    experiment = query("hparams/experiment", experimentName="")
    assert [metric["name"]["tag"] for metric in experiment["metricInfos"]] == list(METRICS)
    assert {column["name"] for column in experiment["hparamInfos"]} == known_columns().keys() | {"norm.kind"}
