"""JSON and YAML of unknown origin as plain values: mappings, lists, text, numbers, true, false and null."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH = 64
"""Of mappings and lists in each other. Everything that walks through stored values may call itself for each level."""
SAFE_DEPTH = 200
"""As many levels of a YAML are read without counting them first."""
MAX_BITS = 128
"""Of a whole number. It still becomes a float and a text."""

_LONG_MARGIN = re.compile(rf"^[ \t\-?:]{{{SAFE_DEPTH}}}", re.MULTILINE)
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
_KEYS = (str, int, float, bool, type(None))


class MalformedError(ValueError):
    """A stored file does not hold what it should. The text names the file and says what is wrong."""


def parse_json(content: bytes, name: str) -> Any:
    """Return the value of a JSON text. MalformedError if it is none or has no plain value. `name`: of the file.

    Half of a character, which an escape can name and which stands for a byte in the name of a file, becomes a question mark.
    """
    try:
        value = json.loads(content)
        if b"\\u" in content:
            value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{name} is not valid JSON ({_short(error)})") from None
    check_plain(value, name)
    return value


def parse_yaml(content: bytes, name: str) -> Any:
    """Return the value of a YAML text. MalformedError if it is none, has an alias or a tag, or has no plain value."""
    import yaml  # here, as metrics need only JSON

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, if available, is ten times faster
    try:
        text = content.decode("utf-8")
        if _may_be_deep(text):
            _check_depth(yaml.parse(text, Loader=loader), name)
        loaded = loader(text)
        try:
            node = loaded.get_single_node()
            _check_nodes(node, name)
            value = None if node is None else loaded.construct_document(node)
        finally:
            loaded.dispose()
    except MalformedError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise MalformedError(f"{name} is not valid YAML ({_short(error)})") from None
    check_plain(value, name)
    return value


def _may_be_deep(text: str) -> bool:
    """Return whether a YAML text may have so many levels that libyaml's loader, which calls itself for each, ends the process.

    A level takes a bracket, or a place in front of the first word of a line.
    """
    return text.count("[") + text.count("{") > SAFE_DEPTH or _LONG_MARGIN.search(text) is not None


def _check_depth(events: Iterable[Any], name: str) -> None:
    """Refuse a YAML that is nested too deeply by what its parser reports, which calls itself for no level."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind in ("SequenceStartEvent", "MappingStartEvent")
        depth -= kind in ("SequenceEndEvent", "MappingEndEvent")
        if depth > MAX_DEPTH:
            raise MalformedError(f"{name} is nested deeper than {MAX_DEPTH} levels")


def _check_nodes(node: Any, name: str) -> None:
    """Refuse a YAML that says more than plain values, before these are made: aliases multiply."""
    seen: set[int] = set()
    pending = [] if node is None else [(node, 1)]
    while pending:
        node, depth = pending.pop()
        if id(node) in seen:
            raise MalformedError(f"{name} uses an alias (*), which no file of a run does")
        seen.add(id(node))
        if depth > MAX_DEPTH:
            raise MalformedError(f"{name} is nested deeper than {MAX_DEPTH} levels")
        if node.tag not in _TAGS:
            raise MalformedError(f"{name} holds a value of the kind {node.tag[-40:]!r}, which no file of a run does")
        if not isinstance(node.value, str):
            inner: Iterable[Any] = (part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,)))
            pending += [(part, depth + 1) for part in inner]


def check_plain(value: Any, name: str) -> None:
    """Raise MalformedError for values nested too deeply, numbers that are too long, and text that is no Unicode."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise MalformedError(f"{name} is nested deeper than {MAX_DEPTH} levels")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                _check_keys(item, name)
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif not (isinstance(item, str) and item.isascii()):  # most are: without a call
                _check_leaf(item, name)
        level = below


def _check_keys(mapping: dict[Any, Any], name: str) -> None:
    try:
        if "".join(mapping).isascii():
            return
    except TypeError:  # not all are text
        pass
    for key in mapping:
        if not isinstance(key, _KEYS):
            raise MalformedError(f"{name} has a key that is no text")
        _check_leaf(key, name)
    if len({isinstance(key, str) for key in mapping}) > 1:
        raise MalformedError(f"{name} has keys that are text and others that are not in one mapping")


def _check_leaf(value: Any, name: str) -> None:
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise MalformedError(f"{name} holds text that is no Unicode (half of a character)") from None
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise MalformedError(f"{name} holds a number of {value.bit_length():,} bits")


def _short(error: Exception) -> str:
    """Return an error in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
