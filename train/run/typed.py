"""What was typed on the command line without effect on the result: some is refused, the rest noted. Values of files never are.

Here is what the command shows by itself; `train/run/unused.py` needs the parts of the run. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra import compose
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from train.command import as_typed
from train.config import GROUPS
from train.errors import UsageError
from train.run.resume import AUTO
from train.store.overrides import key_of

CHANGES_WITH_TIME = ("${run_name:", "${sweep_name:", "${now:")
"""Parts of a folder's name that differ at every start."""

SWEEP_GROUPS = ("sweep", "report")
"""The groups of keys that no single run uses."""

LISTS = (*GROUPS, "experiment")
"""The groups of which a list of choices can be typed."""


def typed_overrides(hydra: HydraConf) -> tuple[str, ...]:
    """Return the overrides of a single run as typed. `hydra`: of the run."""
    return (*as_typed(hydra.overrides.hydra), *as_typed(hydra.overrides.task))


OF_LAUNCHER = ("sweep.on_error",)
"""Keys of a sweep that the launcher `pool` reads, whatever the sweeper."""


def refuse_in_job(overrides: Sequence[str]) -> None:
    """Raise UsageError for keys of the sweeper `ablation` that reached a job of a sweep, since another sweeper passes them on."""
    for override in overrides:
        if key_of(override).partition(".")[0] in SWEEP_GROUPS and key_of(override) not in OF_LAUNCHER:
            raise UsageError(
                f"{override}: only hydra/sweeper=ablation, the default, reads this. Leave it out, or use that sweeper."
            )


def refuse_in_run(typed: Sequence[str], run: Any) -> None:
    """Raise UsageError for what a command that starts a single run cannot use. `run`: `hydra.run`."""
    for override in typed:
        if key_of(override).partition(".")[0] in SWEEP_GROUPS:
            refuse_for_sweeps(override)
    _refuse_moving_folder(typed, run, "hydra.run.dir=FOLDER")
    refuse_unused_choices(typed)


def refuse_for_sweeps(override: str) -> NoReturn:
    """Raise UsageError for an override of `SWEEP_GROUPS` that a single run cannot use."""
    is_report = key_of(override).partition(".")[0] == "report"
    of = "the report of a sweep" if is_report else "a sweep"
    remedy = "Add -m for a sweep, or leave it out" + ("; train-report FOLDER reports runs" if is_report else "")
    raise UsageError(f"{override}: this configures {of}, and the command starts a single run. {remedy}.")


def refuse_in_sweep(typed: Sequence[str], sweep: Any, resume: str | None) -> None:
    """Raise UsageError for what a command that starts a sweep cannot use. `sweep`: `hydra.sweep`; `resume`: `sweep.resume`."""
    for override in typed:
        if key_of(override) == "resume" and override.partition("=")[2] not in ("null", AUTO):
            raise UsageError(
                f"{override}: resumes a single run, and the command starts a sweep. To resume one, repeat its command."
            )
    if resume is None:
        _refuse_moving_folder(typed, sweep, "hydra.sweep.dir=FOLDER or sweep.resume=last")
    refuse_unused_choices(typed)


def _refuse_moving_folder(typed: Sequence[str], node: Any, remedy: str) -> None:
    """Raise UsageError for `resume=auto` in a folder that is another one at every start. `node`: `hydra.run` or `hydra.sweep`."""
    written = OmegaConf.to_container(node, resolve=False)
    assert isinstance(written, dict)
    if f"resume={AUTO}" in [line.lstrip("+") for line in typed] and any(
        name in str(written["dir"]) for name in CHANGES_WITH_TIME
    ):
        raise UsageError(f"resume={AUTO}: every start has a new folder, so there is never a run to resume. Add {remedy}.")


def refuse_unused_choices(typed: Sequence[str]) -> None:
    """Raise UsageError for a list of choices, such as `augment=[flip,flip]`, of which one changes nothing."""
    parser = OverridesParser.create()
    for line in typed:
        if key_of(line) in LISTS and "[" in line:
            for choices in _choice_lists(parser.parse_override(line)):
                if problem := _unused_choice(key_of(line), choices):
                    raise UsageError(f"{key_of(line)}=[{','.join(choices)}]: {problem}")


def _choice_lists(override: Override) -> list[list[str]]:
    """Return the lists of choices that an override gives, one for each value of an axis."""
    sweep = override.is_sweep_override()
    values = list(override.sweep_iterator()) if sweep and override.is_discrete_sweep() else [] if sweep else [override.value()]
    return [[str(choice) for choice in value] for value in values if isinstance(value, list) and len(value) > 1]


def _unused_choice(group: str, choices: Sequence[str]) -> str:
    """Return what is wrong if the composed configuration is the same without one of `choices`; empty otherwise."""
    if len(set(choices)) < len(choices):
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        return f"{twice} is named more than once, and is applied once. Name it once."
    try:
        whole = _composed(group, choices)
        for choice in reversed(choices):
            if _composed(group, [other for other in choices if other != choice]) == whole:
                return f"{choice} changes nothing, as the others do the same. Leave it out."
    except HydraException:  # no such choice: composing the run says so
        pass
    return ""


def _composed(group: str, choices: Sequence[str]) -> str:
    """Return the configuration with these choices as text. The order of keys counts: augmentations are applied in it."""
    config = OmegaConf.to_container(compose("config", overrides=[f"{group}=[{','.join(choices)}]"]), resolve=False)
    return json.dumps(config)


def notes_on_command(typed: Sequence[str], sweep: bool) -> dict[str, str]:
    """Return override -> sentence for what a command typed in vain, as its own words show."""
    last = {key_of(override): override for override in typed if not override.startswith("~")}
    notes = {
        override: f"{override}: replaced by {last[key_of(override)]}."
        for override in typed
        if override != last.get(key_of(override), override)
    }
    for override in last.values():
        other = _of_other_mode(key_of(override).replace("/", "."), sweep)
        if other:
            notes[override] = f"{override}: no effect, as this is not {other}."
    return notes


def _of_other_mode(key: str, sweep: bool) -> str:
    """Return the kind of command that a key of Hydra's belongs to, if the command is of another kind."""
    if sweep:
        return "a single run" if key.startswith("hydra.run.") else ""
    return "a sweep (-m)" if key.startswith(("hydra.sweep.", "hydra.launcher", "hydra.sweeper")) else ""
