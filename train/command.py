"""Commands as text that can be pasted, and the arguments of a command in the order in which Hydra reads them.

Every command that is printed is made here: its words are quoted for a POSIX shell, and values inside them for Hydra's grammar.
What a run or sweep prints about itself names the parts of its user; a stored command does not: it may be a stranger's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from train.escape import shell_command

if TYPE_CHECKING:
    from omegaconf import ListConfig


def config_dir() -> Path:
    """Return the folder `conf/`: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


CONFIG_DIR = "--config-dir"
FOLDER_FLAGS = (CONFIG_DIR, "-cd", "--config-path", "-cp")
VALUE_FLAGS = (*FOLDER_FLAGS, "--config-name", "-cn", "--cfg", "-c", "--package", "-p")
"""Hydra's flags that are followed by a value."""
NO_CHOICE = ("experiment=null", "study=null")
"""Overrides that set a group to what the configuration shows as its default. Hydra itself refuses to be told."""
ONE_TIME_KEYS = ("hydra.sweep.dir", "sweep.resume", "sweep.dry_run", "sweep.rerun")
"""Keys of a sweep's command that the command repeating it omits."""

MULTIRUN = ("-m", "--multirun")
TO_RESUME = "; to resume: "
"""What stands between a reason and the command that resumes the run."""

_OF_OWN_PARTS = (*FOLDER_FLAGS, "trust", "hydra.searchpath")
_OF_PLACE = (*ONE_TIME_KEYS, "hydra.run.dir", "resume")
"""Keys of one command alone."""
_MOST_NAMES = 8
_REMEDY = "Name them yourself if you trust them."
_SETTING = re.compile(r"[+~]{0,2}[a-z_](?!.*\.\.)[\w/.-]*", re.ASCII | re.IGNORECASE)
"""A key without a package (`norm@hydra=x`), which would set keys elsewhere, and without steps up from its folder."""
_LAST_FLAGS = ("--info", "-i")
_BARE = re.compile(r"[\w./+@%-]+", re.ASCII)
_NO_TEXT = re.compile(r"[+-]?(\.?\d[\d_.]*(e[+-]?\d+)?|inf|nan)|null|true|false", re.IGNORECASE)
"""What Hydra reads as a number, a truth value or nothing."""
_TEXTS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<![^\[,(])~[^'",\[\](){}]*""")
"""The texts of a value in quotes, and those without quotes that begin with a home folder."""


def train_command(overrides: Iterable[str]) -> str:
    """Return the command that trains with stored `overrides`, without those that `kept` leaves out."""
    return shell_command(["train", *kept([*overrides])])


def stored_command(command: Sequence[str], folder: Path | None = None) -> str:
    """Return a command of `train` that was stored, without what `kept` leaves out; `folder`: of the sweep that it repeats."""
    arguments = kept(command[1:])
    return repeat_command(arguments, folder) if folder else shell_command(["train", *arguments])


def kept(stored: Sequence[str]) -> list[str]:
    """Return those of the stored arguments that may stand in a command to be pasted: what sets values and chooses parts of ours.

    A reader who pastes it runs what it names. So nothing is kept that trusts a package, adds a folder of YAML files, sets one of
    Hydra's own keys (which name functions to call), or takes a file from outside the folder of its group.
    """
    overrides, flags = _split([str(argument) for argument in stored])
    return [*(group[0] for group in flags if group[0] in MULTIRUN), *(line for line in overrides if _sets_value(line))]


def left_out(*stored: Sequence[str]) -> str:
    """Return one sentence on what `kept` leaves out of commands with these arguments; empty if that is nothing of importance."""
    packages, folders, others = dict[str, None](), dict[str, None](), dict[str, None]()
    for arguments in stored:
        words = [str(argument) for argument in arguments]
        overrides, flags = _split(words)
        packages |= dict.fromkeys(o.partition("=")[2].strip("[]") for o in overrides if _key(o) == "trust")
        folders |= dict.fromkeys(map(str, config_folders(words)))
        dropped = [_key(o) for o in overrides if "=" in o and not _sets_value(o)] + [_flag(group) for group in flags]
        others |= dict.fromkeys(name for name in dropped if name not in (*_OF_OWN_PARTS, *_OF_PLACE, *MULTIRUN))
    named = [("packages to trust", packages), ("config folders", folders), ("settings", others)]
    lists = [
        f"{what}: {', '.join([*names][:_MOST_NAMES])}{' ...' if len(names) > _MOST_NAMES else ''}"
        for what, names in named
        if names
    ]
    return f"The commands are left without what a stored folder must not choose ({'; '.join(lists)}). {_REMEDY}" if lists else ""


def resume_command(folder: Path, own: Sequence[str] = ()) -> str:
    """Return the command that resumes the run in `folder`."""
    text = str(folder)
    plain = re.fullmatch(r"[\w./+@%=,-]+", text) and text not in ("auto", "null")  # `resume` is read before Hydra reads it
    return shell_command(["train", *own, f"resume={text}" if plain else f"resume={quoted(text)}"])


def repeat_command(arguments: Sequence[str], folder: Path) -> str:
    """Return the command that repeats a sweep in its folder. `arguments`: as typed."""
    repeated = [argument for argument in arguments if _key(argument) not in ONE_TIME_KEYS]
    return shell_command(["train", *arranged([*repeated, override("hydra.sweep.dir", str(folder))])])


def tensorboard_command(folder: Path) -> str:
    """Return the command that opens TensorBoard on a folder."""
    return shell_command(["tensorboard", "--logdir", str(folder)])


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


def _sets_value(override: str) -> bool:
    """Return whether an override sets a value, chooses one of the choices of a group, or deletes a key, and none of Hydra's."""
    key, equals, value = override.partition("=")
    name = _key(override)
    if not _SETTING.fullmatch(key) or not (equals or key.startswith("~")):
        return False
    leads_out = "." not in name and re.search(r"\.\.|[$\\]", value)  # of the folder of a group, also put together
    return re.split(r"[./]", name)[0] not in ("hydra", "resume", "trust") and not leads_out


def _flag(group: Sequence[str]) -> str:
    return group[0].partition("=")[0]


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]
