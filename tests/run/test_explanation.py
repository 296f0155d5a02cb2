"""`ExplanationSink` through the command: layer table, verdict, figure, fingerprint and diagnosis of a run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.harness import SMALL as UNOBSERVED
from tests.harness import only_run
from train.sinks.contracts import TEXTS

Train = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = [*UNOBSERVED, "observe=basic"]
FADING = ["model=plain", "init=gaussian", "norm=none", "model.depth=12"]


def test_explanation_of_a_fading_signal_has_all_its_parts(train: Train, tmp_path: Path) -> None:
    result = train(*SMALL, *FADING, "trainer.epochs=0", "trainer.max_steps=null")
    assert result.returncode == 0, result.stderr
    assert "the signal fades: std falls by x0." in result.stdout
    assert "mean-field theory expects" in result.stdout
    assert "meaning: the outputs hardly depend on the image any more" in result.stdout
    assert "Common remedies: init=kaiming, norm=batch" in " ".join(result.stdout.split())
    assert "heuristics" in result.stdout
    for layer in ("stem.conv", "stage1.conv1", "head"):
        assert any(line.split()[:1] == [layer] for line in result.stdout.splitlines()), f"{layer} has a row"
    for name in ("signal_at_initialisation", "profile_activation_std", "first_batch"):
        assert (only_run(tmp_path) / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(only_run(tmp_path))).Reload()
    assert {"profile/activation_std", "first_batch"} <= set(events.Tags()["images"])
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.PluginTagToContent("text")}
    assert texts[TEXTS["verdict"]].startswith("    the signal fades: std falls by x0.")
    assert [line.split()[0] for line in texts[TEXTS["layers"]].splitlines()][:2] == ["layer", "stem.conv"]
    assert "train " in texts[TEXTS["command"]]
    assert "model=plain" in texts[TEXTS["command"]]
    assert texts[TEXTS["result"]].splitlines()[0].strip() == "done"
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["initial_verdict"]["kind"] == "fades"


def test_figures_are_left_out_on_request_and_the_run_is_the_same(train: Train, tmp_path: Path) -> None:
    overrides = [*SMALL, "observe.every=1", "trainer.max_steps=3"]
    for name, figures in (("with", []), ("without", ["observe.figures=false"])):
        assert train(*overrides, *figures, f"hydra.run.dir={name}").returncode == 0
    drawn, bare = tmp_path / "with", tmp_path / "without"
    assert len(list((drawn / "figures").iterdir())) > 4
    assert not (bare / "figures").exists()
    assert EventAccumulator(str(bare)).Reload().Tags()["images"] == []
    statuses = [json.loads((folder / "status.json").read_text()) for folder in (drawn, bare)]
    assert statuses[0]["identity"] == statuses[1]["identity"]
    assert (drawn / "weights.pt").read_bytes() == (bare / "weights.pt").read_bytes()


def test_sweep_without_figures_draws_none(train: Train, tmp_path: Path) -> None:
    assert train("-m", *SMALL, "seed=0,1", "observe.figures=false", "hydra.sweep.dir=sweep").returncode == 0
    assert len(list((tmp_path / "sweep").glob("*/summary.json"))) == 2
    assert not list((tmp_path / "sweep").rglob("*.png"))
    assert not list((tmp_path / "sweep").rglob("*.images"))


def test_verdict_of_a_healthy_network_is_healthy(train: Train, tmp_path: Path) -> None:
    result = train(*SMALL, "model.width=32", "trainer.epochs=0", "trainer.max_steps=null")
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["initial_verdict"]["kind"] == "healthy", result.stdout


def test_summary_contains_the_fingerprint(train: Train, tmp_path: Path) -> None:
    assert train(*SMALL, "norm=group", "init=xavier").returncode == 0
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["contradictions"] == []
    assert summary["fingerprint"]["norm"]["built"] == {"GroupNorm": 6}
    weights = summary["fingerprint"]["init"]["layers"]["stage3.conv2"]
    assert abs(weights["std"] / weights["requested_std"] - 1) < 0.05


def test_contradiction_of_a_model_that_ignores_its_norm_is_shown(train: Train, tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(
        "from torch import nn\n\n\ndef net(*, input_shape, classes, norm, activation, dropout):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(256, 32), activation(), nn.Linear(32, classes))\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "deaf.yaml").write_text("_target_: deaf.net\nactivation: relu\n")
    size = [item for item in SMALL if not item.startswith("model.")]
    result = train("--config-dir", "conf", *size, "model=deaf", "trust=deaf", "norm=batch", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "warning: " in result.stdout
    (sentence,) = json.loads((only_run(tmp_path) / "summary.json").read_text())["contradictions"]
    assert "norm=batch" in sentence
    assert sentence in " ".join(result.stdout.split())


def test_diagnosis_names_what_broke_first_in_a_diverged_run(train: Train, tmp_path: Path) -> None:
    result = train(*SMALL, "norm=none", "optimizer.lr=1e30", "trainer.max_steps=4", "trainer.precision=float32")
    assert result.returncode == 3, result.stdout + result.stderr
    diagnosis = json.loads((only_run(tmp_path) / "status.json").read_text())["diagnosis"]
    assert diagnosis["kind"] == "diverged"
    assert diagnosis["layer"]
    assert diagnosis["step"] > 0, "although only step 0 is due to be observed"
    assert diagnosis["before"]
    assert any("optimizer.lr" in advice for advice in diagnosis["advice"])
    assert "broke first" in result.stdout


def test_thresholds_are_configurable_and_printed(train: Train, tmp_path: Path) -> None:
    size = [*SMALL, "model.width=32", "trainer.epochs=0", "trainer.max_steps=null"]
    result = train(*size, "observe.thresholds.fade=0.99", "observe.thresholds.dead=0.75")
    assert result.returncode == 0, result.stderr
    assert "std below x0.99 fades" in result.stdout
    assert "dead from 75 %" in result.stdout
    assert json.loads((only_run(tmp_path) / "summary.json").read_text())["initial_verdict"]["kind"] == "fades"
    wrong = train(*size, "observe.thresholds.dead=2")
    assert wrong.returncode == 2
    assert "observe.thresholds.dead=2: it should be less than or equal to 1." in wrong.stderr
