"""Whole runs with the observer in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.harness import run_here
from tests.observe.reference import BASE, prepared
from train.run.folder import RunFolder
from train.sinks.contracts import Sink
from train.sinks.jsonl import read_records

RUN = [*BASE, "model.width=4", "model.stages=2", "trainer.epochs=2", "trainer.record_every=1"]
FULL_EVERY_STEP = ["observe=full", "observe.every=1", "observe.histogram_every=1", "observe.probe_size=5"]


MODELS = {
    "convnet": ["model.width=4", "model.stages=2"],
    "mlp": ["model.depth=2", "model.width=16"],
    "plain": ["model.depth=6", "model.width=4"],
    "resnet": ["model.depth=8", "model.width=4"],
    "torchvision": ["model.name=shufflenet_v2_x0_5", "data.shape=[3,64,64]"],
}
FIRST = pytest.param("convnet", "float32", marks=pytest.mark.slow)
COMPILED = [FIRST] + [
    pytest.param(model, precision, marks=pytest.mark.compiled)
    for model in MODELS
    for precision in ("float32", "bfloat16")
    if (model, precision) != ("convnet", "float32")
]


def scores(run: RunFolder) -> list[dict[str, float]]:
    return [
        dict(r.values) for r in read_records(run.metrics_file) if any(tag.startswith(("loss", "accuracy")) for tag in r.values)
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_is_fully_observed_trains_the_same_weights(precision: str, tmp_path: Path) -> None:
    common = [*RUN, f"trainer.precision={precision}"]
    ways = {"off": ["observe=off"], "full": FULL_EVERY_STEP}
    runs = {name: run_here(tmp_path / name, [*common, *how]) for name, how in ways.items()}
    off, full = (torch.load(run.weights_file, weights_only=True) for run in runs.values())
    assert all(torch.equal(off[name], full[name]) for name in off)
    assert scores(runs["off"]) == scores(runs["full"])


@pytest.mark.parametrize(("model", "precision"), COMPILED)
def test_a_compiled_model_is_observed_as_it_was_written_and_updated_as_it_is_compiled(
    model: str, precision: str, tmp_path: Path
) -> None:
    torch._dynamo.reset()
    common = [
        *BASE,
        "trainer.epochs=2",
        "trainer.record_every=1",
        f"model={model}",
        *MODELS[model],
        f"trainer.precision={precision}",
    ]
    ways = {
        "eager": FULL_EVERY_STEP,
        "compiled": [*FULL_EVERY_STEP, "trainer.compile=true"],
        "unseen": ["observe=off", "trainer.compile=true"],
    }
    runs = {name: run_here(tmp_path / name, [*common, *how]) for name, how in ways.items()}
    compiled, unseen = (torch.load(runs[name].weights_file, weights_only=True) for name in ("compiled", "unseen"))
    assert all(torch.equal(compiled[name], unseen[name]) for name in compiled)
    assert scores(runs["compiled"]) == scores(runs["unseen"])
    first, second = (next(read_records(runs[name].metrics_file)).values for name in ("eager", "compiled"))
    assert first.keys() == second.keys()
    before_dropout = [tag for tag in first if tag.startswith(("probe", "weight", "activation")) and "head" not in tag]
    assert {tag: second[tag] for tag in before_dropout} == pytest.approx({tag: first[tag] for tag in before_dropout}, rel=1e-4)
    assert all(second[tag] > 0 for tag in second if tag.startswith(("gradient_std", "parameter_gradient_norm")))
    assert all(0 < second[tag] < 1 for tag in second if tag.startswith("update_ratio"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_of_no_epochs_shows_all_of_step_0(precision: str, tmp_path: Path) -> None:
    how = [*RUN, *FULL_EVERY_STEP, f"trainer.precision={precision}"]
    none, some = (run_here(tmp_path / epochs, [*how, f"trainer.epochs={epochs}"]) for epochs in ("0", "1"))
    alone, trained = (next(read_records(run.metrics_file)) for run in (none, some))
    expected = {tag: value for tag, value in trained.values.items() if not tag.startswith("update_ratio")}
    assert alone.step == 0
    assert alone.values == expected
    assert any(tag.startswith("gradient_std") for tag in alone.values)


def test_the_probe_is_looked_at_before_the_first_update_and_after_every_epoch(tmp_path: Path) -> None:
    run = run_here(tmp_path / "run", [*RUN, "observe=full", "observe.every=4", "observe.probe_size=6", "trainer.max_steps=5"])
    records = list(read_records(run.metrics_file))
    at = {prefix: [r.step for r in records if any(t.startswith(prefix) for t in r.values)] for prefix in ("probe", "gradient")}
    assert at == {"probe": [0, 3, 5], "gradient": [0, 4]}
    assert any(tag.startswith("gradient") for tag in records[0].values), "step 0 is one record"


def test_the_probe_is_the_same_plain_images_whatever_is_switched(tmp_path: Path) -> None:
    probes: list[Tensor] = []
    for number, change in enumerate((["seed=1"], ["seed=2", "augment=none"], ["trainer.batch_size=3", "norm=none"])):
        session, readers = prepared(tmp_path / str(number), [*BASE, "model.width=4", *change])
        probes.append(session.probe(readers, 10))
        assert len(session.probe(readers, 99)) == 24
    assert torch.equal(probes[0], probes[1])
    assert torch.equal(probes[0], probes[2])


def test_the_probe_is_pre_processed_like_the_split_it_comes_from(tmp_path: Path) -> None:
    session, readers = prepared(tmp_path / "run", ["data=fashion_mini", "augment=none", "model.width=4", "trainer.device=cpu"])
    split = {image.numpy().tobytes() for batch in readers.train.epoch(0) for image in batch.images}
    probe = {image.numpy().tobytes() for image in session.probe(readers, 50)}
    assert len(probe) == 50
    assert len(probe & split) >= 45, "all but those that an epoch of whole batches leaves out"


class Notebook(Sink):
    """Keeps the histograms."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, float]] = []

    def histogram(self, tag: str, step: int, edges: Any, counts: Any) -> None:
        assert len(edges) == len(counts) + 1
        self.seen.append((tag, step, sum(counts)))


def test_histograms_reach_the_sinks_at_their_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    monkeypatch.setattr("train.run.session.default_sinks", lambda *_: [notebook])
    common = [item for item in RUN if not item.startswith("model.stages")]
    how = ["observe=full", "observe.every=2", "observe.histogram_every=4"]
    run_here(tmp_path / "run", [*common, *how, "model=mlp", "model.depth=1"])
    layers = [("fc1", 8 * 4), ("act1", 8 * 4), ("head", 8 * 4)]
    assert notebook.seen == [(f"activation_histogram/{name}", step, count) for step in (0, 4, 5) for name, count in layers]
