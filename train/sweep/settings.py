"""The settings `sweep` and `report`: how a sweep is planned, repeated and reported. No run depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Gt
from pydantic import BaseModel

from train.config import STRICT, check
from train.errors import UsageError, did_you_mean
from train.report.metric import IN_SUMMARY
from train.store.manifest import Design
from train.tags import split

Rerun: TypeAlias = Literal["unfinished", "missing", "failed", "diverged", "all", "none"]


class SweepSettings(BaseModel):
    """The keys of `sweep`, documented in `conf/config.yaml`."""

    model_config = STRICT
    design: Design
    zip: list[list[str]]
    tune: str | list[str] | None
    baseline: dict[str, Any] | None
    on_error: Literal["continue", "stop"]
    rerun: Rerun
    resume: Literal["last"] | None
    reuse_other_code: bool
    dry_run: bool
    spread: Annotated[float, Gt(0)] | None

    @property
    def tuned(self) -> tuple[str, ...]:
        """The keys of `tune` without duplicates, under the names of their axes (no `+`)."""
        keys = [self.tune] if isinstance(self.tune, str) else self.tune or []
        return tuple(dict.fromkeys(key.lstrip("+") for key in keys))


class ReportSettings(BaseModel):
    """The keys of `report`, documented in `conf/config.yaml`."""

    model_config = STRICT
    metric: str
    pairs: bool
    smallest_effect: Annotated[float, Gt(0)] | None
    tensorboard: bool


def parse_sweep(config: Mapping[str, Any]) -> tuple[SweepSettings, ReportSettings]:
    """Check `sweep` and `report` of the resolved configuration. UsageError names the first wrong key."""
    sweep, report = check(SweepSettings, "sweep", config["sweep"]), check(ReportSettings, "report", config["report"])
    statistic, layer = split(report.metric)
    if report.metric not in IN_SUMMARY and (not layer or statistic in ("accuracy", "loss")):
        raise UsageError(f"report.metric={report.metric}: no run records this metric. {did_you_mean(report.metric, IN_SUMMARY)}")
    return sweep, report
