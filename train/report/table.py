"""Build the rows of the report's tables as text, shared by the page, the Markdown file and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from train.naming import BASELINE
from train.report import table_text
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.contracts import Effect
from train.report.evidence import SignalRow, lost_finding, run_finding, signal_row, unhealthy_signal
from train.report.grid_contracts import named
from train.report.metric import as_float
from train.report.run_rows import RunRow
from train.report.selection import MOST_DOTS, MOST_OPEN_ROWS, Shown, baseline_in_first, first_of, spread_out
from train.report.tuning_text import level_note
from train.store.run import Run
from train.text import exact_duration, scaled, size


@dataclass(frozen=True)
class Dot:
    """One run on the scale that all rows share; `position` is from 0 to 1."""

    position: float
    text: str


@dataclass(frozen=True)
class ArmRow:
    """One arm. Unknown values are an en dash. `dots`: of its runs, or of some as `dots_note` says."""

    number: int
    arm: Arm
    label: str
    levels: str
    """All levels, for a baseline whose name does not include them."""
    tuned_level: str
    """With tuned keys, the level at which the arm is compared."""
    signal: str
    """An unhealthy signal at initialisation."""
    why: str
    """Why runs diverged or did not learn, and where that began."""
    done: int
    diverged: int
    failed: int
    incomplete: int
    mean: str
    uncertainty: str
    """With its sign: the standard error, or an interval."""
    sd: str
    dots: tuple[Dot, ...]
    dots_note: str
    mean_position: float
    difference: str
    interval: str
    excludes_zero: bool
    p: str
    probability_better: str
    probability_interval: str
    trained: str
    trained_interval: str
    divergence_rate: str
    divergence_interval: str
    parameters: str
    flops: str
    time: str
    memory: str


@dataclass(frozen=True)
class EffectRow:
    """A row of the table of main effects, interactions or pairs."""

    name: str
    difference: str
    interval: str
    p: str
    detectable: str
    excludes_zero: bool
    note: str


def rows(analysis: Analysis, most: int) -> Shown[ArmRow]:
    """Return a row for every arm, best first, of at most so many arms; the baseline's is among those that are open."""
    values = [analysis.value(run) for arm in analysis.study.arms for run in analysis.runs_with_value(arm)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    numbered = list(enumerate(analysis.ranked, start=1))
    shown = first_of(baseline_in_first(numbered, min(most, MOST_OPEN_ROWS)), most)
    return Shown(tuple(_arm_row(analysis, arm, row_number, low, high) for row_number, arm in shown), shown.more)


def signals(analysis: Analysis) -> tuple[SignalRow, ...]:
    """Return the verdict at initialisation of every arm that has one, in the order of the table."""
    found = (signal_row(analysis.study.labels[arm.id], arm.runs) for arm in analysis.ranked)
    return tuple(row for row in found if row is not None)


def _arm_row(analysis: Analysis, arm: Arm, row_number: int, low: float, high: float) -> ArmRow:
    metric, sample = analysis.metric, analysis.samples[arm.id]
    comparison = analysis.comparisons.get(arm.id)
    mean, sd = analysis.mean(arm), analysis.sd(arm)
    rate, trained = analysis.rates[arm.id], analysis.training(arm)
    compared = comparison if arm.id in analysis.comparable else None
    better = compared.probability_better if compared and metric.higher_is_better is not None else None
    done, images = arm.runs_in("done"), analysis.wording.facts.test_size
    width = high - low

    def position(value: float) -> float:
        return (value - low) / width if width else 0.5

    measured = analysis.runs_with_value(arm)
    shown = measured if len(measured) <= MOST_DOTS else spread_out(sorted(measured, key=analysis.value), MOST_DOTS)
    dots = [Dot(position(value := analysis.value(run)), f"seed {run.seed}: {table_text.value(metric, value)}") for run in shown]
    dots_note = "" if shown is measured else f"{len(measured):,} runs, of which {MOST_DOTS} are shown"
    return ArmRow(
        number=row_number,
        arm=arm,
        label=analysis.study.labels[arm.id],
        levels=arm.all_levels if analysis.study.labels[arm.id] == BASELINE else "",
        tuned_level=level_note(arm.choice) if arm.choice else "",
        signal=unhealthy_signal(arm.runs),
        why=lost_finding(arm.runs, {run.folder for run in done if analysis.outcomes[run.folder].trained}),
        done=len(done),
        diverged=sample.diverged,
        failed=sample.failed,
        incomplete=sample.missing,
        mean=table_text.bare(metric, mean),
        uncertainty=table_text.uncertainty(metric, mean, sd, len(sample.values), images),
        sd=table_text.bare(metric, sd),
        dots=tuple(dots),
        dots_note=dots_note,
        mean_position=position(mean) if math.isfinite(mean) else -1.0,
        difference=table_text.difference(metric, comparison.difference) if comparison else table_text.UNKNOWN,
        interval=table_text.interval(metric, comparison) if comparison else "",
        excludes_zero=compared is not None and compared.excludes_zero,
        p=table_text.p_value(compared.p_adjusted if compared else None),
        probability_better=f"{better.value:.2f}" if better else table_text.UNKNOWN,
        probability_interval=f"[{better.low:.2f}, {better.high:.2f}]" if better else "",
        trained=table_text.trained(trained) if trained else table_text.UNKNOWN,
        trained_interval=table_text.rate_interval(trained) if trained else "",
        divergence_rate=table_text.rate(rate),
        divergence_interval=table_text.rate_interval(rate),
        parameters=_span((as_float(run.summary.get("parameters")) for run in done), scaled),
        flops=_span((as_float(run.summary.get("flops_per_image")) for run in done), scaled),
        time=table_text.known(exact_duration, _average(as_float(run.summary.get("time_s")) for run in done)),
        memory=table_text.known(
            size,
            max([b for run in done if math.isfinite(b := as_float(run.summary.get("peak_memory_bytes")))], default=math.nan),
        ),
    )


def unknown(analysis: Analysis) -> tuple[str, ...]:
    """Return why differences to the baseline have no interval, each reason once, and none that a claim gives."""
    claimed = " ".join(claim.sentence for claim in analysis.claims)
    reasons = dict.fromkeys(comparison.note for comparison in analysis.comparisons.values())
    return tuple(reason for reason in reasons if reason and reason not in claimed)


def main_effects(analysis: Analysis) -> tuple[EffectRow, ...]:
    if analysis.grid is None:
        return ()
    claims = {(claim.factor, level.level): level.verdict for claim in analysis.claims for level in claim.levels}
    rows = []
    for e in analysis.grid.main:
        note, is_compared = _averaged(e.combinations, e.of_combinations), claims.get((e.factor, e.level)) != "not_comparable"
        name = f"{e.factor}: {e.level} against {e.baseline}"
        rows.append(_effect_row(analysis, name, e, note, is_compared=is_compared))
    return tuple(rows)


def interactions(analysis: Analysis) -> tuple[EffectRow, ...]:
    if analysis.grid is None:
        return ()
    return tuple(
        _effect_row(
            analysis,
            f"{named(e.first, e.first_level)} (against {e.first_baseline}) with "
            f"{named(e.second, e.second_level)} (against {e.second_baseline})",
            e,
        )
        for e in analysis.grid.interactions
    )


def pairs(analysis: Analysis, most: int) -> tuple[EffectRow, ...]:
    """Return rows of at most `most` pairs, those that differ most clearly."""
    labels, shown = analysis.study.labels, analysis.pairs.clearest(most) if analysis.pairs else ()
    return tuple(_effect_row(analysis, f"{labels[pair.first]} minus {labels[pair.second]}", pair) for pair in shown)


def _effect_row(analysis: Analysis, name: str, effect: Effect, note: str = "", *, is_compared: bool = True) -> EffectRow:
    metric = analysis.metric
    return EffectRow(
        name=name,
        difference=table_text.difference(metric, effect.difference),
        interval=table_text.interval(metric, effect),
        p=table_text.p_value(effect.p_adjusted if is_compared else None),
        detectable=table_text.difference(metric, effect.detectable).lstrip("+"),
        excludes_zero=effect.excludes_zero and is_compared,
        note="; ".join(part for part in (note, effect.note, "" if is_compared else "not comparable") if part),
    )


def _averaged(combinations: int, of_combinations: int) -> str:
    return f"over {combinations} of {of_combinations} combinations" if combinations < of_combinations else ""


def untrained_runs(analysis: Analysis) -> tuple[RunRow, ...]:
    """Return the completed runs that learned nothing."""
    return tuple(
        RunRow(str(run.folder), analysis.study.labels[arm.id], run.seed, run.state, _score(analysis, run))
        for arm in analysis.ranked
        for run in analysis.untrained_runs(arm)
    )


def _score(analysis: Analysis, run: Run) -> str:
    value = f"{analysis.metric.name} {table_text.value(analysis.metric, analysis.value(run))}"
    return "; ".join(filter(None, ("no step was made" if run.summary.get("steps") == 0 else value, run_finding(run))))


def _average(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _span(values: Iterable[float], form: Callable[[float], str]) -> str:
    finite = sorted({value for value in values if math.isfinite(value)})
    ends = [finite[0], finite[-1]] if len(finite) > 1 else finite
    return " to ".join(form(value).strip() for value in ends) or table_text.UNKNOWN
