"""The identity of the code that makes a run's numbers, so that runs of one configuration are known to be comparable.

A commit would not tell: it changes with the documentation, and does not change with an edit that was not committed. The id
ignores comments, docstrings and formatting. Ids that `scripts/same_bits.py` has proved to make the same bits are listed as
equivalent.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("run", "observe", "data", "parts", "config.py", "rng.py")
"""What a run's numbers depend on. Reports, sinks and sweeps may change between two runs of one experiment."""

EQUIVALENT = Path(__file__).with_name("equivalent_code.txt")
"""One id a line, then why it is there."""

VERSION_OF = "torch"


@cache
def code_id() -> str:
    """Return twelve hexadecimal digits: a hash of the sources that make a run's numbers."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for name in PACKAGES:
        top = package / name
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            digest.update(f"{path.relative_to(package).as_posix()}\0{source_id(path.read_bytes())}\0".encode())
    return digest.hexdigest()[:12]


def source_id(source: bytes) -> str:
    """Return a hash of what a Python source does: the same whatever its comments, docstrings and formatting.

    It is taken from the syntax tree, field by field: the text forms of the standard library differ between versions of Python.
    """
    return hashlib.sha256("\0".join(_tokens(ast.parse(source))).encode()).hexdigest()


def _tokens(node: Any) -> Iterator[str]:
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some format specifications with an empty text
                value = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
            if value is not None and value != [] and name != "kind":  # `kind` is the u of u"", and type comments are comments
                yield name
                yield from _tokens(value)
        yield ")"
    elif isinstance(node, list):
        for item in node:
            if not _does_nothing(item):
                yield from _tokens(item)
    else:
        yield f"{type(node).__name__} {node!r}"


def _does_nothing(node: Any) -> bool:
    """Return whether a statement is a docstring or `pass`."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


@cache
def equivalent_ids() -> frozenset[str]:
    """Return the listed ids, all of which make the same numbers as each other."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines if line.strip() and not line.startswith("#"))


def is_same_code(other: str, present: str | None = None) -> bool:
    """Return whether code with the id `other` makes the same numbers as the present code.

    An edit that nobody has proved leaves the list: then only its own id is the same.
    """
    present = code_id() if present is None else present
    return other == present or {other, present} <= equivalent_ids()


def other_code(status: Mapping[str, Any]) -> str:
    """Return how the code of the run with this status.json differs from the present one; empty when it makes the same numbers."""
    made = dict(status.get("versions") or {})
    now = metadata.version(VERSION_OF)
    if made.get(VERSION_OF, now) != now:
        return f"made with {VERSION_OF} {made[VERSION_OF]}, this is {now}"
    if not is_same_code(str(status.get("code", ""))):
        return "made by another version of this program"
    return ""
