"""What can be chosen and set: the groups, choices and keys of `conf/` and of the user's own folders, from the files alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from train.errors import UsageError
from train.help.comments import Key, Page, read_page

HIDDEN = ("hydra/help",)
MOST_SUGGESTIONS = 3
NOTHING = {"none", "off", "no", "false", "null"}


@dataclass(frozen=True)
class Setting:
    """A key as it is typed, such as `norm.groups`. `choice`: as `norm=group`, empty for a key that every run has."""

    name: str
    value: str
    comment: str
    choice: str = ""

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


class Catalogue:
    """The YAML files of `folders`, the program's own first. A file that cannot be read counts as empty, but for its own page."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self._files: dict[str, dict[str, Path]] = {}
        for folder in folders:
            for path in sorted(folder.glob("*/**/*.yaml")):
                group = path.relative_to(folder).parent.as_posix()
                if group not in HIDDEN:
                    self._files.setdefault(group, {}).setdefault(path.stem, path)
        self.root = read_page(folders[0] / "config.yaml")
        self._pages: dict[str, Page] = {}

    @property
    def groups(self) -> list[str]:
        """The groups, in the order in which the configuration chooses from them, then the others."""
        chosen = [group for group in self.root.defaults if group in self._files]
        return [*chosen, *(group for group in self._files if group not in chosen)]

    def default(self, group: str) -> str:
        return self.root.defaults.get(group, "")

    def choices(self, group: str) -> list[str]:
        """Return the names of a group's choices, the default first; none of what is no group."""
        names = sorted(self._files.get(group, ()))
        return sorted(names, key=lambda name: name != self.default(group))

    def page(self, group: str, name: str) -> Page:
        """Return the page of a choice. UsageError when its file cannot be read."""
        key = f"{group}={name}"
        if key not in self._pages:
            self._pages[key] = read_page(self._files[group][name])
        return self._pages[key]

    def settings_of(self, group: str, name: str) -> list[Setting]:
        """Return the keys of a choice as they are typed; none of a recipe, which sets keys of others."""
        try:
            page = self.page(group, name)
        except UsageError:
            return []
        prefix = group.replace("/", ".")
        keys = [key for key in page.keys if not key.name.endswith("_target_")]
        return [] if page.is_global else [_setting(key, f"{prefix}.", f"{group}={name}") for key in keys if _is_value(key)]

    @cached_property
    def shared(self) -> list[Setting]:
        """The keys that every run has, sections too."""
        return [_setting(key, "", "") for key in self.root.keys]

    @cached_property
    def settings(self) -> list[Setting]:
        """All keys that have a value, those of the default choices first."""
        of_choices = [(group, name) for group in self.groups for name in self.choices(group)]
        of_choices.sort(key=lambda choice: self.default(choice[0]) != choice[1])
        found = [setting for choice in of_choices for setting in self.settings_of(*choice)]
        return [*(setting for setting in self.shared if setting.value), *found]

    def with_choice(self, setting: Setting) -> Setting:
        """Return a key that its group's default lacks with the choice in front: `norm=group norm.groups`."""
        group, _, name = setting.choice.partition("=")
        return setting if name in ("", self.default(group)) else replace(setting, name=f"{setting.choice} {setting.name}")

    def settings_named(self, word: str) -> list[Setting]:
        """Return the keys that a word may name, the likeliest alone: `lr`, `groups`, `batchsize`, `wd`, `num_workers`."""
        leaf = word.rpartition(".")[2]
        plain = _plain(leaf)
        return self._first(
            lambda setting: setting.name == word,
            lambda setting: _plain(setting.name) == _plain(word),
            lambda setting: _plain(setting.leaf) == plain,
            lambda setting: len(plain) > 1 and "".join(part[:1] for part in setting.leaf.split("_")) == plain,
            lambda setting: len(setting.leaf) > 1 and setting.leaf in re.split(r"[^a-z]+", leaf.lower()),
        )

    def settings_about(self, word: str) -> list[Setting]:
        """Return the keys whose comment begins with a word, such as `learning_rate`, or else has it."""
        words = word.rpartition(".")[2].replace("_", " ").lower()
        return self._first(
            lambda setting: len(words) > 2 and setting.comment.lower().startswith(words),
            lambda setting: len(words) > 4 and _has_word(setting.comment, words) and not setting.choice.startswith("hydra/"),
        )

    def _first(self, *rules: Callable[[Setting], bool]) -> list[Setting]:
        """Return the keys that follow the first of the rules that any does, each once."""
        for rule in rules:
            found: dict[str, Setting] = {}
            for setting in filter(rule, self.settings):
                found.setdefault(setting.name, setting)
            if found:
                return sorted(found.values(), key=lambda setting: setting.name.startswith(("seeds.", "hydra.")))
        return []

    def choices_meant(self, group: str, word: str) -> list[str]:
        """Return the choices of a group that a word may mean, the likeliest alone: by their names, else by their comments."""
        names, plain = self.choices(group), _plain(word)
        rules: tuple[Callable[[str], bool], ...] = (
            lambda name: _plain(name) == plain,
            lambda name: len(plain) > 2 and plain in _plain(name),
            lambda name: self._text(group, name).lower().startswith(f"{word.lower()} "),
            lambda name: _has_word(self._text(group, name), word),
            lambda name: len(name) > 2 and _plain(name) in plain,
            lambda name: plain in NOTHING and name in NOTHING,
            lambda name: len(word) > 4 and word.lower() in self._text(group, name).lower(),
            lambda name: any(
                len(part) > 1 and _has_word(self._text(group, name), part) for part in re.split(r"[_\W]+", word)[:1]
            ),
        )
        for rule in rules:
            if plain and (found := [name for name in names if rule(name)]):
                return found[:MOST_SUGGESTIONS]
        return []

    def groups_named(self, word: str) -> list[str]:
        """Return the groups that a word names by all of their name or its last part, in any case: `NORM`, `launcher`."""
        return [group for group in self.groups if word.lower() in (group, group.rpartition("/")[2])]

    def choices_called(self, word: str) -> list[str]:
        """Return every choice with this name, as `norm=group`."""
        return [f"{group}={word}" for group in self.groups if word in self.choices(group)]

    def _text(self, group: str, name: str) -> str:
        try:
            page = self.page(group, name)
        except UsageError:
            return ""
        return " ".join([page.text, *(key.value for key in page.keys if not key.name.endswith("_target_"))])


def _setting(key: Key, prefix: str, choice: str) -> Setting:
    return Setting(f"{prefix}{key.name}", key.value, key.comment, choice)


def _is_value(key: Key) -> bool:
    return bool(key.value)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _plain(word: str) -> str:
    return re.sub(r"[\W_]+", "", word).lower()
