"""What runs found out about themselves, in the report: contradictions, the signal at initialisation and the diagnosis."""

from __future__ import annotations

import html
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.report.folders import write_run
from tests.report.test_report import table_rows
from train.explain.diagnosis import Diagnosis
from train.explain.verdict import Verdict
from train.report.make import ReportOptions, make_report

OPTIONS = ReportOptions(tensorboard=False, baseline="norm=batch")
NO_NORM = "norm=group, but the model contains no such layer: it contains no norm layer. Does the model use its argument `norm`?"
FADES = asdict(Verdict("fades", "the signal fades", "activation_std", "stage3.act2"))
HEALTHY = asdict(Verdict("healthy", "healthy: std is stable"))


def outputs(folder: Path, options: ReportOptions = OPTIONS) -> tuple[str, str, str]:
    """Return the page, the Markdown file without its escapes, and what the terminal shows."""
    page, terminal = make_report([folder], folder / "out", options)
    markdown = re.sub(r"\\(.)", r"\1", (folder / "out" / "report.md").read_text())
    return html.unescape(page.read_text()), markdown, terminal


def write_arm(folder: Path, norm: str, contradictions: list[list[str]], *more: str, **run: Any) -> None:
    """Write a run per seed with these contradictions."""
    for seed, sentences in enumerate(contradictions):
        overrides = [f"norm={norm}", *more, f"seed={seed}"]
        write_run(folder / "-".join(overrides), overrides, 0.8 + seed / 100, summary={"contradictions": sentences}, **run)


def diagnosed(finding: Any, layer: str, kind: Any = "diverged") -> dict[str, Any]:
    return {"diagnosis": Diagnosis(kind, finding, "the run diverged", "gradient_std", layer, 12).as_json()}


def test_runs_without_a_chosen_ingredient_are_a_serious_threat(tmp_path):
    write_arm(tmp_path, "batch", [[], [], []])
    write_arm(tmp_path, "group", [[NO_NORM], [NO_NORM], []])
    page, markdown, terminal = outputs(tmp_path)
    threat = f"2 of 3 runs of norm=group contradict their configuration: {NO_NORM}"
    assert f'<li class="serious"><b>serious</b> {threat}</li>' in page
    assert f"- **serious:** {threat}" in markdown
    assert (
        "2 of 3 runs with norm=group contradict the configuration: norm=group, but the model contains no such layer" in terminal
    )
    assert "warning: " not in terminal, "the claim says it"


def test_contradictions_of_one_choice_are_one_threat_for_all_arms(tmp_path):
    """Weights differ from seed to seed, so the sentences about them do."""
    weights = [
        f"init=kaiming, but 3 layers do not have the requested weight std: conv1 {std} instead of 0.1." for std in (0.2, 0.3)
    ]
    write_arm(tmp_path, "batch", [[weights[0]], [weights[1]], [weights[0]]])
    write_arm(tmp_path, "group", [[weights[0], NO_NORM], [weights[0]], []])
    _, _, terminal = outputs(tmp_path)
    warnings = [line for line in terminal.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: 3 of 3 runs of norm=batch (baseline) and 2 of 3 runs of norm=group contradict their configuration: "
        f"{weights[0]}",
    ]
    assert terminal.count("1 of 3 runs with norm=group contradicts the configuration: norm=group, but the model") == 1


def test_contradictions_at_levels_that_were_not_chosen_count(tmp_path):
    for rate, val, sentences in (("0.1", 0.9, []), ("0.2", 0.5, [NO_NORM])):
        for norm in ("batch", "group"):
            summary = {"contradictions": sentences if norm == "group" else [], "val_accuracy": val}
            write_run(tmp_path / f"{norm}-{rate}", [f"norm={norm}", f"optimizer.lr={rate}"], val, summary=summary)
    _, _, terminal = outputs(tmp_path, replace(OPTIONS, tune=("optimizer.lr",)))
    assert "1 of 2 runs with norm=group contradicts the configuration: norm=group, but the model" in terminal


