"""YAML of unknown origin: whatever its depth, it is read or refused, and the process lives.

Some builds of libyaml have no limit, and end the process in the depths of a text; so the texts are read in one of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from train.store.plain import MAX_DEPTH, MalformedError, parse_yaml

SHAPES = {
    "flow lists": lambda depth: "a: " + "[" * depth + "]" * depth,
    "flow mappings": lambda depth: "{a: " * depth + "1" + "}" * depth,
    "flow lists over lines": lambda depth: "\n".join([*("[" * depth), *("]" * depth)]),
    "lists on one line": lambda depth: "- " * depth + "x",
    "lists with tabs": lambda depth: "-\t" * depth + "x",
    "keys on one line": lambda depth: "? " * depth + "x",
    "mappings by margin": lambda depth: "\n".join(f"{' ' * level}a:" for level in range(depth)) + " 1",
    "lists in mappings": lambda depth: "\n".join(f"{' ' * level}a:\n{' ' * level}-" for level in range(depth // 2)) + " 1",
    "open flow": lambda depth: "a: " + "[" * depth,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_deep_yaml_is_refused(shape: str) -> None:
    program = (
        "import sys\n"
        "from train.store.plain import MalformedError, parse_yaml\n"
        "from tests.store.test_plain import SHAPES\n"
        f"for depth in (100, 190, 250, 900, 5_000, {6_000 if 'mappings' in shape else 100_000}):\n"
        "    try:\n"
        f"        parse_yaml(SHAPES[{shape!r}](depth).encode(), 'file')\n"
        "        sys.exit(f'{depth} was read')\n"
        "    except MalformedError as error:\n"
        "        print(depth, str(error)[:60])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in ("open flow", "keys on one line", "lists with tabs")])
def test_shallow_yaml_is_read(shape: str) -> None:
    parse_yaml(SHAPES[shape](MAX_DEPTH // 2).encode(), "file")


def test_yaml_of_many_short_lists_and_long_margins_is_read() -> None:
    assert parse_yaml(("\n".join(f"a{i}: [1, {{b: 2}}]" for i in range(500))).encode(), "file")["a499"] == [1, {"b": 2}]
    assert parse_yaml(b"a:\n" + b" " * 400 + b"b: 1\n", "file") == {"a": {"b": 1}}
    with pytest.raises(MalformedError, match="is not valid YAML"):
        parse_yaml(b"[" * 300 + b"\x00", "file")
