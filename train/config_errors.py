"""Translation of Hydra's and OmegaConf's errors into one message that names the option, the value and the remedy."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from train import slips
from train.command import config_folders, quoted
from train.errors import did_you_mean
from train.help.catalogue import Catalogue

COULD_NOT_OVERRIDE = re.compile(r"Could not override '(?P<key>[^']+)'")
LOADER, DEFAULTS = "hydra._internal.config_loader_impl", "hydra._internal.defaults_list"
SOURCE, PLUGINS = "hydra._internal.core_plugins.file_config_source", "hydra.core.plugins"
"""Hydra's modules that compose, choose, read files and make plugins. Not all of their errors are of Hydra's own classes, or say
what is wrong where; the variables of the calls do."""

MISSING_PACKAGE = re.compile(r"In '(?P<group>hydra/[^']+)/(?P<choice>[^'/]+)': Could not load")
SEVERAL_VALUES = re.compile(
    r"(?:Ambiguous value for argument|Sweep parameters) '(?P<override>[^=]+=.*?)'(?: requires --multirun|\n|$)"
)
CHOSEN_TWICE = re.compile(r"^(?P<group>\S+) appears more than once|of config groups is not supported: '\+\+(?P<other>[^=]+)=")
MISSING_IN_LIST = re.compile(r"In '(?P<place>[^']+)': Could not load '(?P<file>.+?)'\.")
PRIMARY = "config"
INSTALL_COMMAND = re.compile(r"^#.*(?P<command>pip install \S+)", re.MULTILINE)
"""Matches the first comment of a choice that depends on an optional package."""


def is_composition_error(error: Exception) -> bool:
    """Return whether the error was raised while Hydra composed a configuration, so that the user can mend it."""
    if isinstance(error, HydraException | OmegaConfBaseException) or _locals(error, LOADER):
        return True
    return _innermost(error).f_globals.get("__name__") == PLUGINS


def explain(error: Exception, config_dir: Path, arguments: Sequence[str]) -> str:
    """Return the message for an error raised while composing the configuration of a command with `arguments`."""
    folders = [config_dir, *config_folders(arguments)]
    if slip := _slip(error, Catalogue(folders), arguments):
        return slip
    if (choice := MISSING_PACKAGE.search(str(error))) and (command := _install_command(config_dir, **choice.groupdict())):
        return f"{choice['group']}={choice['choice']}: this needs a package that is not installed. Install it: {command}"
    if match := COULD_NOT_OVERRIDE.search(str(error)):
        return unknown_key(match["key"], folders, arguments)
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError | RecursionError):
        return unreadable_file(error)
    if isinstance(error, ValueError | TypeError) and (setting := _setting_of_group(error)):
        return no_choice(*setting, folders)
    return plain_message(error)


def _slip(error: Exception, catalogue: Catalogue, arguments: Sequence[str]) -> str:
    """Return the message for what is probably a slip; empty for other errors."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        return slips.unreadable(error.override, catalogue)
    if match := SEVERAL_VALUES.search(text):
        key = match["override"].partition("=")[0]
        several = slips.several_values(match["override"], arguments, catalogue)
        return several or unknown_key(key, catalogue.folders, arguments)
    if match := CHOSEN_TWICE.search(text):
        group = match["group"] or match["other"]
        added = next((argument for argument in arguments if argument.startswith((f"+{group}=", f"++{group}="))), "")
        return f"{added}: every run has a choice of {group} already. Replace it: {added.lstrip('+')}" if added else ""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        return slips.unknown_choice(error.missing_cfg_file, error.options, catalogue)
    if (match := MISSING_IN_LIST.search(text)) and match["place"] == PRIMARY and "/" in match["file"]:
        return slips.unknown_choice(match["file"], (), catalogue)
    return ""


def unreadable_file(error: yaml.YAMLError | UnicodeDecodeError | RecursionError) -> str:
    """Explain a file that is no valid YAML, with the place of the fault."""
    mark = getattr(error, "problem_mark", None)
    place = f"{_file_read(error)}{f', line {mark.line + 1}, column {mark.column + 1}' if mark else ''}"
    if isinstance(error, UnicodeDecodeError):
        return f"{place}: this file is not UTF-8 (byte 0x{error.object[error.start]:02x}: {error.reason}). Save it as UTF-8."
    if isinstance(error, RecursionError):
        return f"{place}: a value contains itself."
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__)
    remedy = " Indent with spaces." if "\\t" in problem else ""
    return f"{place}: this is not valid YAML ({problem}).{remedy}"


def no_choice(group: str, value: str, folders: Sequence[Path]) -> str:
    """Explain a group that is set to nothing or to a number."""
    if not group:
        return f"={value}: a key is missing in front of '='."
    known = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    reason = f"there is no such choice. Known: {', '.join(known)}." if known else "set its keys one by one."
    return f"{group}={value}: {reason}"


def unknown_key(key: str, folders: Sequence[Path], arguments: Sequence[str]) -> str:
    """Explain a key that does not exist, and name a remedy.

    For `optimizer.lrr=1` it is the nearest key of the configuration that the other arguments compose; for `norm=batch
    norm.groups=4` it is the list of choices that have the key. `folders`: those with the choices, the program's own first.
    """
    parent = key.rpartition(".")[0]
    known = known_keys(folders, [a for a in arguments if not is_override_of(a, key)], with_hydra=key.startswith("hydra."))
    keys = [name for name in known if name not in (key, parent)]  # the parent is right as typed
    siblings = [name for name in keys if name.rpartition(".")[0] == parent]
    if choices := choices_with_key(key, folders):
        available = [name for name in siblings if not name.endswith("._target_")]
        hint = f" The chosen {parent} has: {', '.join(available)}." if available else ""
        return f"{key}: the chosen {parent} has no such key. It belongs to {', '.join(choices)}.{hint}"
    if not siblings and (choices := choices_with_key(f"{parent}._target_", folders)):
        return f"{key}: there is no such key. {choices[0]} has: {', '.join(keys_of_choice(choices[0], parent, folders))}."
    if (siblings or parent not in known) and (found := _meant(key, keys, folders)):  # else the parent has a value
        meant = " or ".join(f"'{name}'" for name in found[:2])
        return f"{key}: there is no such key. Did you mean {meant}?"
    return f"{key}: there is no such key. {did_you_mean(key, _around(key, keys))}"


