"""The settings `sweep` and `report`: how a sweep is planned, repeated and reported. No run depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Interval, Le
from pydantic import BaseModel

from train.config import STRICT, check, check_call
from train.errors import UsageError, did_you_mean
from train.report.options import ReportOptions
from train.store.decisions import MOST_SEEDS
from train.store.manifest import Design
from train.store.overrides import key_of
from train.store.values import IN_SUMMARY

Rerun: TypeAlias = Literal["unfinished", "missing", "failed", "diverged", "all", "none"]


class SweepSettings(BaseModel):
    """The keys of `sweep`, documented in `conf/config.yaml`."""

    model_config = STRICT
    design: Design
    zip: list[list[str]]
    roles: list[Literal["init", "order", "augment", "dropout", "split"]] | None
    tune: str | list[str] | dict[str, list[Any]] | None
    tune_seeds: Annotated[int, Ge(1)]
    tune_epochs: Annotated[float, Gt(0), Le(1)] | None
    tune_extend: Annotated[int, Ge(0)]
    baseline: dict[str, Any] | None
    on_error: Literal["continue", "stop"]
    rerun: Rerun
    resume: Literal["last"] | None
    reuse_other_code: bool
    dry_run: bool
    spread: Annotated[float, Gt(0)] | None
    until: Literal["decided"] | None
    margin: Annotated[float, Gt(0)] | None
    max_seeds: Annotated[int, Interval(gt=0, le=MOST_SEEDS)] | None
    stages: Literal["all", "one"]

    @property
    def tuned(self) -> tuple[str, ...]:
        """The keys of `tune` without duplicates, under the names of their axes (no `+`)."""
        keys = [self.tune] if isinstance(self.tune, str) else self.tune or []
        return tuple(dict.fromkeys(key.lstrip("+") for key in keys))

    @property
    def tuned_levels(self) -> Mapping[str, list[Any]]:
        """Key, as typed -> the levels that `tune` itself names; empty where it names keys alone."""
        return self.tune if isinstance(self.tune, dict) else {}

    def runs_with(self, seeds: int) -> int:
        """Return how many runs an arm has at most with so many seeds."""
        return seeds * (seeds + len(self.roles)) if self.roles else seeds


def parse_sweep(config: Mapping[str, Any]) -> tuple[SweepSettings, ReportOptions]:
    """Check `sweep` and `report` of the resolved configuration. UsageError names the first wrong key."""
    sweep = check(SweepSettings, "sweep", config["sweep"])
    report = ReportOptions(**check_call(ReportOptions, "report", config["report"], given=("baseline", "tune")))
    kind, slash, _ = report.metric.partition("/")
    if report.metric not in IN_SUMMARY and (not slash or kind in ("accuracy", "loss")):
        raise UsageError(f"report.metric={report.metric}: no run records this metric. {did_you_mean(report.metric, IN_SUMMARY)}")
    return sweep, report


def refuse_unused_tuning(typed: Iterable[str], settings: SweepSettings) -> None:
    """Raise UsageError for a setting of the tuning that was typed for a sweep without tuned keys."""
    for override in typed:
        if not settings.tuned and key_of(override).startswith("sweep.tune_"):
            raise UsageError(f"{override}: no key is tuned. Name one, as in sweep.tune=optimizer.lr, or leave this out.")
