"""Where the spread between the runs of each arm comes from: the page of `report.analysis=variance`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UsageError
from train.figures.spread import SpreadRow, draw_spread
from train.figures.style import ReportFigure, style
from train.report import metric as metrics
from train.report.arms import Arm, Study
from train.report.contracts import Threat
from train.report.facts import code_versions
from train.report.findings import AnalysisKind, Conclusion, Findings, Remark, Row, Table
from train.report.history import History
from train.report.inputs import data_contents
from train.report.metric import Metric
from train.report.noise_floor import noise_floor
from train.report.options import ReportOptions
from train.report.outcome import outcomes
from train.report.run_threats import with_run_threats
from train.report.spread_text import heading, remarks, share_interval, size_interval, sized, unit
from train.report.statistics.components import Estimate, RoleSpread, Spread, spread_of
from train.report.table_text import UNKNOWN
from train.store.manifest import Manifest
from train.store.run import Run
from train.text import percent, plural

FIGURE = "spread"
REST, ALL = "what they do together", "all of them"
_CONDITIONS = {"device": "devices", "threads": "numbers of threads", "precision": "precisions"}
UNTOLD = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class _ArmSpread:
    """The spread of an arm, by its runs that trained."""

    label: str
    runs: tuple[Run, ...]
    lost: int
    spread: Spread


def analyse(study: Study, histories: Mapping[Path, History], options: ReportOptions) -> Findings:
    """Return what the seeds of the roles say about the spread of the metric, for each arm by itself."""
    metric = Metric(options.metric)
    metrics.check_metric(metric, study.runs, histories)
    found = outcomes(study.runs, metric, histories)
    trained = {folder for folder, outcome in found.items() if outcome.trained is not False}
    labels = study.labels if len(study.arms) > 1 else {study.baseline.id: metric.name}
    spreads = [_of_arm(arm, labels[arm.id], metric, histories, trained) for arm in study.arms]
    contents = data_contents([run for item in spreads for run in item.runs])
    return Findings(
        title=f"Where the spread of {metric.name} between runs comes from",
        conclusions=tuple(_conclusion(item, metric, contents, options.smallest_effect) for item in spreads),
        tables=tuple(_table(item, metric, single=len(spreads) == 1) for item in spreads),
        figures=tuple(_figures(spreads, metric)),
        threats=with_run_threats(_threats(spreads), study, metric, conditions=False),
        header=(("Metric", f"{metric.name} ({metric.tag}) after the last step"), ("Seeds", _seeds_text(spreads))),
        numbers=tuple(_numbers(spreads)),
    )


def _of_arm(arm: Arm, label: str, metric: Metric, histories: Mapping[Path, History], trained: set[Path]) -> _ArmSpread:
    valued = [(run, metric.value(run, histories[run.folder])) for run in arm.runs_in("done") if run.folder in trained]
    kept = [(run, value) for run, value in valued if math.isfinite(value)]
    planned = max(arm.planned, len(arm.runs))
    spread = spread_of([value for _, value in kept], [run.seeds for run, _ in kept])
    return _ArmSpread(label, tuple(run for run, _ in kept), planned - len(kept), spread)


def _conclusion(item: _ArmSpread, metric: Metric, contents: Mapping[str, Any], smallest_effect: float | None) -> Conclusion:
    content = contents.get(item.runs[0].data, {}) if item.runs else {}
    floor = noise_floor(item.runs, metric, item.spread.mean, content)
    return Conclusion(
        item.label,
        heading(item.spread, metric),
        (*remarks(item.spread, metric, floor, smallest_effect), *_repeats(item.runs)),
    )


def _repeats(runs: Sequence[Run]) -> Iterator[Remark]:
    if not any(_machines(runs)):
        yield Remark(
            "repeats",
            "A run with the same seeds has the same value to the last bit, on the same machine with as many threads: there is no "
            "other source of spread, by construction.",
        )


def _machines(runs: Sequence[Run]) -> Iterator[str]:
    """Yield what besides seeds runs differ in, that may change their values."""
    conditions = {what: [str(run.status.get(key, "")) for run in runs] for key, what in _CONDITIONS.items()}
    for what, values in (conditions | {"versions of the code": list(code_versions(runs).values())}).items():
        if len(found := sorted(set(values))) > 1:
            yield f"several {what} ({'; '.join(found)})"


def _table(item: _ArmSpread, metric: Metric, *, single: bool) -> Table:
    spread, size = item.spread, unit(metric).strip() or metric.name
    rows = [_role_row(role, metric) for role in spread.roles]
    if spread.rest is not None:
        rows.append(Row((REST, *_share_cells(spread.rest), UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN), spread.rest.low > 0))
    if spread.total is not None:
        total = (sized(spread.total.value, metric), size_interval(spread.total, metric))
        rows.append(Row((ALL, "100 %", "", *total, plural(spread.runs, "run"), UNKNOWN)))
    columns = (
        ("seed of", ""),
        ("share", "of the variance"),
        ("95 % CI", "jointly"),
        ("if it alone varies", f"standard deviation, {size}"),
        ("95 % CI", "each"),
        ("pairs", "of runs"),
        ("fixing it saves", "of the standard error, at most"),
    )
    note = (
        "Share: what goes with the seed of a role, whatever the other seeds are. Estimates below 0 are 0, so that shares may sum "
        "to more than 100 %. If a role alone varies, with all other seeds the same, what it does together with them shows, too: "
        "these standard deviations do not add up. Bold: the share is above 0. The intervals take a normal spread for granted."
    )
    return Table("Components of the variance" if single else item.label, columns, tuple(rows), note)


def _role_row(role: RoleSpread, metric: Metric) -> Row:
    share = _share_cells(role.share) if role.share else (UNKNOWN, UNKNOWN)
    alone = (sized(role.alone.value, metric), size_interval(role.alone, metric)) if role.alone else (UNKNOWN, UNKNOWN)
    saving = UNKNOWN if role.saving is None else percent(role.saving, 0)
    return Row((role.role, *share, *alone, str(role.pairs), saving), role.share is not None and role.share.low > 0)


def _share_cells(share: Estimate) -> tuple[str, str]:
    return percent(share.value, 0), share_interval(share)


def _figures(spreads: Sequence[_ArmSpread], metric: Metric) -> Iterator[ReportFigure]:
    rows = [row for item in spreads for row in _figure_rows(item, metric, f"{item.label}: " if len(spreads) > 1 else "")]
    if not rows:
        return
    caption = (
        "Above: shares of the variance, with intervals that hold jointly; the dashed line is half of it. Below: the standard "
        "deviation if one role alone varies, and if all of them do, each with its 95 % interval."
    )
    with style():
        svg = draw_spread(rows, "standard deviation" + (" (percentage points)" if metric.is_share else f" of {metric.name}"))
    alt = "; ".join(f"{row.label}: {percent(row.share[0], 0)}" for row in rows if math.isfinite(row.share[0]))
    yield ReportFigure(FIGURE, "Components of the variance", caption, f"Shares of the variance. {alt}", svg)


def _figure_rows(item: _ArmSpread, metric: Metric, prefix: str) -> Iterator[SpreadRow]:
    spread, scale = item.spread, metric.scale
    for role in spread.roles:
        yield SpreadRow(prefix + role.role, _ends(role.share), _ends(role.alone, scale))
    if spread.rest is not None:
        yield SpreadRow(prefix + REST, _ends(spread.rest), UNTOLD)
    if spread.total is not None:
        yield SpreadRow(prefix + ALL, UNTOLD, _ends(spread.total, scale), is_all=True)


def _ends(found: Estimate | None, scale: float = 1.0) -> tuple[float, float, float]:
    return UNTOLD if found is None else (scale * found.value, scale * found.low, scale * found.high)


def _threats(spreads: Sequence[_ArmSpread]) -> Iterator[Threat]:
    """Yield what else may differ between runs: missing ones, and machines."""
    if lost := sum(item.lost for item in spreads):
        runs = f"{plural(lost, 'run')} {'has' if lost == 1 else 'have'} no value or learned nothing"
        yield Threat("missing_runs", f"{runs}: the intervals are approximate then, and those runs are in no spread.", "caution")
    for found in _machines([run for item in spreads for run in item.runs]):
        yield Threat(
            "machines", f"Runs used {found}: a further source of spread, counted with what the seeds do together.", "caution"
        )


def _seeds_text(spreads: Sequence[_ArmSpread]) -> str:
    """Return which roles vary, and which have one seed."""
    varied = {role.role for item in spreads for role in item.spread.roles}
    fixed = sorted({role for item in spreads for run in item.runs for role in run.seeds} - varied)
    names = ", ".join(dict.fromkeys(role.role for item in spreads for role in item.spread.roles)) or "none"
    return f"varied: {names}" + (f"; one seed: {', '.join(fixed)}, whose part is in no spread" if fixed else "")


NUMBERS = ("arm", "seed_of", "share", "share_low", "share_high", "alone_sd", "alone_low", "alone_high", "pairs")


def _numbers(spreads: Sequence[_ArmSpread]) -> Iterator[Sequence[Any]]:
    """Yield the rows of variance.csv; unknown values are empty."""
    yield NUMBERS
    for item in spreads:
        for role in item.spread.roles:
            yield (item.label, role.role, *_cells(role.share), *_cells(role.alone), role.pairs)
        yield (item.label, REST, *_cells(item.spread.rest), "", "", "", "")
        yield (item.label, ALL, 1, 1, 1, *_cells(item.spread.total), "")


def _cells(found: Estimate | None) -> tuple[Any, Any, Any]:
    return ("", "", "") if found is None else (found.value, found.low, found.high)


def check(manifest: Manifest, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError for seeds that do not tell roles apart, and for a role of which a configuration draws nothing."""
    roles = [axis.removeprefix("seeds.") for axis in manifest.seeds if axis.startswith("seeds.")]
    if len(roles) < 2:
        raise UsageError(
            "report.analysis=variance: the seeds of this sweep set all roles at once, so that nothing tells them apart. Name "
            "roles, as in sweep.roles=[init,order,split] 'seed=range(5)', or use study=variance."
        )
    for config in configs.values():
        for role, why in _undrawn(config).items():
            if role in roles:
                others = ",".join(other for other in roles if other != role)
                raise UsageError(f"seeds.{role}: {why}, so that this seed changes nothing. Leave it out: sweep.roles=[{others}]")


def _undrawn(config: Mapping[str, Any]) -> dict[str, str]:
    """Return role -> why a configuration draws nothing of it, as far as its settings tell."""
    found = {}
    if not config.get("augment"):
        found["augment"] = "there is no augmentation (augment=none)"
    data = config.get("data") or {}
    if data.get("val_fraction") == 0 and data.get("train_fraction", 1) == 1:
        found["split"] = "there is no validation split (data.val_fraction=0)"
    model, settings = config.get("model") or {}, config.get("regularization") or {}
    rates = (settings.get("dropout"), settings.get("stochastic_depth", 0))
    if rates == (0, 0) and "torchvision" not in str(model.get("_target_", "")):
        found["dropout"] = "there is no dropout (regularization.dropout=0)"
    return found


VARIANCE = AnalysisKind(analyse, check, figures=frozenset({FIGURE}))
