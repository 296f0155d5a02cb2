"""What a run says of itself, through the command: the table of step 0, the verdict, figures, fingerprint and diagnosis."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.harness import SMALL, only_run

Train = Callable[..., "subprocess.CompletedProcess[str]"]
FADING = ["model=plain", "init=gaussian", "norm=none", "model.depth=12"]


def test_a_net_that_fades_explains_itself(train: Train, tmp_path: Path) -> None:
    result = train(*SMALL, *FADING, "trainer.epochs=0", "trainer.max_steps=null")
    assert result.returncode == 0, result.stderr
    assert "the signal fades: std falls by x0." in result.stdout
    assert "mean-field theory expects" in result.stdout
    assert "that means: what the network says hardly depends on the image any more" in result.stdout
    assert "Usually helps: init=kaiming, norm=batch" in " ".join(result.stdout.split())
    assert "heuristics" in result.stdout
    for layer in ("stem.conv", "stage1.conv1", "head"):
        assert any(line.split()[:1] == [layer] for line in result.stdout.splitlines()), f"{layer} has a row"
    assert (only_run(tmp_path) / "figures" / "signal_at_initialisation.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["initial_verdict"]["kind"] == "fades"


def test_a_healthy_net_is_called_so(train: Train, tmp_path: Path) -> None:
    result = train(*SMALL, "model.width=32", "trainer.epochs=0", "trainer.max_steps=null")
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["initial_verdict"]["kind"] == "healthy", result.stdout


def test_the_fingerprint_proves_the_ingredients(train: Train, tmp_path: Path) -> None:
    assert train(*SMALL, "norm=group", "init=xavier").returncode == 0
    found = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert found["contradictions"] == []
    assert found["fingerprint"]["norm"]["built"] == {"GroupNorm": 6}
    weights = found["fingerprint"]["init"]["layers"]["stage3.conv2"]
    assert abs(weights["std"] / weights["requested_std"] - 1) < 0.05


def test_a_model_that_ignores_the_norm_cannot_be_missed(train: Train, tmp_path: Path) -> None:
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


def test_a_run_that_diverges_says_what_broke_first(train: Train, tmp_path: Path) -> None:
    result = train(*SMALL, "norm=none", "optimizer.lr=1e30", "trainer.max_steps=4", "trainer.precision=float32")
    assert result.returncode == 3, result.stdout + result.stderr
    diagnosis = json.loads((only_run(tmp_path) / "status.json").read_text())["diagnosis"]
    assert diagnosis["kind"] == "diverged"
    assert diagnosis["layer"]
    assert diagnosis["step"] > 0, "although only step 0 is due to be looked at"
    assert diagnosis["before"]
    assert any("optimizer.lr" in advice for advice in diagnosis["advice"])
    assert "off first" in result.stdout


def test_thresholds_can_be_set_and_are_printed(train: Train, tmp_path: Path) -> None:
    size = [*SMALL, "model.width=32", "trainer.epochs=0", "trainer.max_steps=null"]
    result = train(*size, "observe.thresholds.fade=0.99", "observe.thresholds.dead=0.75")
    assert result.returncode == 0, result.stderr
    assert "std below x0.99 fades" in result.stdout
    assert "dead from 75 %" in result.stdout
    assert json.loads((only_run(tmp_path) / "summary.json").read_text())["initial_verdict"]["kind"] == "fades"
    wrong = train(*size, "observe.thresholds.dead=2")
    assert wrong.returncode == 2
    assert "observe.thresholds.dead=2: it should be less than or equal to 1." in wrong.stderr
