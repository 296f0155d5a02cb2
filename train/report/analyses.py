"""What `report.analysis` can name besides `arms`, the comparison of arms. Each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from train.report.arms import Study
from train.report.findings import AnalysisKind
from train.report.options import AnalysisName, ReportOptions
from train.store.manifest import Manifest


def find_analysis(name: AnalysisName) -> AnalysisKind | None:
    """Return the analysis of that name; None for `arms`, whose page is made of `train.report.analysis`."""
    if name == "variance":
        from train.report.variance import VARIANCE

        return VARIANCE
    if name == "budget":
        from train.report.budget import BUDGET

        return BUDGET
    if name in ("width", "depth"):
        from train.report.scaling.analyse import DEPTH_ANALYSIS, WIDTH_ANALYSIS

        return WIDTH_ANALYSIS if name == "width" else DEPTH_ANALYSIS
    return None


def analysis_of(study: Study, options: ReportOptions) -> AnalysisName:
    """Return what the page is to answer: as requested, else as all plans of the runs have it, else which arm is better."""
    planned = {plan.manifest.analysis for plan in study.collection.plans}
    known = [name for name in get_args(AnalysisName) if planned == {name}]
    return options.analysis or (known[0] if known else "arms")


def check_plan(options: ReportOptions, manifest: Manifest, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the analysis can say something of what a sweep plans. UsageError otherwise. `configs`: by arm's id."""
    if options.analysis and (kind := find_analysis(options.analysis)) is not None:
        kind.check(manifest, configs)
