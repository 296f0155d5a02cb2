"""The pages of `train --help`: the overview; groups, choices, sections and keys, by the comments of the YAML files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from train.command import overrides_of
from train.errors import UsageError
from train.escape import shell_command
from train.help.catalogue import Catalogue, Setting
from train.help.comments import Page
from train.help.layout import fitted, terminal_width

GROUPS = "$APP_CONFIG_GROUPS"
"""What stands in the text of the overview for the lines of groups and choices; Hydra's own word for it."""
WIDEST_KEY = 44
"""Columns of the keys of a page; a key that needs more is followed by its meaning."""
_QUESTION = re.compile(r"[\w./]+=?\?")
AXES = "hydra.sweeper.params."


def topics_of(arguments: Sequence[str]) -> list[str] | None:
    """Return what the arguments of `train` ask help for: a word or override beside --help, or one that ends in `?`.

    Empty for the overview, None for a command that asks for no help.
    """
    overrides = overrides_of(arguments)
    if {"--help", "-h"} & {*arguments}:
        return overrides
    return [override for override in overrides if _QUESTION.fullmatch(override)] or None


def help_page(folders: Sequence[Path], topics: Sequence[str]) -> str:
    """Return the overview, or the pages of `topics`, in lines that fit the terminal. UsageError for a topic that does not exist.

    `folders`: with YAML files, the program's own first; `topics`: groups, choices, sections or keys, also as overrides.
    """
    catalogue = Catalogue(folders)
    pages = ["\n".join(_page(catalogue, topic)) for topic in topics] or [_overview(catalogue, folders[0])]
    return fitted("\n\n".join(dict.fromkeys(pages)).rstrip(), terminal_width())


def unknown_topic(catalogue: Catalogue, word: str) -> UsageError:
    """Return the error for a word that is neither a group, nor a choice, a section or a key."""
    groups = [group for group in catalogue.groups if "/" not in group]
    sections = [section for section in _sections(catalogue) if "." not in section]
    choices = [name for group in catalogue.groups for name in catalogue.choices(group)]
    names = {*groups, *sections, *choices, *(s.name for s in catalogue.settings), *(s.leaf for s in catalogue.settings)}
    settings = catalogue.settings_named(word) or catalogue.settings_about(word)
    meant = [setting.name for setting in settings] or difflib.get_close_matches(word, names, n=1)
    hint = f"Did you mean '{meant[0]}'?" if meant else f"Known: {', '.join([*groups, *sections])}, and their choices and keys."
    return UsageError(f"--help {word}: there is nothing of this name. {hint}")


def _overview(catalogue: Catalogue, conf: Path) -> str:
    text = str(yaml.safe_load((conf / "hydra" / "help" / "train.yaml").read_text(encoding="utf-8"))["template"])
    before, _, after = text.partition(GROUPS)
    margin = before.rpartition("\n")[2]
    groups = [group for group in catalogue.groups if not group.startswith("hydra/")]
    width = max(map(len, groups)) + 2
    return before + f"\n{margin}".join(f"{group:<{width}}{_names(catalogue, group)}" for group in groups) + after


def _names(catalogue: Catalogue, group: str) -> str:
    return " ".join(f"{name}*" if name == catalogue.default(group) else name for name in catalogue.choices(group))


def _page(catalogue: Catalogue, topic: str) -> Iterator[str]:
    word, _, value = topic.lstrip("+~").partition("=")
    word, value = word.rstrip("?"), value.strip("[]'\"").rstrip("?")
    group = word if word in catalogue.groups else word.replace(".", "/")
    if group in catalogue.groups:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if unknown := [name for name in names if name not in catalogue.choices(group)]:
            known = ", ".join(catalogue.choices(group))
            raise UsageError(f"--help {group}={unknown[0]}: there is no such choice. Known: {known}.")
        yield from _group(catalogue, group, names)
    elif word in _sections(catalogue):
        yield from _section(catalogue, word)
    else:
        yield from _word(catalogue, word)


def _sections(catalogue: Catalogue) -> list[str]:
    return [setting.name for setting in catalogue.shared if not setting.value and setting.name not in catalogue.groups]


def _group(catalogue: Catalogue, group: str, names: Sequence[str]) -> Iterator[str]:
    for name in names or catalogue.choices(group):
        yield f"{group}={name}{'  (default)' if name == catalogue.default(group) else ''}"
        yield from _choice(catalogue, group, name)
        yield ""
    shared = [setting for setting in catalogue.shared if setting.name.startswith(f"{group}.") and setting.value]
    if shared:
        yield f"With every choice of {group}"
        yield from _lines(shared, 4)


def _choice(catalogue: Catalogue, group: str, name: str) -> Iterator[str]:
    page = catalogue.page(group, name)
    yield from (f"  {line}" for line in page.head)
    if page.is_global:
        yield f"    sets  {shell_command(_set_by(page))}"
    yield from _lines(catalogue.settings_of(group, name), 4)


def _set_by(page: Page) -> list[str]:
    """Return the overrides that do what a recipe or a study does."""
    chosen = [f"{group}=[{name}]" if "," in name else f"{group}={name}" for group, name in page.defaults.items() if name]
    keys = [(key.name.removeprefix(AXES), key.value) for key in page.keys if key.value]
    return [*chosen, *(f"{name}={value}" for name, value in keys if not name.startswith("hydra."))]


def _section(catalogue: Catalogue, name: str) -> Iterator[str]:
    settings = [setting for setting in catalogue.shared if setting.name == name or setting.name.startswith(f"{name}.")]
    yield name
    if settings[0].comment:
        yield f"  {settings[0].comment}"
    yield from _lines([setting for setting in settings if setting.value], 4)


def _word(catalogue: Catalogue, word: str) -> Iterator[str]:
    """Yield what a word names: choices called so, and keys with this name or last part."""
    exact = [setting for setting in catalogue.settings if setting.name == word]
    settings = exact or [setting for setting in catalogue.settings if setting.leaf == word]
    choices = catalogue.choices_called(word)
    if not settings and not choices:
        raise unknown_topic(catalogue, word)
    for choice in choices:
        group, _, name = choice.partition("=")
        yield from _group(catalogue, group, [name])
    yield from _lines([catalogue.with_choice(setting) for setting in _distinct(settings)], 0)


def _distinct(settings: Sequence[Setting]) -> list[Setting]:
    """Return each key once: as the default choice has it, else as each choice that has it does."""
    default = {setting.name for setting in settings if not setting.choice}
    found = dict[tuple[str, str], Setting]()
    for setting in settings:
        group = setting.choice.partition("=")[0]
        if setting.choice and setting.name in default:
            continue
        found.setdefault((setting.name, group), setting)
    return list(found.values())


def _lines(settings: Sequence[Setting], indent: int) -> Iterator[str]:
    """Yield a line per key, in two columns."""
    words = [_typed(setting) for setting in settings]
    width = max([0, *(len(word) for word in words if len(word) <= WIDEST_KEY)]) + 2
    for word, setting in zip(words, settings, strict=True):
        yield f"{' ' * indent}{word:<{width}}{'' if len(word) < width - 1 else '  '}{setting.comment}".rstrip()


def _typed(setting: Setting) -> str:
    """Return a key as it is typed; without its value where that is an interpolation."""
    *choice, name = setting.name.split(" ")
    return shell_command([*choice, name if "${" in setting.value else f"{name}={setting.value}"])