def _meant(key: str, keys: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the keys that are probably meant: by the last part of their names, by all of it, or by their comments.

    `keys`: those of the composed configuration. A key of a choice that is not chosen has it in front: `norm=group norm.groups`.
    """
    same_leaf = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
    nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if same_leaf or key.startswith("hydra."):
        return sorted(same_leaf, key=lambda name: name.startswith("seeds.")) or nearest
    catalogue = Catalogue(folders)
    group, _, choice = key.rpartition(".")
    if found := catalogue.groups_named(key) or [f"{group}={choice}"] * (choice in catalogue.choices(group)):
        return found
    named = [catalogue.with_choice(setting).name for setting in catalogue.settings_named(key)]
    return named or nearest or [catalogue.with_choice(setting).name for setting in catalogue.settings_about(key)]


def _around(key: str, keys: Sequence[str]) -> list[str]:
    """Return the keys on the level of `key`, or on the nearest level above it that has any."""
    while "." in key:
        key = key.rpartition(".")[0]
        if level := [name for name in keys if name.rpartition(".")[0] == key and not name.endswith("._target_")]:
            return level
    return [name for name in keys if "." not in name]


def choices_with_key(key: str, folders: Sequence[Path]) -> list[str]:
    """Return the choices whose YAML sets the key: `norm=group` for `norm.groups`, `augment=crop` for `augment.crop.padding`."""
    group, _, rest = key.partition(".")
    names = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) if rest else []
    return [f"{group}={name}" for name in names if key in keys_of_choice(f"{group}={name}", "", folders)]


def keys_of_choice(choice: str, parent: str, folders: Sequence[Path]) -> list[str]:
    """Return the keys that the YAML of a choice sets, all of them or those within `parent`; none if it cannot be read."""
    group, _, name = choice.partition("=")
    path = next(path for folder in folders if (path := folder / group / f"{name}.yaml").exists())
    try:
        keys = list(walk(yaml.safe_load(path.read_text(encoding="utf-8")), f"{group}."))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    return [key for key in keys if not parent or (key.startswith(f"{parent}.") and not key.endswith("._target_"))]


def known_keys(folders: Sequence[Path], arguments: Sequence[str], with_hydra: bool = False) -> list[str]:
    """Return every dotted key of the configuration, groups included. It is composed from `arguments`, or without if they fail."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    config_dir, *others = folders
    overrides = [a for a in arguments if re.match(r"^[+~]*[\w./@-]+=", a) and not a.startswith(("-", "hydra.searchpath="))]
    search = [f"hydra.searchpath=[{','.join(quoted(f'file://{folder.resolve()}') for folder in others)}]"] if others else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir)):
        for attempt in ([*search, *overrides], []):
            try:
                return list(walk(OmegaConf.to_container(compose("config", overrides=attempt, return_hydra_config=with_hydra))))
            except Exception:  # whatever is wrong with them besides
                continue
    return []


def walk(content: object, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested mappings, groups included; nothing for other values."""
    for name, value in content.items() if isinstance(content, dict) else ():
        yield f"{prefix}{name}"
        yield from walk(value, f"{prefix}{name}.")


def is_override_of(argument: str, key: str) -> bool:
    return argument.lstrip("+~").split("=", 1)[0] == key


def plain_message(error: Exception) -> str:
    """Return Hydra's own message and that of its cause on one line, with the file and the key if they are known."""
    parts: list[Any] = [error]
    if error.__cause__ is not None:
        parts.append(error.__cause__)
    lines = [line.strip() for part in parts for line in str(part).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key"))]
    key = next((part.full_key for part in parts if isinstance(part, OmegaConfBaseException) and part.full_key), None)
    return ": ".join([*filter(None, (_file_read(error), key)), " ".join(kept) or type(error).__name__])


def _locals(error: Exception, module: str) -> list[dict[str, Any]]:
    """Return the local variables of the calls in `module` that the error passed through, the innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [frame.f_locals for frame in reversed(frames) if frame.f_globals.get("__name__") == module]


def _innermost(error: Exception) -> FrameType:
    """Return the call that raised the error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame


def _file_read(error: Exception) -> str:
    """Return the path of the file that Hydra was reading, or empty."""
    return next((str(names.get("full_path", "")) for names in _locals(error, SOURCE)), "")


def _setting_of_group(error: Exception) -> tuple[str, str] | None:
    """Return the group and the value that Hydra could not take for a choice."""
    frame = _innermost(error)
    names = frame.f_locals if frame.f_globals.get("__name__") == DEFAULTS else {}
    if isinstance(override := names.get("override"), Override):
        return override.key_or_group, str(override.input_line).partition("=")[2]
    if isinstance(group := getattr(names.get("d"), "group", None), str):
        return group, str(Override._get_value_element_as_str(names.get("item")))
    return None


def _install_command(config_dir: Path, group: str, choice: str) -> str | None:
    """Return the command that installs the package that a choice depends on, if the comment in its YAML names one."""
    try:
        match = INSTALL_COMMAND.search((config_dir / group / f"{choice}.yaml").read_text(encoding="utf-8"))
    except OSError:
        return None
    return match["command"] if match else None
