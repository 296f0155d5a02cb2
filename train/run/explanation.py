"""The sink that explains a run, with what it needs to know about the network before its first train step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.config import Settings
from train.data.readers import Readers
from train.explain.diagnosis import Switches
from train.explain.sink import ExplanationSink, FirstBatch, NetworkInfo
from train.observe.contracts import Expected
from train.observe.observer import Observer
from train.observe.theory import chain_of, predict
from train.parts.model.trace import Call
from train.run.fingerprint import chosen_name
from train.run.setup import Setup
from train.sinks.contracts import Sink

log = logging.getLogger("train")


SHOWN = 16
"""Images of the first batch in its figure."""


def explanation_sink(
    setup: Setup, calls: Sequence[Call], observer: Observer, readers: Readers, out: Sink, folder: Path, title: str
) -> ExplanationSink:
    """Return the sink. Theory is computed, and the first batch drawn, only if the layers are observed at step 0."""
    is_observed = observer.due(0, 0)
    expected = predict_signal(calls, readers.first_batch.images) if is_observed else ()
    classes = len(setup.parts.dataset.class_names)
    network = NetworkInfo(observer.layers, expected, classes, read_switches(setup.settings))
    batch = first_batch(setup, readers) if is_observed else None
    return ExplanationSink(out, folder, title, network, setup.settings.thresholds, batch)


def first_batch(setup: Setup, readers: Readers) -> FirstBatch:
    """Return the first images of the first batch, and the same without augmentation."""
    preprocess = readers.preprocess
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    plain, augmented = setup.plain_first_batch(readers, SHOWN), readers.first_batch.images[:SHOWN]
    return FirstBatch(*((images.cpu().float() * std + mean).numpy() for images in (plain, augmented)))


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
