"""The code of parts that are not ours: what changes it, and what does not."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path

import pytest

from train.run.build import call_target
from train.run.own_code import own_code
from train.run.trust import set_trusted
from train.store.inputs import code_differences

SOURCES = {
    "mine/__init__.py": "",
    "mine/norms.py": '''"""Norms."""
import importlib

import numpy
from torch import nn

from mine import numbers
from mine.base import LIMIT, Base

named = importlib.import_module("named_in_a_string")


def own(scale: float = 1.0):
    """Return a norm."""
    from late import number

    return lambda channels: nn.GroupNorm(number() + numbers.zero() + named.zero(), channels)
''',
    "mine/base.py": "from .deep import deeper\n\nLIMIT = 3\n\n\nclass Base:\n    limit = LIMIT\n",
    "mine/deep/__init__.py": "from . import deeper\n",
    "mine/deep/deeper.py": "DEPTH = 2\n",
    "mine/numbers.py": "def zero() -> int:\n    return 0\n",
    "named_in_a_string.py": "def zero() -> int:\n    return 0\n",
    "late.py": "def number() -> int:\n    return 1\n",
    "unrelated.py": "VALUE = 1\n",
}
PARTS = {"norm": {"_target_": "mine.norms.own", "scale": 1.0}, "augment": {"flip": {"_target_": "train.parts.augment.flip"}}}

CHANGES = {
    "the function": ("mine/norms.py", "number() +", "2 * number() +", "mine.norms"),
    "a default": ("mine/norms.py", "scale: float = 1.0", "scale: float = 2.0", "mine.norms"),
    "an imported module": ("mine/numbers.py", "return 0", "return 1", "mine.numbers"),
    "an imported constant": ("mine/base.py", "LIMIT = 3", "LIMIT = 4", "mine.base"),
    "a relative import": ("mine/deep/deeper.py", "DEPTH = 2", "DEPTH = 3", "mine.deep.deeper"),
    "the package of a relative import": ("mine/deep/__init__.py", "deeper\n", "deeper as deeper\n", "mine.deep"),
    "the package": ("mine/__init__.py", "", "import unrelated\n", "mine"),
    "a module named in a string": ("named_in_a_string.py", "return 0", "return 1", "named_in_a_string"),
    "a module imported in a function": ("late.py", "return 1", "return 2", "late"),
}
SAME = {
    "comment": ("mine/norms.py", "import numpy", "import numpy  # for numbers"),
    "docstring": ("mine/norms.py", "Return a norm.", "Return the norm."),
    "formatting": ("mine/base.py", "LIMIT = 3", "LIMIT = (\n    3\n)"),
    "a module that is not imported": ("unrelated.py", "1", "2"),
}


def code_in(folder: Path, monkeypatch: pytest.MonkeyPatch, sources: dict[str, str]) -> dict[str, str]:
    """Return the code of PARTS, built from `sources`, in a process that has loaded another module besides."""
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    before = set(sys.modules)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        __import__("unrelated")
        set_trusted(("mine",))
        call_target("norm", PARTS["norm"], {})
        found = own_code(PARTS)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    return found


def edited(file: str, old: str, new: str) -> dict[str, str]:
    assert old in SOURCES[file]
    return SOURCES | {file: SOURCES[file].replace(old, new) if old else new}


@pytest.mark.parametrize("change", CHANGES)
def test_own_code_names_the_module_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    file, old, new, module = CHANGES[change]
    before = code_in(tmp_path / "before", monkeypatch, SOURCES)
    after = code_in(tmp_path / "after", monkeypatch, edited(file, old, new))
    difference = code_differences(before, after)
    assert difference.startswith(f"{module}: source ")
    assert ";" not in difference, "no other module has changed"


@pytest.mark.parametrize("change", SAME)
def test_own_code_ignores_what_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    before = code_in(tmp_path / "before", monkeypatch, SOURCES)
    assert code_in(tmp_path / "after", monkeypatch, edited(*SAME[change])) == before


def test_own_code_holds_modules_and_versions_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = code_in(tmp_path, monkeypatch, SOURCES)
    ours = {"mine", "mine.norms", "mine.base", "mine.deep", "mine.deep.deeper", "mine.numbers", "named_in_a_string", "late"}
    assert set(found) == ours | {"numpy"}
    assert found["numpy"] == metadata.version("numpy")
    importlib.import_module("torchvision.ops")
    assert own_code({"norm": {"_target_": "torchvision.ops.FrozenBatchNorm2d"}}) == {
        "torchvision": metadata.version("torchvision")
    }
    assert own_code({"norm": {"_target_": "train.parts.norm.batch"}, "optimizer": {"_target_": "torch.optim.SGD"}}) == {}


def test_code_differences_of_versions_and_of_what_is_not_recorded() -> None:
    assert code_differences({"timm": "1.0.3"}, {"timm": "1.0.4"}) == "timm: 1.0.3 -> 1.0.4"
    assert code_differences(None, {"mine": "source 1"}) == "the code of mine is not recorded"
    assert code_differences(None, {}) == code_differences({"a": "1"}, {"a": "1", "b": "2"}) == ""
