"""Commands as text that can be pasted, and the arguments of a command in the order in which Hydra reads them.

Every command that is printed is made here: its words are quoted for a POSIX shell, and values inside them for Hydra's grammar.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import ListConfig

CONFIG_DIR = "--config-dir"
FOLDER_FLAGS = (CONFIG_DIR, "-cd", "--config-path", "-cp")
VALUE_FLAGS = (*FOLDER_FLAGS, "--config-name", "-cn", "--cfg", "-c", "--package", "-p")
"""Hydra's flags that are followed by a value."""
NO_CHOICE = ("experiment=null", "study=null")
"""Overrides that set a group to what the configuration shows as its default. Hydra itself refuses to be told."""
ONE_TIME_KEYS = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run", "sweep.rerun")
"""Keys of a sweep's command that the command repeating it omits."""

_LAST_FLAGS = ("--info", "-i")
_BARE = re.compile(r"[\w./+@%-]+", re.ASCII)
_NO_TEXT = re.compile(r"[+-]?(\.?\d[\d_.]*(e[+-]?\d+)?|inf|nan)|null|true|false", re.IGNORECASE)
"""What Hydra reads as a number, a truth value or nothing."""
_TEXTS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<![^\[,(])~[^'",\[\](){}]*""")
"""The texts of a value in quotes, and those without quotes that begin with a home folder."""


def train_command(overrides: Iterable[str], own: Sequence[str] = ()) -> str:
    """Return the command that trains with `overrides`. `own`: what else it needs for parts of the user's own, see `own_parts`."""
    trusted = any(argument.startswith("trust=") for argument in own)
    return shlex.join(["train", *own, *(line for line in overrides if not (trusted and line.startswith("trust=")))])


def resume_command(folder: Path, own: Sequence[str] = ()) -> str:
    """Return the command that resumes the run in `folder`."""
    text = str(folder)
    plain = re.fullmatch(r"[\w./+@%=,-]+", text) and text not in ("auto", "null")  # `resume` is read before Hydra reads it
    return shlex.join(["train", *own, f"resume={text}" if plain else f"resume={quoted(text)}"])


def repeat_command(arguments: Sequence[str], folder: Path) -> str:
    """Return the command that repeats a sweep in its folder. `arguments`: as typed."""
    kept = [argument for argument in arguments if _key(argument) not in ONE_TIME_KEYS]
    return shlex.join(["train", *arranged([*kept, override("hydra.sweep.dir", str(folder))])])


def tensorboard_command(folder: Path) -> str:
    """Return the command that opens TensorBoard on a folder."""
    return shlex.join(["tensorboard", "--logdir", str(folder)])


def own_parts(config_dir: str | None, trusted: Sequence[str], others: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the arguments by which a command finds the user's own parts.

    `config_dir`: the folder of `--config-dir`; `trusted`: packages; `others`: overrides, of which `hydra.searchpath` is one.
    """
    names = [name if _BARE.fullmatch(name) else quoted(name) for name in trusted]
    trust = [f"trust={names[0]}" if len(names) == 1 else f"trust=[{','.join(names)}]"] if names else []
    searched = [line for line in others if _key(line) == "hydra.searchpath"]
    return (*((CONFIG_DIR, config_dir) if config_dir else ()), *trust, *searched)


def own_parts_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return those of `arguments`, as typed, by which a command finds the user's own parts."""
    overrides, flags = _split(arguments)
    folders = [group for group in flags if _flag(group) in FOLDER_FLAGS]
    return (*(word for group in folders for word in group), *(o for o in overrides if _key(o) in ("trust", "hydra.searchpath")))


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """Return those of `arguments`, as typed, that are neither flags nor values of flags; `~` in a path is expanded."""
    return [expanded(override) for override in _split(arguments)[0]]


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders with YAML files of the user's own that `arguments` name."""
    overrides, flags = _split(arguments)
    named = [group[1] if len(group) > 1 else group[0].partition("=")[2] for group in flags if _flag(group) in FOLDER_FLAGS]
    searched = [o.partition("=")[2].strip("[]") for o in overrides if _key(o) == "hydra.searchpath"]
    entries = [unquoted(entry.strip()) for text in searched for entry in text.split(",")]
    return [Path(path.removeprefix("file://")) for path in (*named, *entries)]


def override(key: str, value: str) -> str:
    """Return an override whose value Hydra reads as this text, quoted if necessary: `hydra.run.dir="a b"`."""
    is_bare = _BARE.fullmatch(value) and not _NO_TEXT.fullmatch(value)
    return f"{key}={value if is_bare else quoted(value)}"


def quoted(value: str, mark: str = '"') -> str:
    """Quote any text as one value of Hydra's grammar. Interpolations in it are not resolved. `mark`: either quote."""
    escaped = re.sub(rf"(\\*){mark}", lambda match: 2 * match[1] + f"\\{mark}", value)
    escaped = re.sub(r"(\\+)$", lambda match: 2 * match[1], escaped)
    return mark + re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", escaped) + mark


def unquoted(value: str) -> str:
    """Return the text of a value in Hydra's grammar; the inverse of `quoted`, also for single quotes."""
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    inside = re.sub(r"(\\+)\$\{", lambda match: (len(match[1]) // 2) * "\\" + "${", value[1:-1])
    inside = re.sub(rf"(\\+){value[0]}", lambda match: (len(match[1]) // 2) * "\\" + value[0], inside)
    return re.sub(r"(\\+)$", lambda match: (len(match[1]) // 2) * "\\", inside)


def arranged(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the flags first, since Hydra reads overrides only if no flag separates them.

    Overrides that choose nothing where nothing is the default are left out; `~` at the beginning of a path is expanded.
    """
    overrides, flags = _split(arguments)
    last = [group for group in flags if group[0] in _LAST_FLAGS]  # a word after them would be their value
    first = [group for group in flags if group not in last]
    words = [word for group in first for word in group]
    return [*words, *(expanded(o) for o in overrides if o not in NO_CHOICE), *(word for group in last for word in group)]


def expanded(argument: str) -> str:
    """Return an override whose paths that begin with `~` name the home folder: `data.root=~/photos`."""
    key, equals, value = argument.partition("=")
    return f"{key}{equals}{_TEXTS.sub(_with_home, value)}" if equals else argument


def _with_home(match: re.Match[str]) -> str:
    text = unquoted(match[0])
    path = _home(text)
    return match[0] if path == text else path if _BARE.fullmatch(path) else quoted(path)


def _home(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111  # pathlib raises for a user who does not exist


def as_typed(overrides: ListConfig | list[str]) -> list[str]:
    """Return the overrides of a composed configuration as text, in which interpolations are not resolved."""
    from omegaconf import OmegaConf

    return [str(line) for line in OmegaConf.to_container(OmegaConf.create(overrides), resolve=False) or ()]


def _split(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the overrides and the flags, each flag with its value."""
    overrides: list[str] = []
    flags: list[list[str]] = []
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            overrides.append(word)
        elif word in VALUE_FLAGS:
            flags.append([word, *(_home(value) for value in islice(words, 1))])
        elif "=" in word:
            flag, _, value = word.partition("=")
            flags.append([f"{flag}={_home(value)}"])
        else:
            flags.append([word])
    return overrides, flags


def _flag(group: Sequence[str]) -> str:
    return group[0].partition("=")[0]


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]
