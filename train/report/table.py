"""The table of arms and the lists around it, as text: the same for the page, the Markdown file and the terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from train.report import table_text
from train.report.analysis import Analysis
from train.report.arms import Arm
from train.report.collect import FAILED
from train.report.contracts import Effect
from train.report.metric import number
from train.report.tuning_text import level_note
from train.store.run import Run


@dataclass(frozen=True)
class Dot:
    """One run on the scale that all rows share; `place` from 0 to 1."""

    place: float
    text: str


@dataclass(frozen=True)
class ArmRow:
    """One arm. What is not known is an en dash; `note` says why."""

    number: int
    arm: Arm
    label: str
    levels: str
    """Of the baseline, since its label does not say them."""
    at: str
    """With tuned keys: at which levels of them it is compared."""
    done: int
    diverged: int
    failed: int
    unfinished: int
    mean: str
    standard_error: str
    sd: str
    dots: tuple[Dot, ...]
    mean_place: float
    difference: str
    interval: str
    clear: bool
    p: str
    better: str
    better_interval: str
    rate: str
    rate_interval: str
    parameters: str
    flops: str
    time: str
    memory: str
    note: str


@dataclass(frozen=True)
class EffectRow:
    """Of a table of main effects, interactions or pairs."""

    name: str
    difference: str
    interval: str
    p: str
    detectable: str
    clear: bool
    note: str


@dataclass(frozen=True)
class RunRow:
    """A run that is listed by itself: it failed, diverged, was interrupted or is going on."""

    folder: str
    arm: str
    seed: int
    state: str
    reason: str


def rows(analysis: Analysis) -> tuple[ArmRow, ...]:
    """Best first."""
    values = [value for sample in analysis.samples.values() for value in sample.values]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return tuple(_row(analysis, arm, place, low, high) for place, arm in enumerate(analysis.ranked, start=1))


def _row(analysis: Analysis, arm: Arm, place: int, low: float, high: float) -> ArmRow:
    metric, sample = analysis.metric, analysis.samples[arm.id]
    compared = analysis.comparisons.get(arm.id)
    mean, sd = analysis.mean(arm), analysis.sd(arm)
    rate = analysis.rates[arm.id]
    better = compared.probability_better if compared else None
    done = arm.having("done")
    width = high - low

    def at(value: float) -> float:
        return (value - low) / width if width else 0.5

    dots = [
        Dot(at(analysis.value(run)), f"seed {run.seed}: {table_text.value(metric, analysis.value(run))}")
        for run in analysis.valued(arm)
    ]
    return ArmRow(
        number=place,
        arm=arm,
        label=sample.arm,
        levels=arm.full_label if arm.is_baseline else "",
        at=level_note(arm.choice) if arm.choice else "",
        done=len(done),
        diverged=sample.diverged,
        failed=sample.failed,
        unfinished=sample.missing,
        mean=table_text.bare(metric, mean),
        standard_error=table_text.bare(metric, sd / math.sqrt(len(sample.values))) if math.isfinite(sd) else "",
        sd=table_text.bare(metric, sd),
        dots=tuple(dots),
        mean_place=at(mean) if math.isfinite(mean) else -1.0,
        difference=table_text.difference(metric, compared.difference) if compared else table_text.UNKNOWN,
        interval=table_text.interval(metric, compared) if compared else "",
        clear=compared is not None and compared.excludes_zero,
        p=table_text.p_value(compared.p_adjusted) if compared else table_text.UNKNOWN,
        better=f"{better.value:.2f}" if better else table_text.UNKNOWN,
        better_interval=f"[{better.low:.2f}, {better.high:.2f}]" if better else "",
        rate=table_text.rate(rate),
        rate_interval=table_text.rate_interval(rate),
        parameters=_span((number(run.summary.get("parameters")) for run in done), table_text.scaled),
        flops=_span((number(run.summary.get("flops_per_image")) for run in done), table_text.scaled),
        time=table_text.duration(_average(number(run.summary.get("time_s")) for run in done)),
        memory=table_text.size(
            max([b for run in done if math.isfinite(b := number(run.summary.get("peak_memory_bytes")))], default=math.nan)
        ),
        note=compared.note if compared else "",
    )


def main_effects(analysis: Analysis) -> tuple[EffectRow, ...]:
    if analysis.grid is None:
        return ()
    made = analysis.grid.main
    return tuple(
        _effect_row(analysis, f"{e.factor}: {e.level} instead of {e.baseline}", e, _averaged(e.combinations, e.of_combinations))
        for e in made
    )


def interactions(analysis: Analysis) -> tuple[EffectRow, ...]:
    if analysis.grid is None:
        return ()
    return tuple(
        _effect_row(
            analysis,
            f"{e.first}={e.first_level} (for {e.first_baseline}) with {e.second}={e.second_level} (for {e.second_baseline})",
            e,
        )
        for e in analysis.grid.interactions
    )


def pairs(analysis: Analysis) -> tuple[EffectRow, ...]:
    return tuple(_effect_row(analysis, f"{pair.first} minus {pair.second}", pair) for pair in analysis.pairs)


def _effect_row(analysis: Analysis, name: str, effect: Effect, note: str = "") -> EffectRow:
    metric = analysis.metric
    return EffectRow(
        name=name,
        difference=table_text.difference(metric, effect.difference),
        interval=table_text.interval(metric, effect),
        p=table_text.p_value(effect.p_adjusted),
        detectable=table_text.difference(metric, effect.detectable).lstrip("+"),
        clear=effect.excludes_zero,
        note="; ".join(part for part in (note, effect.note) if part),
    )


def _averaged(combinations: int, of_combinations: int) -> str:
    return f"over {combinations} of {of_combinations} combinations" if combinations < of_combinations else ""


def listed_runs(analysis: Analysis, *states: str) -> tuple[RunRow, ...]:
    """The runs in any of `states`, those at levels that were not chosen too."""
    return tuple(
        RunRow(str(run.folder), name, run.seed, run.state, _reason(analysis, run))
        for arm in analysis.ranked
        for name, runs in _runs_by_name(analysis.samples[arm.id].arm, arm)
        for run in runs
        if run.state in states
    )


def _runs_by_name(name: str, arm: Arm) -> Iterable[tuple[str, Sequence[Run]]]:
    if arm.choice is None:
        return [(name, arm.runs)]
    return [(f"{name} at {level.name}", level.runs) for level in arm.choice.levels]


def _reason(analysis: Analysis, run: Run) -> str:
    if run.state in ("running", "queued"):
        return _progress(analysis, run)
    said = run.reason or ("no reason was written" if run.state in FAILED else "")
    at = analysis.history(run).last_step
    return f"{said} (last record: step {at:,})" if at and said and run.state != "diverged" else said


def _progress(analysis: Analysis, run: Run) -> str:
    """The last record of a run that goes on."""
    history = analysis.history(run)
    trainer = run.config.get("trainer")
    planned = trainer.get("epochs") if isinstance(trainer, dict) else None
    of = f" of {planned}" if planned is not None else ""
    last = [(tag, history.last(tag)) for tag in ("accuracy/val", "loss/train")]
    told = [f"{tag} {value:.4g}" for tag, value in last if math.isfinite(value)]
    if not history.last_step and not told:
        return "no record yet"
    return f"unfinished: step {history.last_step:,}, epoch {history.last_epoch:.2f}{of}" + "".join(f", {part}" for part in told)


def commands(arm: Arm) -> tuple[str, ...]:
    """What repeats each of its runs."""
    return tuple(command(run.overrides) for run in arm.runs) or (command(arm.overrides),)


def command(overrides: Iterable[str]) -> str:
    """Ready to paste into a POSIX shell."""
    return shlex.join(["train", *overrides])


def _average(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _span(values: Iterable[float], text: object) -> str:
    known = sorted({value for value in values if math.isfinite(value)})
    assert callable(text)
    return " to ".join(str(text(value)) for value in ([known[0], known[-1]] if len(known) > 1 else known)) or table_text.UNKNOWN
