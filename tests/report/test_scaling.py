"""Exponents of the signal against width and depth: wrong networks are caught, right ones are not, and theory is met."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Generator, Tensor, nn

from tests.harness import SMALL, train_in_process
from tests.report.folders import write_run
from train.figures.scaling import ExponentPanel, ExponentPoint, draw_exponents
from train.parts.contracts import Initializer
from train.report.history import read_histories
from train.report.make import make_report, read_study
from train.report.options import ReportOptions
from train.report.scaling.layers import Layers, places_by_depth
from train.report.scaling.measure import DEPTH, QUANTITIES, STATISTICS, TAGS, WIDTH, Group, Quantity, Series, groups_of
from train.report.scaling.sentences import conclusion
from train.report.scaling.slopes import slopes_of
from train.report.scaling.verdict import judge_group

Train = Callable[..., "subprocess.CompletedProcess[str]"]

WIDTHS, SEEDS, LAYERS = (16, 64, 256), 5, 3
OUTPUTS = [f"stage1.{kind}{n}" for n in range(1, LAYERS + 1) for kind in ("conv", "act")] + ["head"]
WEIGHTS = [name for name in OUTPUTS if "act" not in name]


@dataclass(frozen=True)
class Net:
    """A made-up network: exponents of a layer's statistics, by the number of its layer from 0 to `LAYERS` (the head).

    `first`, `last`: whether they hold at the first and at the last observed step; elsewhere they are 0.
    """

    output: Callable[[int], float] = lambda _: 0.0
    gradient: Callable[[int], float] = lambda layer: -0.5 if layer < LAYERS else 0.0
    update: Callable[[int], float] = lambda layer: -0.5 if layer == 0 else 0.0
    noise: float = 0.004
    first: bool = True
    last: bool = True


def number(layer: str) -> int:
    return LAYERS if layer == "head" else int(layer[-1]) - 1


def record(net: Net, width: int, step: int, generator: random.Random) -> dict[str, float]:
    holds = net.first if step == 0 else net.last

    def value(exponent: float) -> float:
        return math.exp(exponent * math.log(width) * holds + generator.gauss(0, net.noise))

    values = {f"activation_std/{name}": value(net.output(number(name))) for name in OUTPUTS}
    values |= {f"gradient_std/{name}": value(net.gradient(number(name))) for name in OUTPUTS}
    values |= {f"update_ratio/{name}": 1e-3 * value(net.update(number(name))) for name in WEIGHTS}
    return values | dict.fromkeys((f"weight_std/{name}" for name in WEIGHTS), 0.1)


def write_study(folder: Path, net: Net, *, change: Callable[[int, int, dict[str, float]], None] | None = None) -> Path:
    """Write the runs of a study of the width. `change(width, step, values)`: alters a record."""
    generator = random.Random(0)
    for width in WIDTHS:
        for seed in range(SEEDS):
            run = write_run(folder / f"{width}-{seed}", [f"model.width={width}", f"seed={seed}"])
            with (run / "metrics.jsonl").open("w") as file:
                for step in (0, 7):
                    values = record(net, width, step, generator)
                    if change is not None:
                        change(width, step, values)
                    line = {"step": step, "epoch": 0.0, "time_s": 1.0, "values": values}
                    file.write(json.dumps(line).replace("NaN", '"NaN"') + "\n")
                last = {"step": 20, "epoch": 1.0, "time_s": 2.0}
                file.writelines(json.dumps(last | {"values": {f"loss/{split}": 1.0}}) + "\n" for split in ("train", "test"))
            summary = json.loads((run / "summary.json").read_text()) | {"steps": 20}
            summary["expected_signal"] = {
                name: {"std": width ** net.output(number(name)), "gradient_std": width ** net.gradient(number(name))}
                for name in OUTPUTS
            }
            (run / "summary.json").write_text(json.dumps(summary))
            config = run / "config.yaml"
            config.write_text(config.read_text().replace("record_every: 20", "record_every: 100"))
    return folder


def lose(run: Path, at: int) -> None:
    """Let a run diverge before step `at`."""
    status = run / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"status": "diverged", "reason": "the loss was not finite"}))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] < at))
    (run / "summary.json").unlink()


def text_of(folder: Path) -> str:
    """Return the conclusion, the heading first. Drawing the page would take longer than all else."""
    study = read_study([folder], ReportOptions())
    groups = list(groups_of(study, read_histories(study.runs, (), STATISTICS), WIDTH))
    ((slopes,), (group,)) = slopes_of(groups), groups
    found = conclusion(judge_group(group, slopes, WIDTH), WIDTH)
    return "\n".join([f"{found.subject}: {found.heading}", *(remark.sentence for remark in found.remarks)])


RIGHT: Mapping[str, Net] = {
    "kaiming": Net(),
    "an update of constant effect": Net(update=lambda layer: -0.5 if layer < LAYERS else 0.0),
    "a gradient that the head divides by the width": Net(gradient=lambda layer: -1.0 if layer < LAYERS else 0.0),
    "a change that does not matter": Net(output=lambda _: 0.15),
}
WRONG: Mapping[str, tuple[Net, str]] = {
    "a fixed std": (Net(output=lambda layer: layer / 2), "the output of head grows as width^1.5"),
    "std 1 / fan_in": (Net(output=lambda layer: -layer / 2), "the output of head fades as width^\N{MINUS SIGN}1.5"),
    "a head that is too large": (Net(output=lambda layer: 0.5 * (layer == LAYERS)), "the output of head grows as width^0.5"),
    "AdamW": (Net(update=lambda layer: 0.5 * (layer == 2)), "the update of stage1.conv3 grows as width^0.5"),
    "an update that vanishes": (Net(update=lambda _: -1.0), "fades as width^\N{MINUS SIGN}1.0"),
    "a gradient that grows backward": (
        Net(gradient=lambda layer: (LAYERS - layer) / 2),
        "the gradient of stage1.conv1 relative to the last hidden layer grows as width^1.0",
    ),
    "only after steps": (Net(output=lambda layer: 0.4 * (layer == 1), first=False), "after 7 steps"),
    "only at step 0": (Net(output=lambda layer: 0.4 * (layer == 1), last=False), "at step 0"),
    "small but clear": (Net(output=lambda layer: 0.3 * (layer == 1)), "grows as width^0.3"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_network_transfers(name: str, tmp_path: Path) -> None:
    text = text_of(write_study(tmp_path / "s", RIGHT[name]))
    assert text.startswith("width 16 to 256: transfers"), text
    assert "grows in" not in text
    assert "fades in" not in text


@pytest.mark.parametrize("name", WRONG)
def test_wrong_network_is_caught_and_the_layer_named(name: str, tmp_path: Path) -> None:
    net, sentence = WRONG[name]
    text = text_of(write_study(tmp_path / "s", net))
    heading = text.splitlines()[0]
    assert heading.startswith("width 16 to 256: does not transfer: "), text
    assert sentence in heading


def test_spread_that_hides_a_change_is_undecided(tmp_path: Path) -> None:
    text = text_of(write_study(tmp_path / "s", Net(noise=0.5)))
    assert "undecided: the interval of" in text.splitlines()[0]


@pytest.mark.parametrize("exponent", [0.2, -0.2, 0.3, -0.3])
def test_change_that_may_not_matter_is_undecided(exponent: float, tmp_path: Path) -> None:
    """The interval excludes 0, and does not tell on which side of the margin the exponent is."""
    text = text_of(write_study(tmp_path / "s", Net(output=lambda layer: exponent * (layer == 1), noise=0.15)))
    assert text.startswith("width 16 to 256: undecided: "), text


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_signal_that_is_lost_is_caught(value: float, tmp_path: Path) -> None:
    def change(width: int, step: int, values: dict[str, float]) -> None:
        if width == WIDTHS[-1] and step:
            values["activation_std/stage1.act2"] = value

    folder = write_study(tmp_path / "s", Net(), change=change)
    for file in folder.glob("*/metrics.jsonl"):
        file.write_text(file.read_text().replace("Infinity", '"Infinity"'))
    text = text_of(folder)
    lost = "the output of stage1.act2 is 0 or not finite after 7 steps in 5 of 15 runs"
    assert f"does not transfer: {lost}" in text.splitlines()[0]
    assert f"std of the output after 7 steps: it is lost in 1 of 7 layers; most: {lost}" in text


@pytest.mark.parametrize("net", [Net(), Net(gradient=lambda layer: LAYERS - layer)], ids=["keeps", "grows"])
def test_verdict_on_gradients_says_what_they_are_relative_to(net: Net, tmp_path: Path) -> None:
    """The exponents of a sentence are not those of the table, nor those that theory speaks of."""
    (line,) = (line for line in text_of(write_study(tmp_path / "s", net)).splitlines() if "gradient" in line and "theory" in line)
    assert line.startswith("std of the gradient relative to the last hidden layer at step 0: ")
    assert re.search(r"theory expects \S+ to \S+ of the gradients themselves for", line)


def test_layers_that_may_change_little_are_not_said_to_show_no_change(tmp_path: Path) -> None:
    generator = random.Random(1)

    def change(width: int, step: int, values: dict[str, float]) -> None:  # noqa: ARG001
        values["activation_std/stage1.act2"] *= math.exp(generator.gauss(0, 0.5))

    text = text_of(write_study(tmp_path / "s", Net(output=lambda _: 0.15), change=change))
    assert "the intervals of 1 of 7 layers" in text
    assert "are too wide for a verdict, and the others keep it" in text


def test_page_has_theory_tables_figures_and_numbers(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", Net(output=lambda layer: layer / 2))
    lose(folder / "256-0", at=7)
    other = folder / "256-1" / "status.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"git": {"commit": "fedcba9876543210"}}))
    text = make_report([folder], folder, ReportOptions(analysis="width"))[1]
    assert "theory expects 0.00 to 1.50 for 7 layers, and is off by at most 0.0" in text
    page, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "Does the signal keep its size as the width grows?" in page
    assert page.count("<figure") == 2
    assert (
        "1 of 5 runs at width 256 diverged: what is said of the signal after 7 steps is that of runs that got there" in markdown
    )
    assert "Runs differ in versions of the code" in markdown
    assert "Compared is the size of signals at step 0 and after 7 steps, and no accuracy" in markdown
    assert "| **stage1.act3** | **1.0" in markdown
    rows = (folder / "width.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * (2 * len(OUTPUTS) + len(WEIGHTS))
    assert {path.name for path in (folder / "figures").iterdir()} == {"exponents.svg", "sizes.svg"}
    make_report([folder], folder, ReportOptions(tensorboard=False))
    assert "<h2>Arms</h2>" in (folder / "report.html").read_text()


def test_depths_are_compared_at_the_same_relative_depth() -> None:
    """In a residual net at the ends of blocks: in their middle stands a branch, not the sum."""

    def resnet(blocks: int) -> Layers:
        outputs = ["stem.conv", "stem.act"]
        for block in range(1, blocks + 1):
            outputs += [f"s.block{block}.{name}" for name in ("conv1", "act1", "conv2", "act2")]
        return Layers((*outputs, "head"), tuple(name for name in (*outputs, "head") if "act" not in name))

    places = places_by_depth({8.0: resnet(4), 14.0: resnet(8), 26.0: resnet(16)})
    outputs = [tuple(place.names.values()) for place in places if "activation_std" in place.statistics]
    assert outputs[0] == ("stem.act",) * 3
    assert outputs[2] == ("s.block2.act2", "s.block4.act2", "s.block8.act2")
    assert outputs[4] == ("s.block4.act2", "s.block8.act2", "s.block16.act2")
    assert outputs[5] == ("head",) * 3


@pytest.mark.parametrize(("net", "heading"), [(WRONG["std 1 / fan_in"][0], "the output of head fades"), (Net(), "is 0 or not")])
def test_lost_update_is_named_before_all_else_only_if_it_is_all(net: Net, heading: str, tmp_path: Path) -> None:
    def change(width: int, step: int, values: dict[str, float]) -> None:
        if width == WIDTHS[-1] and step == 0:
            values["update_ratio/stage1.conv1"] = 0.0

    text = text_of(write_study(tmp_path / "s", net, change=change)).splitlines()[0]
    assert heading in text


def test_places_of_depths_are_named_in_plain_words() -> None:
    def net(depth: int) -> Layers:
        layers = [f"{kind}{n}" for n in range(depth) for kind in ("conv", "act")]
        return Layers((*layers, "head"), (*(name for name in layers if "conv" in name), "head"))

    logs = {8.0: (0.0, 0.01, 0.02), 26.0: (2.0, 2.01, 2.02)}
    headings = []
    for place in places_by_depth({8.0: net(7), 26.0: net(25)}):
        measured: list[Quantity] = [known for known in QUANTITIES if TAGS[known] in place.statistics]
        for quantity in measured:
            relative = logs if quantity == "gradient" and place.is_hidden else {}
            group = Group("", (8.0, 26.0), (Series(quantity, 0, place, logs, relative, {}, 0),), (0,), {})
            headings.append(conclusion(judge_group(group, slopes_of([group])[0], DEPTH), DEPTH).heading)
    text = "\n".join(headings)
    assert "does not hold with depth: the output at the start grows as depth^1.70 (" in text
    assert "the gradient of the output at 50 % of the depth relative to the last hidden layer grows" in text
    assert "the update of the weights at 75 % of the depth grows" in text
    assert "the std of the logits grows" in text
    assert "the update of the weights of the logits grows" in text
    labels = [place.label for place in places_by_depth({8.0: net(7), 26.0: net(25)})]
    svg = draw_exponents([ExponentPanel("", {"output": [ExponentPoint(labels[0], 0, 0, 0, 0)]})], labels, "exponent")
    assert b"<!-- weights at 75 % of the depth -->" in svg


REFUSED = {
    "no width": (["model=torchvision", "model.name=resnet18"], "model.width"),
    "one width": (["model.width=16"], "model.width is not varied, and an exponent needs at least two"),
    "the same twice": (["model.width=16,16"], "model.width has 1 level"),
    "not observed": (["model.width=16,32", "observe=off"], "observe.every=0 measures no layer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_plan_that_shows_nothing_of_the_width_is_refused(name: str, train: Train, tmp_path: Path) -> None:
    typed, reason = REFUSED[name]
    result = train("study=width", *typed, "seed=0")
    assert result.returncode == 2, result.stdout + result.stderr
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "outputs").exists()


def power_of_fan_in(exponent: float) -> Initializer:
    """Return an init of std fan_in^exponent; -1/2 keeps the size of the signal through linear layers."""

    def init(model: nn.Module, images: Tensor, generator: Generator) -> None:  # noqa: ARG001
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, module.in_features**exponent, generator=generator)
                nn.init.zeros_(module.bias)

    return init


MLP = ["model=mlp", "model.depth=4", "norm=none", "observe=basic", "trainer.max_steps=2", "trainer.precision=float32"]
REAL = {
    "kaiming": (["init=kaiming"], 0.0),
    "a fixed std": (["init=gaussian", "init.std=0.05"], 0.5),
    "std 1 / fan_in": (
        ["init=pytorch", "~init.zero_gamma", f"init._target_={__name__}.power_of_fan_in", "+init.exponent=-1"],
        -0.5,
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", REAL)
def test_theorys_exponents_are_met_by_real_runs(name: str, tmp_path: Path) -> None:
    """The first layer sees the image, of the same size in all networks; each layer behind it adds the exponent of the init."""
    typed, per_layer = REAL[name]
    for width in (64, 256, 1024):
        for seed in range(4):
            shape = [f"model.width={width}", f"seed={seed}", "trainer.batch_size=64", "data.train_size=96"]
            train_in_process(tmp_path / "s" / f"{width}-{seed}", [*SMALL, *MLP, *typed, *shape])
    study = read_study([tmp_path / "s"], ReportOptions())
    (group,) = groups_of(study, read_histories(study.runs, (), STATISTICS), WIDTH)
    for slope in slopes_of([group])[0]:
        series = slope.series
        if series.step == 0 and series.quantity == "activation" and series.place.label != "head":
            assert slope.exponent is not None
            assert slope.exponent.estimate == pytest.approx(per_layer * (int(series.place.label[-1]) - 1), abs=0.05)
            assert slope.expected == pytest.approx(slope.exponent.estimate, abs=0.05)


def test_run_that_is_not_scored_ends_without_a_score_and_with_theory(tmp_path: Path) -> None:
    run = train_in_process(tmp_path / "run", [*SMALL, *MLP, "trainer.score_test=false", "model.width=8"])
    status, summary = (json.loads((run.path / f"{name}.json").read_text()) for name in ("status", "summary"))
    assert (status["status"], status["exit_code"]) == ("done", 0)
    assert summary["test_accuracy"] is None
    assert "test_correct_by_class" not in summary
    assert list(summary["expected_signal"]) == [f"{kind}{n}" for n in range(1, 5) for kind in ("fc", "act")] + ["head"]
    assert summary["expected_signal"]["act4"]["std"] > 0
