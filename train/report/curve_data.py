"""Selects what the figures of learning curves show of every arm. Importing this module imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from train.figures import curves as figure
from train.figures.style import ArmStyle, ReportFigure
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.history import Curve, SharedCurve, shared_curve
from train.report.selection import extremes, spread_out
from train.store.run import Run
from train.tags import split

CURVES = (
    ("accuracy/val", "validation accuracy", "accuracy_val"),
    ("loss/train", "training loss", "loss_train"),
)

MOST_LINES = 20
"""Up to this many curves of an arm are drawn one by one."""

SHARE = 0.8
"""Of the runs of an arm that trained with more curves: the part that the band covers."""


def draw_curves(analysis: Analysis, styles: Mapping[str, ArmStyle]) -> Iterator[ReportFigure]:
    """Yield one figure with all arms, or one for each chart with a panel for each arm."""
    charts = [chart for tag, title, _ in CURVES if (chart := _chart(analysis, styles, tag, title)) is not None]
    if not charts:
        return
    caption = _caption(any(len(arm.runs) > MOST_LINES for arm in analysis.study.arms))
    if len(analysis.study.arms) <= figure.TOGETHER:
        names = " and ".join(chart.title for chart in charts)
        svg = figure.draw_together(charts)
        yield ReportFigure("curves", "Learning curves", caption, f"Learning curves: {names} over epochs, for each arm", svg)
        return
    files = {title: name for _, title, name in CURVES}
    for chart in charts:
        _, selection = extremes(analysis.ranked, figure.MOST_PANELS)
        yield ReportFigure(
            f"curves_{files[chart.title]}",
            f"Learning curves: {chart.title}",
            f"{caption} Dashed: the baseline's mean.{selection}",
            f"{chart.title} over epochs, one panel per arm",
            figure.draw_panels(chart),
        )


def _caption(is_capped: bool) -> str:
    cross = "A cross marks where a run ended early"
    if not is_capped:
        return f"Thin lines: single runs. Thick lines: mean of the runs that trained. {cross}."
    return (
        f"Thick lines: mean of the runs that trained. Thin lines: single runs. Of an arm with more than {MOST_LINES} runs, the "
        f"band covers the middle {100 * SHARE:.0f} % of those that trained instead, at each step, and of the others at most "
        f"{MOST_LINES} are drawn. {cross}."
    )


def _chart(analysis: Analysis, styles: Mapping[str, ArmStyle], tag: str, title: str) -> figure.Chart | None:
    arms, _ = extremes(analysis.ranked, figure.MOST_PANELS)
    drawn = [_arm_curves(analysis, arm, styles[arm.id], tag) for arm in arms]
    return figure.Chart(title, split(tag)[0] == "accuracy", drawn) if any(arm.lines or arm.band for arm in drawn) else None


def _arm_curves(analysis: Analysis, arm: Arm, style: ArmStyle, tag: str) -> figure.ArmCurves:
    recorded = [(run, curve) for run in arm.runs if (curve := analysis.history(run).curves.get(tag)) is not None]
    averaged = {run.folder for run in analysis.averaged_runs(arm)}
    shared = shared_curve([curve for run, curve in recorded if run.folder in averaged])
    mean = list(zip(shared.epochs.tolist(), shared.means().tolist(), strict=True)) if shared else []
    if len(recorded) <= MOST_LINES or not mean:
        return figure.ArmCurves(style, _lines(spread_out(recorded, MOST_LINES)), mean)
    others = [(run, curve) for run, curve in recorded if run.folder not in averaged]
    return figure.ArmCurves(style, _lines(spread_out(others, MOST_LINES)), mean, band_of(shared) if shared else ())


def _lines(recorded: Sequence[tuple[Run, Curve]]) -> list[figure.CurveLine]:
    return [figure.CurveLine(curve.epochs, curve.values, run.state == "done") for run, curve in recorded]


def band_of(curve: SharedCurve) -> list[tuple[float, float, float]]:
    """Return (epoch, low, high) at every point: values of runs, between which at least `SHARE` of the runs lie."""
    ordered = np.sort(curve.values, axis=0)
    outside = int(len(ordered) * (1 - SHARE) / 2 + 1e-9)  # rounded down: the band is never too narrow
    low, high = ordered[outside], ordered[len(ordered) - 1 - outside]
    return list(zip(curve.epochs.tolist(), low.tolist(), high.tolist(), strict=True))
