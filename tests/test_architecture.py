"""docs/architecture.md shows today's imports and names only what exists."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from scripts.architecture import DOCUMENT, PACKAGE, ROOT, circles, floors, package_imports, reduced, with_picture

TEXT = DOCUMENT.read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATH = re.compile(r"`((?:train|tests|scripts|conf|hydra_plugins)/[\w./]*)`")
MENTIONED = sorted({*PATH.findall(TEXT), *PATH.findall(CONTRIBUTING)})
FILES = sorted(set(re.findall(r"`(\w+\.py)`", TEXT + CONTRIBUTING)))
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", TEXT)))
EXTENSIONS = CONTRIBUTING.partition("## Where each other extension goes")[2].partition("\n## ")[0]
NAMES = sorted({*re.findall(r"`([A-Za-z_]\w+)`", EXTENSIONS)} - {"activation_std"})  # a tag
FUNCTIONS = sorted(set(re.findall(r"`(train/[\w/]+\.py): (\w+)(?:\.(\w+))?`", TEXT + CONTRIBUTING)))


def test_picture_is_that_of_the_imports() -> None:
    assert with_picture(TEXT) == TEXT, "Run: python scripts/architecture.py"


def test_architecture_script_checks_the_picture() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "architecture.py"), "--check"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("path", MENTIONED)
def test_mentioned_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", FILES)
def test_mentioned_file_exists(name: str) -> None:
    assert any(path.name == name for folder in ("train", "tests", "scripts") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_mentioned_name_is_defined(name: str) -> None:
    definition = re.compile(rf"^(?:(?:def|class) {name}\b|{name}\b.* = )", re.MULTILINE)
    assert any(definition.search(path.read_text()) for path in PACKAGE.rglob("*.py")), f"nothing in train/ defines {name}"


@pytest.mark.parametrize(("path", "name"), TESTS, ids="::".join)
def test_mentioned_test_exists(path: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path} has no {name}"


@pytest.mark.parametrize(("path", "name", "member"), FUNCTIONS, ids=lambda part: part)
def test_mentioned_function_exists(path: str, name: str, member: str) -> None:
    text = (ROOT / path).read_text()
    assert re.search(rf"^(def|class) {name}\b|^{name}\b.* = ", text, re.MULTILINE), f"{path} has no {name}"
    assert not member or re.search(rf"^    def {member}\(", text, re.MULTILINE), f"{path}: {name} has no {member}"


def test_every_package_has_a_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders <= rows


def test_every_invariant_names_a_test() -> None:
    section = TEXT.partition("## Invariants")[2].partition("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) >= 12
    assert all(re.search(r"`tests/[\w/]+\.py(::test_\w+)?`", row) for row in rows)


GRAPH = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": {"b"}, "e": {"a", "b"}, "f": set()}


def test_circles_are_found() -> None:
    assert circles(GRAPH) == [["b", "c", "d"]]
    assert circles({"a": {"b"}, "b": set()}) == []
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}) == [["a", "b"], ["c", "d"]]


def test_reduced_graph_reaches_the_same() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert floors(graph) == [["a"], ["b"], ["c"], ["d"]]


def test_packages_stand_above_what_they_import() -> None:
    graph = package_imports()
    height = {package: level for level, floor in enumerate(floors(graph)) for package in floor}
    assert all(height[package] < height[target] for package, targets in graph.items() for target in targets)
