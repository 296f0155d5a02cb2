"""`train resume=FOLDER`: the run in a folder, rebuilt from its stored configuration.

A run folder may come from somebody else. Its files are data: the configuration passes the schema and the list of functions that
may be called, as any other does, but Hydra never reads it, and no interpolation in it is resolved. What is typed beside
`resume=FOLDER` is the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from train.command import MULTIRUN, overrides_of, own_parts_of, unquoted
from train.config import GROUPS
from train.errors import UsageError
from train.run.job import Job, JobResult, resolve_config, start, train_job
from train.run.resume import AUTO, CHANGEABLE, LENGTH, require_run
from train.run.signals import handle_signals
from train.run.trust import set_trusted, trusted_packages
from train.run.typed import SWEEP_GROUPS, refuse_for_sweeps
from train.store.identity import BOOKKEEPING
from train.store.overrides import key_of
from train.store.run import Run, read_run
from train.store.run_folder import RunFolder

SHOWN = ("--cfg", "-c", "--info", "-i")
"""Hydra's flags that show a configuration."""


@dataclass(frozen=True)
class Resumption:
    """What is typed to resume a run.

    `changes`: overrides of the experiment; `bookkeeping`: of `checkpoint` and `trust`; `own`: the arguments by which a command
    finds the user's own parts.
    """

    folder: Path
    changes: tuple[str, ...] = ()
    bookkeeping: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


def folder_to_resume(arguments: Sequence[str]) -> str | None:
    """Return the folder that `resume=FOLDER` names; None for other commands, also for `resume=auto`."""
    values = [override.partition("=")[2] for override in overrides_of(arguments) if key_of(override) == "resume"]
    folder = unquoted(values[-1]) if values else ""
    return None if folder in ("", "null", AUTO) else folder


def read_resumption(folder: str, arguments: Sequence[str]) -> Resumption:
    """Return what the command's arguments ask for. UsageError when `folder` holds no run, or one of them has no place here."""
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("-")}
    if flags & {*MULTIRUN}:
        raise UsageError(f"resume={folder}: resumes a single run, without -m. To resume a sweep, repeat its command.")
    if shown := sorted(flags & {*SHOWN}):
        raise UsageError(f"{shown[0]}: a run that is resumed is not composed again. Its configuration is {folder}/config.yaml.")
    path = Path(folder)
    require_run(path)
    changes, bookkeeping = [], []
    for override in overrides_of(arguments):
        group = key_of(override).partition(".")[0].partition("/")[0]
        if group in SWEEP_GROUPS:
            refuse_for_sweeps(override)
        elif group == "hydra":
            _refuse_hydra(override, path)
        elif group != "resume":
            (bookkeeping if group in BOOKKEEPING else changes).append(override)
    return Resumption(path, tuple(changes), tuple(bookkeeping), own_parts_of(arguments))


def resume_job(resumption: Resumption, config_dir: Path) -> JobResult:
    """Resume the run, train it to its end and return its result. UsageError for every mistake that can be detected before."""
    folder = RunFolder(resumption.folder.absolute(), resumption.own)
    with handle_signals() as stop:
        try:
            with stop.raising():
                job = open_job(resumption, folder, config_dir)
        except BaseException:
            folder.release()
            raise
        return train_job(job, stop)


def open_job(resumption: Resumption, folder: RunFolder, config_dir: Path) -> Job:
    """Return the run, ready to train on from its last checkpoint, with its folder locked."""
    run = read_run(folder.path)
    content = without_download(changed(run, resumption.changes), resumption.changes)
    bookkeeping = _bookkeeping(resumption.bookkeeping, config_dir) | {"resume": str(folder.path)}
    overrides = [*_unchanged(run.overrides, resumption.changes), *resumption.changes]
    choices = {str(group): str(choice) for group, choice in run.choices.items()}
    set_trusted(trusted_packages(bookkeeping["trust"], resumption.bookkeeping))
    session = start(content, bookkeeping, folder, overrides, choices, resumption.changes)
    return Job(session, content, overrides, choices)


def changed(run: Run, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the stored configuration of a run with the values of `overrides`, as Hydra's grammar gives them.

    UsageError for another choice of a config group, and for what sets no value.
    """
    content: dict[str, Any] = dict(run.config)
    parser = OverridesParser.create()
    for text in overrides:
        (override,) = parser.parse_overrides([text])
        if override.is_delete() or override.is_sweep_override() or override.package is not None:
            raise UsageError(f"{text}: a run that is resumed keeps its configuration. {_MAY_CHANGE}")
        key = override.key_or_group
        if key in (*GROUPS, "experiment", "study") or "/" in key:
            _refuse_other_choice(run, override)
            continue
        content = _with_value(content, key.split("."), _value(override), text)
    return content


def without_download(content: dict[str, Any], typed: Sequence[str]) -> dict[str, Any]:
    """Return the configuration with `data.download=false`, unless that is typed: a folder chooses no place to download to."""
    data = content.get("data")
    if not isinstance(data, Mapping) or "download" not in data or "data.download" in map(key_of, typed):
        return content
    return {**content, "data": {**data, "download": False}}


_MAY_CHANGE = f"These may change: {', '.join(dict.fromkeys((*LENGTH, *CHANGEABLE)))}."


def _refuse_other_choice(run: Run, override: Override) -> None:
    """Raise UsageError unless the run was made with this choice of a config group."""
    group, text = override.key_or_group, str(override.input_line)
    stored, node = run.choices.get(group), run.config.get(group)
    if text in run.overrides or str(override.value()) == str(stored):
        return
    function = node.get("_target_") if isinstance(node, Mapping) else None
    made = f"with {group}={stored}" if stored else f"with {group}._target_={function}" if function else f"without {group}"
    raise UsageError(f"{text}: this run was made {made}. Leave it out, or start a new run without resume. {_MAY_CHANGE}")


def _with_value(content: Mapping[str, Any], path: Sequence[str], value: Any, text: str) -> dict[str, Any]:
    first, *rest = path
    inner = content.get(first, {})
    if rest and not isinstance(inner, Mapping):
        raise UsageError(f"{text}: there is no such key, as {first} is a value.")
    return {**content, first: _with_value(inner, rest, value, text) if rest else value}


def _value(override: Override) -> Any:
    """Return the value as Hydra would put it into a configuration. The user may type interpolations such as `${oc.env:DATA}`."""
    return OmegaConf.to_container(OmegaConf.create({"value": override.value()}), resolve=True)["value"]  # type: ignore[index,call-overload]


def _bookkeeping(overrides: Sequence[str], config_dir: Path) -> dict[str, Any]:
    """Return the settings of `checkpoint` and `trust`, whose defaults stand in the program's own configuration."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        config = compose("config", overrides=list(overrides))
    return {name: node for name, node in resolve_config(config).items() if name in BOOKKEEPING}


def _unchanged(stored: Sequence[str], changes: Sequence[str]) -> list[str]:
    keys = {key_of(override) for override in changes}
    return [override for override in stored if key_of(override) not in keys]


def _refuse_hydra(override: str, folder: Path) -> None:
    """Raise UsageError for a setting of Hydra's, except for the folder of the run itself."""
    key, _, value = override.partition("=")
    if key.lstrip("+") == "hydra.run.dir" and Path(unquoted(value)).resolve() == folder.resolve():
        return
    if key.lstrip("+") == "hydra.run.dir":
        raise UsageError(f"resume={folder}: conflicts with {override}. A run resumes in its own folder.")
    raise UsageError(f"{override}: a run that is resumed is not composed again, so Hydra's settings have no use. Leave it out.")
