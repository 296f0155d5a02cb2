"""The id of the code ignores edits that change no number, and all listed ids count as the same code."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from train.store import code
from train.store.code import code_difference, code_id, equivalent_ids, git_state, is_same_code, source_id, versions

SOURCE = b'''"""A module."""
import math


def area(radius: float) -> float:
    """Return the area of a circle."""
    return math.pi * radius**2 if radius > 0 else 0.0


LIMIT = 3
"""The upper limit."""


class Nothing:
    """Holds nothing."""
'''

SAME = {
    "comment": SOURCE.replace(b"LIMIT = 3", b"LIMIT = 3  # rounded"),
    "docstring": SOURCE.replace(b"Return the area of a circle.", b"Return an area."),
    "no docstring": SOURCE.replace(b'    """Return the area of a circle."""\n', b""),
    "docstring of a value": SOURCE.replace(b'"""The upper limit."""\n', b""),
    "docstring for pass": SOURCE.replace(b'    """Holds nothing."""', b"    pass"),
    "parentheses": SOURCE.replace(b"math.pi * radius**2", b"(math.pi * (radius**2))"),
    "trailing comma": SOURCE.replace(b"radius: float)", b"radius: float,)"),
    "blank lines": SOURCE.replace(b"\n\n\n", b"\n\n"),
}
OTHER = {
    "number": SOURCE.replace(b"LIMIT = 3", b"LIMIT = 4"),
    "type of a number": SOURCE.replace(b"LIMIT = 3", b"LIMIT = 3.0"),
    "operator": SOURCE.replace(b"math.pi * radius", b"math.pi + radius"),
    "order": SOURCE.replace(b"math.pi * radius**2", b"radius**2 * math.pi"),
    "annotation": SOURCE.replace(b"radius: float", b"radius: int"),
    "comparison": SOURCE.replace(b"> 0", b">= 0"),
    "text that is used": SOURCE + b'NAME = "The upper limit."\n',
}


@pytest.mark.parametrize("name", SAME)
def test_source_id_ignores_edits_without_effect(name: str) -> None:
    assert SAME[name] != SOURCE
    assert source_id(SAME[name]) == source_id(SOURCE)


@pytest.mark.parametrize("name", OTHER)
def test_source_id_changes_with_the_meaning(name: str) -> None:
    assert source_id(OTHER[name]) != source_id(SOURCE)


def test_source_id_ignores_the_formatter() -> None:
    assert source_id(b"f(a,\n  b,\n)\nx = 'y'\n") == source_id(b'f(a, b)\nx = "y"\n')


def test_is_same_code_needs_both_ids_in_the_list() -> None:
    listed = next(iter(equivalent_ids()))
    assert is_same_code("0" * 12, "0" * 12)
    assert is_same_code(listed, max(equivalent_ids()))
    assert not is_same_code(listed, "0" * 12), "an edit that was not proved bit-exact"
    assert not is_same_code("0" * 12, listed)


def test_code_id_of_this_checkout_is_listed() -> None:
    """If it were not, the runs made before an edit would be rerun. The list explains how to add an id."""
    assert code_id() in equivalent_ids(), (
        f"The code that determines numbers has changed: its id is {code_id()}. Commit, run "
        f"`python scripts/same_bits.py 03bcfb5 HEAD` and add the id to {code.EQUIVALENT.name} if the results are bit-exact. "
        "If they are meant to differ, empty the list."
    )


def test_other_code_names_the_difference() -> None:
    torch = metadata.version("torch")
    assert code_difference({"code": code_id(), "versions": {"torch": torch}}) == ""
    assert "another version of this program" in code_difference({"code": "0" * 12, "versions": {"torch": torch}})
    assert "torch 1.0" in code_difference({"code": code_id(), "versions": {"torch": "1.0"}})


def test_code_id_covers_existing_packages() -> None:
    package = Path(code.__file__).resolve().parents[1]
    assert all((package / name).exists() for name in code.PACKAGES)


def test_versions_and_git_state_describe_the_code(tmp_path: Path) -> None:
    assert {"train", "python", "torch", "hydra-core"} <= set(versions())
    assert git_state(tmp_path) is None, "outside a checkout there is no commit"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    clean = git_state(tmp_path)
    (tmp_path / "file").write_text("2")
    changed = git_state(tmp_path)
    assert clean is not None
    assert changed is not None
    assert (len(clean["commit"]), clean["dirty"], changed["dirty"]) == (40, False, True)
