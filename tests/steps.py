"""One eager train step."""

from __future__ import annotations

from train.data.contracts import Batch
from train.run.step import Measurement, TrainState, set_learning_rate, update


def train_step(train_state: TrainState, batch: Batch, lr_factor: float) -> Measurement:
    """Update at `lr_factor` times the initial learning rate."""
    set_learning_rate(train_state, lr_factor)
    return update(train_state, batch)
