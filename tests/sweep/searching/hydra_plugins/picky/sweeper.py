"""A sweeper that treats the scores of its jobs as Optuna's does: NaN is an error of the sweeper, an exception of the job a failed
trial."""

from __future__ import annotations

import math
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class PickySweeper(Sweeper):
    def __init__(self, key: str, values: list[float]) -> None:
        self.key, self.values = key, values

    def setup(self, **context: Any) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(**context)

    def sweep(self, arguments: list[str]) -> None:
        assert self.launcher is not None
        scores = []
        for index, value in enumerate(self.values):
            (result,) = self.launcher.launch([[f"{self.key}={value}", *arguments]], initial_job_idx=index)
            try:
                score = float(result.return_value)
            except Exception:
                print(f"trial {index} failed")
                continue
            if math.isnan(score):
                raise ValueError("a score is not a number")
            scores.append(score)
            print(f"trial {index} scored {score}")
        print(f"best of {len(scores)}: {max(scores)}")