def test_arm_shows_its_most_frequent_signal_and_diagnosis(tmp_path):
    write_arm(tmp_path, "batch", [[]] * 3, status={})
    for seed, (finding, layer) in enumerate((("growth", "conv1"), ("large_update", "fc"), ("growth", "conv2"))):
        overrides = ["norm=none", f"seed={seed}"]
        status, summary = diagnosed(finding, layer), {"initial_verdict": FADES if seed else HEALTHY}
        write_run(tmp_path / f"none{seed}", overrides, None, "diverged", reason="NaN", status=status, summary=summary)
    write_run(tmp_path / "none3", ["norm=none", "seed=3"], 0.1, status=diagnosed("small_update", "fc", "cannot_learn"))
    page, markdown, terminal = outputs(tmp_path)
    signal = "at initialisation: fades, 2 of 4 runs"
    diagnosis = "diverged: growth (gradient_std of conv1 or conv2 at step 12), 2 of 4 runs"
    assert f"norm=none {signal} {diagnosis}" in table_rows(page), "below the name of the arm"
    assert f"| norm=none; {signal} |" in markdown
    assert f"| {diagnosis} |" in markdown
    assert f"(0 of 4 trained, 3 diverged)  {signal}  {diagnosis}" in terminal
    assert "<td>NaN; first anomaly: gradient_std of conv2 at step 12</td>" in page
    assert "| diverged | NaN; first anomaly: gradient_std of fc at step 12 |" in markdown


def test_healthy_runs_have_no_findings(tmp_path):
    write_arm(tmp_path, "batch", [[], []], status={})
    write_run(tmp_path / "healthy", ["norm=none"], 0.7, summary={"initial_verdict": HEALTHY})
    page, _, terminal = outputs(tmp_path)
    assert set(table_rows(page)) == {"baseline", "norm=none"}
    assert "warning" not in terminal


def test_diagnosis_of_runs_at_chance(tmp_path):
    write_run(tmp_path / "a", ["norm=none"], 0.1, status=diagnosed("initial", "fc", "cannot_learn"))
    nothing = {"diagnosis": Diagnosis("cannot_learn", "nothing", "the run did not learn").as_json()}
    write_run(tmp_path / "b", ["norm=batch"], 0.1, status=nothing, started=1)
    _, _, terminal = outputs(tmp_path)
    assert "did not learn: initial signal (gradient_std of fc at step 12), 1 of 1 run" in terminal
    assert "did not learn: no anomaly observed, 1 of 1 run" in terminal


def test_damaged_evidence_is_ignored(tmp_path):
    damaged = {"contradictions": "none", "initial_verdict": ["fades"]}
    write_run(tmp_path / "a", ["norm=none"], 0.5, summary=damaged, status={"diagnosis": "growth"})
    write_run(
        tmp_path / "b", [], 0.6, summary={"contradictions": None, "initial_verdict": {}}, status={"diagnosis": {}}, started=1
    )
    page, _, terminal = outputs(tmp_path)
    assert set(table_rows(page)) == {"baseline", "norm=none"}
    assert "warning" not in terminal


def test_every_arm_has_its_verdict_at_initialisation_beside_the_heat_maps(tmp_path):
    for seed, verdict in enumerate((FADES, FADES, HEALTHY)):
        write_run(tmp_path / f"none{seed}", ["norm=none", f"seed={seed}"], 0.5, summary={"initial_verdict": verdict})
    write_run(tmp_path / "batch", ["norm=batch"], 0.6, summary={"initial_verdict": HEALTHY})
    page, markdown, _ = outputs(tmp_path)
    assert "| norm=none | fades | 2 of 3 runs | the signal fades |" in markdown
    assert "| norm=batch (baseline) | healthy | 1 of 1 run | std is stable |" in markdown
    figures = page.split('<section id="figures">')[1].split("</section>")[0]
    assert "the signal fades" in figures
    assert figures.index("the signal fades") < figures.index("figure-activation_std")


def test_level_that_is_not_in_its_networks_is_not_better(tmp_path):
    write_arm(tmp_path, "batch", [[], [], []])
    write_arm(tmp_path, "group", [[NO_NORM], [NO_NORM], [NO_NORM]])
    _, _, terminal = outputs(tmp_path, replace(OPTIONS, baseline="norm=batch"))
    assert "not comparable" in terminal
    assert (
        "3 of 3 runs with norm=group contradict the configuration: norm=group, but the model contains no such layer" in terminal
    )


def test_weights_off_on_both_sides_are_no_difference_between_them(tmp_path):
    """The sentences differ in their numbers."""
    for width, std in (("4", 0.2), ("8", 0.3)):
        off = f"init=kaiming, but 3 layers do not have the requested weight std: conv1 {std} instead of 0.1."
        write_arm(tmp_path, "group", [[off]] * 3, f"model.width={width}")
    _, _, terminal = outputs(tmp_path, replace(OPTIONS, baseline="model.width=4"))
    assert "not comparable" not in terminal


def test_contradiction_that_both_sides_share_leaves_other_factors_comparable(tmp_path):
    for width in ("4", "8"):
        write_arm(tmp_path, "group", [[NO_NORM]] * 3, f"model.width={width}")
    _, _, terminal = outputs(tmp_path, replace(OPTIONS, baseline="model.width=4"))
    assert "not comparable" not in terminal
    assert "warning: 3 of 3 runs" in terminal
