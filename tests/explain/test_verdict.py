"""The verdict and the layer table of step 0: on hand-made values with a known answer, and on runs of the lecture's networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.harness import thresholds_for, train_in_process
from train.explain.layer_table import render_table, thin_rows
from train.explain.verdict import describe, hidden_rows, judge, layer_rows
from train.observe.layers import LayerInfo
from train.observe.theory.recursion import Expected
from train.store.metrics import read_records


def stack(stds: list[float], gradients: list[float] | None = None, **others: list[float]) -> dict[str, float]:
    """Return values of fc1, act1, fc2, ... with the given stds and gradient stds at the activations."""
    values: dict[str, float] = {}
    for number, std in enumerate(stds, start=1):
        values |= {f"activation_std/fc{number}": 2 * std, f"activation_std/act{number}": std, f"weight_std/fc{number}": 0.1}
        for statistic, series in others.items():
            values[f"{statistic}/act{number}"] = series[number - 1]
        if gradients:
            values[f"gradient_std/act{number}"] = values[f"gradient_std/fc{number}"] = gradients[number - 1]
    return values


THRESHOLDS = thresholds_for()
LECTURE = [0.492, 0.289, 0.179, 0.113, 0.072, 0.046]


def test_layer_rows_have_kind_and_ratio_to_the_previous_layer():
    rows = layer_rows(stack(LECTURE))
    assert [row.layer for row in rows[:3]] == ["fc1", "act1", "fc2"]
    assert [row.layer for row in hidden_rows(rows)] == [f"act{i}" for i in range(1, 7)]
    assert rows[1].ratio is None
    assert rows[5].ratio == pytest.approx(0.179 / 0.289)
    assert rows[4].ratio == pytest.approx(0.179 / 0.289)


def test_layer_rows_take_order_and_kind_from_layer_infos():
    layers = [LayerInfo("fc1", "linear", ""), LayerInfo("act1", "activation", "tanh"), LayerInfo("unused", "linear", "")]
    rows = layer_rows({"activation_std/act1": 1.0, "activation_std/fc1": 2.0}, layers)
    assert [(row.layer, row.weighted, row.function) for row in rows] == [("fc1", True, ""), ("act1", False, "tanh")]


@pytest.mark.parametrize(
    ("values", "kind", "layer", "text"),
    [
        (stack(LECTURE), "fades", "act5", "std falls by x0.62 per layer, from 0.49 (act1) to 0.046 (act6)"),
        (
            stack([1.0] * 6, [0.5, 1, 1, 1, 1, 1.0])
            | {"activation_std/head": 9.0, "gradient_std/head": 200.0, "weight_std/head": 1.0},
            "healthy",
            "",
            "healthy: std stays about the same per layer, from 1 (act1) to 1 (act6); 0.5 of the gradient std at act6 reaches "
            "act1 (not judged: the head, and any pooling before it, pass on 0.005 of the output's)",
        ),
        (stack([1.01**i for i in range(60)]), "healthy", "", "std stays about the same per layer, from 1 (act1) to 1.8 (act60)"),
        (stack([1.04**i for i in range(60)]), "explodes", "act43", "the signal explodes: std grows by x1.04 per layer"),
        (stack([0.96**i for i in range(60)]), "fades", "act41", "the signal fades: std falls by x0.96 per layer"),
        (stack([0.996**i for i in range(600)]), "fades", "act403", "the signal fades: std falls by x0.996 per layer"),
        (stack([1.0] * 600, [1.01**i for i in range(600)]), "gradient_fades", "act1", "its std falls by x0.99 per layer"),
        (stack([1.0, 3.0, 9.0]), "explodes", "act3", "std grows by x3 per layer"),
        (stack([1.0] * 3, [1e-4, 1e-2, 1.0]), "gradient_fades", "act1", "backward its std falls by x0.01 per layer"),
        (stack([1.0] * 3, [1e4, 1e2, 1.0]), "gradient_explodes", "act1", "backward its std grows by x1e+02 per layer"),
        (stack([1.0] * 3, activation_saturated=[0.1, 0.85, 0.4]), "saturated", "act2", "85 % of the outputs of act2"),
        (stack([1.0] * 3, activation_dead=[0.1, 0.6, 0.97]), "dead", "act3", "97 % of the channels of act3"),
        (stack([1.0, math.nan, math.nan]), "broken", "fc2", "fc2 is the first layer whose outputs are not all finite"),
        (stack([1.0] * 3, [math.nan, math.nan, 1.0]), "broken", "act2", "whose gradients are not all finite"),
        (stack([0.0, 0.0]), "fades", "act1", "the std is 0 at act1"),
        (stack([1.0] * 3, [0.0, 0.0, 0.0]), "gradient_fades", "act3", "no gradient: its std is 0 at act3"),
        (stack([1.0] * 3, [0.0, 0.0, 1.0]), "gradient_fades", "act2", "no gradient: its std is 0 at act2"),
        (stack([1.0] * 3, [1.0, 0.0, 1.0]), "healthy", "", "1 of the gradient std at act3 reaches act1"),
        (stack([1.0], [0.0]), "gradient_fades", "act1", "no gradient: its std is 0 at act1"),
        (
            {"activation_std/head": 1.0, "weight_std/head": 0.1, "gradient_std/head": 0.0},
            "gradient_fades",
            "head",
            "no gradient: its std is 0 at head",
        ),
        ({"activation_std/head": 1.0, "weight_std/head": 0.1}, "healthy", "", "no hidden layers"),
        ({}, "healthy", "", "no hidden layers"),
    ],
)
def test_judge_verdicts(values, kind, layer, text):
    verdict = judge(layer_rows(values), THRESHOLDS)
    assert (verdict.kind, verdict.layer) == (kind, layer)
    assert text in verdict.sentence


def test_thresholds_are_applied_and_described():
    assert judge(layer_rows(stack(LECTURE)), thresholds_for(fade=0.01)).kind == "healthy"
    assert "below x0.01 fades" in describe(thresholds_for(fade=0.01))
    assert describe(THRESHOLDS).startswith("heuristics:")


@pytest.mark.parametrize("fade", [1e-4, 0.01, 0.5])
@pytest.mark.parametrize("head", [1e-6, 1.0, 1e6])
def test_judge_prints_the_number_that_it_judges(fade, head):
    """The verdict agrees with the rule that is printed beside it, whatever the layers behind the last hidden one do."""
    for reaching in (2 * fade, 0.5 * fade):
        values = stack([1.0] * 3, [reaching, 1.0, 1.0]) | {
            "activation_std/head": 1.0,
            "weight_std/head": 1.0,
            "gradient_std/head": head,
        }
        verdict = judge(layer_rows(values), thresholds_for(gradient_fade=fade))
        printed = float(verdict.sentence.partition(" of the gradient std at act3 reaches act1")[0].split()[-1])
        assert (verdict.kind == "gradient_fades") == (printed < fade), verdict.sentence


def test_judge_quotes_theory_where_it_covers_the_layer():
    values = stack(LECTURE, [0.1] * 6)
    gradients = [Expected("fc1", 0.0, 1.0, 0.0125), Expected("act1", 0.0, None, 0.5), Expected("act6", None, None, 0.2)]
    expected = [Expected("act5", None, 0.073, None), *gradients]
    sentence = judge(layer_rows(values), THRESHOLDS, expected).sentence
    assert "theory expects std 0.073 at act5 and 2.5 of the gradient std at act1" in sentence
    sentence = judge(layer_rows(values), THRESHOLDS, expected[:-1]).sentence
    assert sentence.endswith("theory expects std 0.073 at act5"), "the gradient's change is unknown"
    assert "theory" not in judge(layer_rows(values), THRESHOLDS).sentence


def table_texts(values: dict[str, float], width: int, unicode: bool = True) -> list[str]:
    return [line.text for line in render_table(layer_rows(values), width, THRESHOLDS, unicode)]


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [12, 20, 40, 60, 80, 140])
def test_render_table_fits_and_keeps_name_and_std(width, unicode):
    values = stack(LECTURE * 20, LECTURE * 20, activation_dead=[0.5] * 120, activation_saturated=[0.004] * 120)
    values = {tag.replace("/", "/stage1.block1."): value for tag, value in values.items()}
    lines = table_texts(values, width, unicode)
    assert max(map(len, lines)) <= width
    assert unicode or all(line.isascii() for line in lines)
    assert width < 40 or any("fc1" in line and "0.984" in line for line in lines)
    assert ("dead" in lines[0]) == (width >= 80)


def test_render_table_bars_are_logarithmic():
    lines = table_texts(stack([1.0, 0.1, 0.01, 0.0, math.nan]), 80, unicode=False)
    heading, rows = lines[0], [line for line in lines if line.startswith("act")]
    assert heading.split()[:3] == ["layer", "0.01", "10"]
    assert [line.count("#") for line in rows] == [16, 8, 0, 0, 0]  # of 24, over three decades
    assert [line.split()[1] for line in rows[2:]] == ["|", "|", "nan"]
    assert [line.tone for line in render_table(layer_rows(stack([1.0, math.nan])), 80, THRESHOLDS)] == [
        "head",
        "normal",
        "normal",
        "bad",
        "bad",
    ]


def test_thin_rows_keeps_first_last_and_first_broken_unit():
    """Units, a weighted layer with its activations, are kept or dropped as one."""
    stds = [1.0] * 110
    stds[56] = math.inf
    rows = layer_rows(stack(stds))
    kept, every = thin_rows(rows, 24)
    names = [row.layer for row in kept]
    assert len(kept) <= 24
    assert {"fc1", "act1", "fc57", "act57", "fc110", "act110"} <= set(names)
    assert [f"fc{1 + i * every}" in names for i in range(110 // every)] == [True] * (110 // every)
    assert table_texts(stack(stds), 80)[-1] == f"{220 - len(kept)} of 220 layers omitted: one weighted layer in {every} is shown"


@pytest.mark.parametrize(("init", "kind"), [("gaussian", "fades"), ("xavier", "healthy")])
def test_judge_the_lecture_network_in_a_real_run(init, kind, tmp_path: Path):
    std = ["init.std=0.04"] if init == "gaussian" else []  # 0.01 at width 4096
    size = ["data.shape=[256,1,1]", "model.width=256"]
    run = train_in_process(tmp_path / "run", ["experiment=lecture_init", f"init={init}", *std, *size])
    rows = layer_rows(next(read_records(run.metrics_file)).values)
    assert [row.layer for row in hidden_rows(rows)] == [f"act{i}" for i in range(1, 7)]
    assert rows[-1].layer == "head"
    verdict = judge(rows, THRESHOLDS)
    assert verdict.kind == kind
    assert "of the gradient std at act6 reaches act1" in verdict.sentence
