"""Going on with a run that has not ended: what was asked for then, what may be asked for now. Starts without torch."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from train.errors import UsageError
from train.run.checkpoint_files import newest_valid
from train.run.folder import RunFolder
from train.store.identity import EXECUTION, VERSION, identity, upgraded
from train.store.lock import is_held
from train.store.manifest import read_manifest
from train.store.overrides import flatten, key_of
from train.store.run import Run, read_run

AUTO = "auto"
LENGTH = ("trainer.epochs", "trainer.max_steps")
PLACE = ("data.workers", "data.root")
FREE = (*PLACE, *(rule.key for rule in EXECUTION))
"""What may change in a resumed run, besides its length: where the data lie (the first batch is compared) and how it runs."""
_SHOWN = 6
_ABSENT = "(absent)"
_FLAGS = {"-m", "--multirun"}


def command_line(arguments: Sequence[str]) -> list[str]:
    """`train resume=FOLDER ...` as the command that began the run in FOLDER, in that folder, with the rest of `arguments` added.

    Any other command comes back as it is. UsageError when there is no run in FOLDER.
    """
    asked = [argument for argument in arguments if argument.lstrip("+").startswith("resume=")]
    folder = _unquoted(asked[-1].partition("=")[2]) if asked else ""
    if folder in ("", "null", AUTO):
        return list(arguments)
    if _FLAGS & set(arguments):
        raise UsageError(f"resume={folder}: goes on with one run, so that -m does not fit. A sweep goes on when it is repeated.")
    path = Path(folder)
    _refuse_if_no_run(path)
    others = [argument for argument in arguments if argument not in asked]
    new = {key_of(argument) for argument in others}
    before = [override for override in stored_overrides(path) if key_of(override) not in new]
    return [*before, *others, f"resume={_quoted(folder)}", f"hydra.run.dir={_quoted(folder)}"]


def stored_overrides(path: Path) -> list[str]:
    """What a run folder says was typed, without what one from elsewhere must not bring along: flags, settings of Hydra (which may
    name functions to call) and packages to trust."""
    try:
        content = yaml.safe_load((path / "overrides.yaml").read_text(encoding="utf-8")) or []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"resume={path}: overrides.yaml cannot be read ({type(error).__name__}: {error}).") from None
    if not isinstance(content, list):
        raise UsageError(f"resume={path}: overrides.yaml holds no list.")
    return [o for o in map(str, content) if not o.startswith("-") and re.split(r"[./@=:]", key_of(o))[0] not in _NOT_STORED]


_NOT_STORED = {"hydra", "resume", "trust", ""}


def user_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides that say what a run is: without `resume` and `trust`, which say how this process is to treat it."""
    return [override for override in overrides if key_of(override) not in ("resume", "trust")]


def trusted_packages(named: Any, overrides: Sequence[str]) -> tuple[str, ...]:
    """The packages whose functions a configuration may name. UsageError when a file, and not the command line, names them."""
    packages = (named,) if isinstance(named, str) else tuple(map(str, named or ()))
    if packages and not any(key_of(override) == "trust" for override in overrides):
        raise UsageError(f"trust={','.join(packages)}: a file asks to be trusted. Only the command line can say whom you trust.")
    return packages


def run_to_resume(folder: RunFolder, asked: str | None) -> Run | None:
    """The run in `folder` that is to be gone on with; None for a new one. From here on the folder is this process's own.

    `asked`: the key `resume`. UsageError when another process is at work there, or there is nothing to go on with.
    """
    if asked is None or (asked == AUTO and not folder.status_file.exists()):
        return None
    if asked != AUTO and Path(asked).resolve() != folder.path.resolve():
        raise UsageError(f"resume={asked}: goes on in that folder, so that hydra.run.dir={folder.path} does not fit.")
    _refuse_if_no_run(folder.path)
    folder.lock()
    return read_run(folder.path)


def can_resume(path: Path) -> bool:
    """Whether a run ended too early here and left a checkpoint that is whole, so that a job of the same configuration, started in
    this folder with `resume=auto`, goes on from there."""
    try:
        run = read_run(path)
    except UsageError:
        return False
    return run.state in ("interrupted", "lost", "failed") and not is_held(path) and newest_valid(path) is not None


def refuse_changes(run: Run, config: Mapping[str, Any]) -> None:
    """UsageError when the run is over, or `config` is another one than the run's; it shows what differs."""
    changed = differences(run.config, config)
    other = {key: values for key, values in changed.items() if key not in (*LENGTH, *FREE)}
    if other:
        shown = [f"{key}: {old} -> {new}" for key, (old, new) in list(other.items())[:_SHOWN]]
        more = f"; and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
        raise UsageError(
            f"{run.folder}: the configuration is not that of this run: {'; '.join(shown)}{more}. "
            "A run goes on as it began; with another configuration it is a new run, without resume."
        )
    if run.state == "diverged":
        raise UsageError(f"{run.folder}: this run has diverged ({run.reason}); it would do so again. Change it, as a new run.")
    if run.state == "done" and not any(key in LENGTH for key in changed):
        raise UsageError(f"{run.folder}: this run is done. trainer.epochs=... makes it longer where its schedule allows that.")


def refuse_new_length(schedule: Any, name: str, before: int, after: int, done: int) -> None:
    """UsageError when a run of `after` steps would not have begun with the `done` steps of a run of `before`."""
    if after < done:
        raise UsageError(f"trainer.epochs, trainer.max_steps: {after} steps are fewer than the {done} that this run has made.")
    other = next((step for step in range(done) if schedule(step, before) != schedule(step, after)), None)
    if other is not None:
        raise UsageError(
            f"trainer.epochs, trainer.max_steps: from {before} to {after} steps the schedule {name} means something else: at "
            f"step {other} of the {done} already made the learning rate would have been {schedule(other, after):.4g} times the "
            f"optimizer's instead of {schedule(other, before):.4g} times. schedule=constant allows it; otherwise begin a new run."
        )


def resume_identity(config: Mapping[str, Any], version: int = VERSION) -> str:
    """The same for all configurations that one run may have as it goes on."""
    content = copy.deepcopy({str(key): value for key, value in config.items()})
    for key in (*LENGTH, *PLACE):
        group, _, name = key.partition(".")
        if isinstance(content.get(group), dict):
            content[group].pop(name, None)
    return identity(content, version)


def resume_identities(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `fixed_identity` in every version, as a checkpoint may be of any."""
    return tuple(resume_identity(config, version) for version in range(1, VERSION + 1))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> value then and now, of the settings that differ."""
    before, after = flatten(upgraded(old)), flatten(upgraded(new))
    pairs = {key: (before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in [*before, *after]}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b or type(a) is not type(b)}


def resume_command(path: Path) -> str:
    """What to type to go on."""
    return f"train resume={shlex.quote(str(path))}"


def _refuse_if_no_run(path: Path) -> None:
    if (path / "status.json").exists():
        return
    manifest = read_manifest(path)
    if manifest is not None:
        raise UsageError(
            f"resume={path}: this is a sweep. It goes on when its command is repeated: {shlex.join(manifest.command)}"
        )
    raise UsageError(f"resume={path}: there is no run in this folder (no status.json).")


def _quoted(value: str) -> str:
    """As one value of Hydra's grammar, whatever is in it."""
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", value)
    escaped = re.sub(r"(\\+)$", lambda found: 2 * found[1], escaped)
    return "'" + escaped.replace("${", "\\${") + "'"


def _unquoted(value: str) -> str:
    """Without the quotes that Hydra's grammar would take away."""
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0])
    return value
