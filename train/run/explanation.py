"""The sink that explains a run, with what it needs to know about the network before its first train step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from train.config import Settings
from train.explain.diagnosis import Switches
from train.explain.sink import ExplanationSink, NetworkInfo
from train.observe.contracts import Expected
from train.observe.observer import Observer
from train.observe.theory import chain_of, predict
from train.parts.model.trace import Call
from train.run.fingerprint import chosen_name
from train.run.setup import Setup
from train.sinks.contracts import Sink

log = logging.getLogger("train")


def explanation_sink(
    setup: Setup, calls: Sequence[Call], observer: Observer, images: Tensor, out: Sink, folder: Path, title: str
) -> ExplanationSink:
    """Return the sink. `images`: the first batch, for theory, which is computed only if the layers are observed at step 0."""
    expected = predict_signal(calls, images) if observer.due(0, 0) else ()
    classes = len(setup.parts.dataset.class_names)
    network = NetworkInfo(observer.layers, expected, classes, read_switches(setup.settings))
    return ExplanationSink(out, folder, title, network, setup.settings.thresholds)


def predict_signal(calls: Sequence[Call], images: Tensor) -> Sequence[Expected]:
    """Return what theory predicts for the signal at initialisation; empty for models that it does not cover."""
    try:
        return predict(chain_of(calls), images)
    except Exception as error:  # a user's model may not be a chain of known layers
        log.info("theory makes no prediction for this model", exc_info=error)
        return ()


def read_switches(settings: Settings) -> Switches:
    """Return the settings that the advice depends on."""

    def setting(group: str, key: str) -> Any:
        return settings.parts[group].get(key)

    return Switches(
        init=chosen_name(settings, "init"),
        norm=chosen_name(settings, "norm"),
        activation=setting("model", "activation"),
        lr=setting("optimizer", "lr"),
        grad_clip=settings.trainer.grad_clip,
        warmup=setting("schedule", "warmup"),
    )
