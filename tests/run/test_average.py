"""Runs whose weights are averaged: what is scored, stored and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from tests.harness import SMALL, compose_config, resume_in_process, run_content, train_in_process
from train.evaluation.evaluate import Request, evaluate_run
from train.run.checkpoint import list_checkpoints
from train.run.dry_run import time_run
from train.store.metrics import read_records
from train.store.run import read_run

RUN = [*SMALL, "trainer.device=cpu", "trainer.epochs=3", "trainer.max_steps=8", "schedule=constant", "trainer.record_every=2"]
EMA = [*RUN, "regularization=ema", "regularization.ema_decay=0.7"]


def values_of(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(record.step, dict(record.values)) for record in read_records(folder / "metrics.jsonl")]


def test_run_scores_the_average_and_beside_it_what_it_averages(tmp_path: Path) -> None:
    """Training itself is that of a run without an average, to the bit."""
    for name, overrides in (("plain", [*RUN, "regularization=none"]), ("averaged", EMA)):
        train_in_process(tmp_path / name, overrides)
    plain, averaged = values_of(tmp_path / "plain"), values_of(tmp_path / "averaged")
    scores = [{tag: value for tag, value in values.items() if "/val" in tag or "/test" in tag} for _, values in averaged]
    raw = [
        (
            step,
            {
                tag.removesuffix("_raw"): value
                for tag, value in values.items()
                if tag not in ("loss/val", "accuracy/val", "loss/test", "accuracy/test")
            },
        )
        for step, values in averaged
    ]
    assert raw == plain
    ends = [found for found in scores if found]
    assert [sorted(found) for found in ends[-2:]] == [
        [f"{quantity}/{split}{of}" for quantity in ("accuracy", "loss") for of in ("", "_raw")] for split in ("val", "test")
    ]
    assert all(
        found[f"loss/{split}"] != found[f"loss/{split}_raw"] for found, split in zip(ends[-2:], ("val", "test"), strict=True)
    )
    weights = [torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("plain", "averaged")]
    assert weights[0].keys() == weights[1].keys()
    assert not torch.equal(*(w["head.weight"] for w in weights))
    checkpoint = list_checkpoints(tmp_path / "averaged")[0].path
    assert torch.equal(torch.load(checkpoint, weights_only=True)["loop"]["model"]["head.weight"], weights[0]["head.weight"])
    run = read_run(tmp_path / "averaged")
    assert run.summary["test_loss"] == ends[-1]["loss/test"]
    averaging = run.summary["fingerprint"]["averaging"]
    assert (averaging["chosen"], averaging["decay"], averaging["averaged"]["tensors"]) == (
        0.7,
        0.7,
        len(list(weights[0])) - 3 * 6,
    )
    assert run.summary["contradictions"] == []
    assert evaluate_run(run, Request(trust=("tests",))).equality.equal


def test_resumed_recipe_has_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """With everything at once that changes with the epoch or follows an update. Resumed within the second of two epochs."""
    recipe = [*EMA, "model=airbench", "model.bias_epochs=1", "augment=[crop,alternating_flip]", "regularization.sam_radius=0.1"]
    recipe = [word for word in recipe if not word.startswith("trainer.max_steps")]
    whole = train_in_process(tmp_path / "whole", [*recipe, "trainer.max_steps=8"])
    train_in_process(tmp_path / "half", [*recipe, "trainer.max_steps=5"])
    _, status = resume_in_process(tmp_path / "half", ["trainer.max_steps=8"])
    assert status == "done"
    uninterrupted, resumed = (run_content(tmp_path / name) for name in ("whole", "half"))
    assert uninterrupted[0] == resumed[0]
    assert uninterrupted[1][-1] == resumed[1][-1]
    found = read_run(whole.path).summary["fingerprint"]
    assert found["augment"] == ["Crop", "AlternatingFlip"]
    assert found["weight_decay"]["frozen"]["names"] == ["stem.conv.weight"]
    assert found["second_pass"] == {"chosen": 0.1, "radius": 0.1}


def test_biases_of_the_stem_stay_once_their_epochs_are_over(tmp_path: Path) -> None:
    """After one epoch of four steps they are those at the end of two."""
    common = [word for word in RUN if not word.startswith("trainer.max_steps")] + ["model=airbench", "regularization=none"]
    ends = {
        (epochs, steps): torch.load(
            train_in_process(
                tmp_path / f"{epochs} {steps}", [*common, f"model.bias_epochs={epochs}", f"trainer.max_steps={steps}"]
            ).weights_file,
            weights_only=True,
        )
        for epochs, steps in (("1", 4), ("1", 8), ("null", 8))
    }
    first, frozen, trained = (end["stem.conv.bias"] for end in ends.values())
    assert first.any()
    assert torch.equal(first, frozen)
    assert not torch.equal(first, trained)
    assert len({end["stem.conv.weight"].sum().item() for end in ends.values()}) == 1


def test_timing_of_a_dry_run_scores_the_average_and_what_it_averages() -> None:
    def images_scored(overrides: list[str]) -> int:
        counts: list[int] = []

        def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
            is_head = isinstance(module, nn.Linear) and module.out_features == 10
            if is_head and not module.training and output.device.type != "meta":
                counts.append(len(output))

        with register_module_forward_hook(count):
            time_run((compose_config(overrides), ()))
        return sum(counts)

    assert images_scored(EMA) == 2 * images_scored([*RUN, "regularization=none"])
