"""What was typed on the command line and a run does not use: a sentence each, for what is refused and for what is noted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from train.config import Settings
from train.data.contracts import Framed
from train.data.image_folder import ImageFolder
from train.errors import UsageError
from train.run.build import Parts, locate
from train.run.fingerprint import chosen_name
from train.run.typed import notes_on_command
from train.store.overrides import dotted_key


@dataclass(frozen=True)
class RunFacts:
    """What decides whether a setting is used. `own_validation`: whether the data set brings a validation split."""

    settings: Settings
    parts: Parts
    steps_per_epoch: int
    own_validation: bool

    @property
    def data(self) -> str:
        return f"data={chosen_name(self.settings, 'data')}"

    @property
    def has_validation(self) -> bool:
        return self.own_validation or self.settings.data.val_fraction > 0

    @property
    def observes_steps(self) -> bool:
        return bool(self.settings.observe.every or self.settings.observe.histogram_every)


def unread(typed: Sequence[str], settings: Settings) -> dict[str, str]:
    """Return override -> sentence for what would change the result, were it read: it is refused."""
    function = locate("data", settings.parts["data"]["_target_"])
    if settings.data.root is None or "root" in inspect.signature(function).parameters:
        return {}
    name = chosen_name(settings, "data")
    remedy = "Add data=image_folder for a folder of your images, or leave it out."
    return {
        override: f"{override}: data={name} reads no folder. {remedy}"
        for override in typed
        if dotted_key(override) == "data.root"
    }


def refuse_unread(typed: Sequence[str], settings: Settings) -> None:
    """Raise UsageError for the first override that `unread` returns."""
    for sentence in unread(typed, settings).values():
        raise UsageError(sentence)


def notes_on_run(typed: Sequence[str], facts: RunFacts) -> list[str]:
    """Return a sentence for everything that was typed without effect on a single run."""
    return list((notes_on_command(typed, sweep=False) | notes(typed, facts)).values())


def notes(typed: Sequence[str], facts: RunFacts) -> dict[str, str]:
    """Return override -> sentence for everything else that has no effect."""
    found: dict[str, str] = {}
    for override in typed:
        key = dotted_key(override)
        for rule, reason in REASONS.items():
            if (key == rule or key.startswith(f"{rule}.")) and (text := reason(facts)):
                found[override] = f"{override}: no effect, as {text}."
    if "norm=ghost" in typed and (text := _one_part(facts)):
        found["norm=ghost"] = f"norm=ghost: no effect, as {text}."
    return found | _shorter(typed, facts) | _observed(typed, facts)


def _held_in_memory(facts: RunFacts) -> str:
    return "" if isinstance(facts.parts.dataset, Framed) else f"{facts.data} is held in memory"


def _unobserved(facts: RunFacts) -> str:
    return "" if facts.observes_steps or facts.settings.observe.probe_size else "no layer is observed"


def _unobserved_steps(facts: RunFacts) -> str:
    return "" if facts.observes_steps else "no train step is observed"


def _unobserved_every(facts: RunFacts) -> str:
    return "" if facts.settings.observe.every else "observe.every=0"


def _without_augmentation(facts: RunFacts) -> str:
    return "" if facts.settings.parts["augment"] else "there is no augmentation"


def _own_split(facts: RunFacts) -> str:
    return f"{facts.data} has a validation split of its own" if facts.own_validation else ""


def _without_split(facts: RunFacts) -> str:
    if facts.settings.data.train_fraction < 1:
        return ""
    return _own_split(facts) or ("" if facts.settings.data.val_fraction else "data.val_fraction=0")


def _without_validation(facts: RunFacts) -> str:
    return "" if facts.has_validation else "there is no validation split"


def _framed(facts: RunFacts) -> str:
    framed = isinstance(facts.parts.dataset, ImageFolder) and facts.parts.pipeline.framing is not None
    return "the first augmentation cuts the images" if framed else ""


def _framed_from_files(facts: RunFacts) -> str:
    return _framed(facts) if _uncached(facts) else ""


def _never_drafted(facts: RunFacts) -> str:
    whole = isinstance(facts.parts.dataset, ImageFolder) and facts.settings.parts["data"].get("decoder") == "torchcodec"
    return "data.decoder=torchcodec decodes JPEGs whole" if whole else ""


def _uncached(facts: RunFacts) -> str:
    return "data.cache=none" if facts.settings.parts["data"].get("cache") == "none" else ""


def _without_quality(facts: RunFacts) -> str:
    kept = facts.settings.parts["data"].get("cache") == "uint8"
    return "data.cache=uint8 keeps the pixels as they are" if kept else _uncached(facts)


def _one_part(facts: RunFacts) -> str:
    """Return why ghost batch norm is batch norm here, at its default size or another."""
    size, batch = facts.settings.parts["norm"].get("size"), facts.settings.trainer.batch_size
    if chosen_name(facts.settings, "norm") != "ghost" or not isinstance(size, int) or batch >= 2 * size:
        return ""
    return f"a batch of {batch} images is one part of norm.size={size} or more, which is norm=batch"


def _one_device(facts: RunFacts) -> str:
    return "trainer.devices=1" if facts.settings.trainer.devices == 1 else ""


def _drawn_stem(facts: RunFacts) -> str:
    return "the stem is not whitened (model.whiten=false)" if facts.settings.parts["model"].get("whiten") is False else ""


def _epochs_end(facts: RunFacts) -> str:
    trainer = facts.settings.trainer
    steps = trainer.epochs * facts.steps_per_epoch
    more = trainer.max_steps is not None and trainer.max_steps > steps
    return f"trainer.epochs={trainer.epochs} ends the run after {steps:,} steps" if more else ""


REASONS: Mapping[str, Callable[[RunFacts], str]] = {
    "data.workers": _held_in_memory,
    "data.verify": _held_in_memory,
    "data.size": _framed,
    "data.draft": _never_drafted,
    "data.cache_side": _uncached,
    "data.cache_quality": _without_quality,
    "data.cache_dir": _uncached,
    "data.short_side": _framed_from_files,
    "data.val_fraction": _own_split,
    "model.bias_epochs": _drawn_stem,
    "norm.size": _one_part,
    "norm.sync": _one_device,
    "seeds.augment": _without_augmentation,
    "seeds.split": _without_split,
    "trainer.max_steps": _epochs_end,
    "trainer.evaluate_every": _without_validation,
    "observe.every_step": _unobserved_every,
    "observe.figures": _unobserved,
    "observe.layers": _unobserved,
    "observe.level": _unobserved,
    "observe.thresholds": _unobserved_steps,
}
"""Key, or group of keys -> a function that returns why it has no effect on a run; empty if it has one."""


def _shorter(typed: Sequence[str], facts: RunFacts) -> dict[str, str]:
    """Return a note on `trainer.epochs` if a file limits the steps to fewer."""
    trainer, keys = facts.settings.trainer, [dotted_key(override) for override in typed]
    steps = trainer.epochs * facts.steps_per_epoch
    if "trainer.max_steps" in keys or trainer.max_steps is None or trainer.max_steps >= steps:
        return {}
    end = f"trainer.max_steps={trainer.max_steps} ends the run earlier; trainer.max_steps=null removes that limit."
    return {override: f"{override}: {end}" for override in typed if dotted_key(override) == "trainer.epochs"}


def _observed(typed: Sequence[str], facts: RunFacts) -> dict[str, str]:
    """Return a note on `observe=off` if another setting observes all the same."""
    chosen = [override for override in typed if dotted_key(override) == "observe"][-1:]
    if chosen != ["observe=off"] or _unobserved(facts):
        return {}
    by = [override for override in typed if dotted_key(override).startswith("observe.")]
    return {"observe=off": f"observe=off: layers are observed, by {' '.join(by)}."}
