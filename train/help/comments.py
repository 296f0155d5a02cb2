"""What a YAML file says about itself: the comment at its beginning, and the keys with their values and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from train.errors import UsageError

PACKAGE = "# @package"
GLOBAL = f"{PACKAGE} _global_"


@dataclass(frozen=True)
class Key:
    """A key as its file writes it. `value`: empty for a section; `comment`: on one line."""

    name: str
    value: str
    comment: str


@dataclass(frozen=True)
class Page:
    """A file. `head`: the lines of its first comment; `keys`: all but `defaults`; `defaults`: group -> the chosen name.

    `is_global`: whether its keys are those of the whole configuration, as a recipe's are.
    """

    head: tuple[str, ...]
    keys: tuple[Key, ...]
    defaults: dict[str, str]
    is_global: bool

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in self.head)


def read_page(path: Path) -> Page:
    """Return the page of a file. UsageError when it cannot be read as YAML."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        return Page(tuple(_head(text)), tuple(_keys(root, "", text.splitlines(), text)), _defaults(root), text.startswith(GLOBAL))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path}: this file cannot be read as YAML ({reason}).") from None


def _head(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        if not line.startswith(PACKAGE):
            yield line.removeprefix("#").removeprefix(" ")


def _keys(node: yaml.Node | None, prefix: str, lines: list[str], text: str) -> Iterator[Key]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        if name == "defaults":
            continue
        is_section = isinstance(value, yaml.MappingNode) and not value.flow_style and bool(value.value)
        end = key.end_mark if is_section else value.end_mark
        after = lines[end.line][end.column :].lstrip(": ") if end.line < len(lines) else ""
        shown = "" if is_section else " ".join(text[value.start_mark.index : value.end_mark.index].split())
        yield Key(name, shown, _comment(after, key.start_mark, end.line, lines))
        if is_section:
            yield from _keys(value, f"{name}.", lines, text)


def _comment(after: str, start: yaml.Mark, last: int, lines: list[str]) -> str:
    """Return the comment of a key: lines above in its own column, what follows it, and lines below that begin to its right."""
    above: list[str] = []
    number = start.line - 1
    while number >= 0 and re.match(rf" {{{start.column}}}#", lines[number]):
        above.insert(0, lines[number])
        number -= 1
    if number < 0:  # the comment of the file
        above = []
    below: list[str] = []
    while last + 1 < len(lines) and re.match(rf" {{{start.column + 1},}}#", lines[last + 1]):
        last += 1
        below.append(lines[last])
    parts = [*above, *([after] if after.startswith("#") else []), *below]
    return " ".join(part.strip().removeprefix("#").strip() for part in parts)


def _defaults(root: yaml.Node | None) -> dict[str, str]:
    content = yaml.SafeLoader("").construct_document(root) if root is not None else None
    entries = content.get("defaults") if isinstance(content, dict) else None
    found: dict[str, str] = {}
    for entry in entries if isinstance(entries, list) else ():
        for group, choice in entry.items() if isinstance(entry, dict) else ():
            names = choice if isinstance(choice, list) else [choice]
            found[str(group).removeprefix("override ").lstrip("/")] = ",".join(map(str, names)) if choice is not None else ""
    return found
