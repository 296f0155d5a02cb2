"""What comes from elsewhere (configurations, run folders, images) runs no code; and names of every kind work."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.harness import SMALL, run_here, settings_for
from train.data.decode import decode
from train.errors import RunError, UsageError
from train.run.build import build
from train.run.resume import command_line, stored_overrides, trusted_packages
from train.run.trust import refuse_hydra_calls
from train.store.run import read_run

Train = Callable[..., "subprocess.CompletedProcess[str]"]
STRANGERS = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "torch.hub.load",
    "torch.load",
    "torch.nn.os.system",
    "torch.nn.modules.module.warnings.sys.exit",
    "torch.optim.Optimizer.__init__.__globals__",
    "train.parts.init.math.sqrt",
    "train.run.folder.run_git",
    "train.cli.main",
    "trainer.parts.anything",
    "hydra.utils.instantiate",
]


@pytest.mark.parametrize("target", STRANGERS)
def test_a_configuration_calls_nothing_but_what_trains(target: str) -> None:
    with pytest.raises(UsageError, match=r"norm\._target_="):
        build(settings_for([*SMALL, f"norm._target_={target}"]))


def test_what_is_trusted_is_called_and_nothing_is_imported_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_by_nobody.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="trust=imported_by_nobody"):
        build(settings_for([*SMALL, "norm._target_=imported_by_nobody.norm"]))
    assert not (tmp_path / "harm").exists()
    assert build(settings_for([*SMALL, "norm=none", "norm._target_=tests.run.saboteur.norm"])).norm is not None


def test_only_the_command_line_says_whom_to_trust() -> None:
    assert trusted_packages(["mine", "yours"], ["seed=1", "trust=[mine,yours]"]) == ("mine", "yours")
    assert trusted_packages("mine", ["+trust=mine"]) == ("mine",)
    assert trusted_packages([], []) == ()
    with pytest.raises(UsageError, match="a file asks to be trusted"):
        trusted_packages(["os"], ["experiment=from_elsewhere"])


HOSTILE = """
- seed=3
- hydra.callbacks.harm._target_=os.system
- +hydra/launcher=evil
- ++hydra.sweep.dir=/
- trust=[os]
- resume=/elsewhere
- --config-dir=/evil
- -m
- norm=layer
"""


def test_a_run_folder_from_elsewhere_brings_no_flags_and_no_trust(tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_text(HOSTILE)
    (tmp_path / "status.json").write_text("{}")
    assert stored_overrides(tmp_path) == ["seed=3", "norm=layer"]
    made = command_line(["norm=group", f"resume={tmp_path}"])
    assert made == ["seed=3", "norm=group", f"resume='{tmp_path}'", f"hydra.run.dir='{tmp_path}'"]


def test_yaml_is_data(tmp_path: Path) -> None:
    harm = f'!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ["{tmp_path}/harm"]]\n'
    run = run_here(tmp_path / "run", [*SMALL, "observe=off", "trainer.epochs=0"]).path
    for name in ("overrides.yaml", "config.yaml"):
        kept = (run / name).read_text()
        (run / name).write_text(harm)
        with pytest.raises(UsageError, match="cannot be read"):
            stored_overrides(run) if name == "overrides.yaml" else read_run(run)
        (run / name).write_text(kept)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("where", ["experiment/evil.yaml", "hydra/callbacks/evil.yaml"])
def test_a_folder_of_configurations_cannot_make_hydra_call(train: Train, tmp_path: Path, where: str) -> None:
    harm = {"harm": {"_target_": "subprocess.call", "args": ["touch", "harm"]}}
    text = f"# @package _global_\nhydra:\n  callbacks: {harm}\n" if where.startswith("exp") else f"# @package hydra\n{harm}\n"
    path = tmp_path / "conf" / where
    path.parent.mkdir(parents=True)
    path.write_text(text)
    if where.startswith("exp"):
        result = train("--config-dir", "conf", *SMALL, "experiment=evil")
        assert (result.returncode, "_target_=subprocess.call" in result.stderr) == (2, True)
    for flag in (
        ["--config-dir", str(tmp_path / "conf")],
        [f"-cd={tmp_path}/conf"],
        [f"hydra.searchpath=[file://{tmp_path}/conf]"],
    ):
        with pytest.raises(UsageError, match="trust=subprocess"):
            refuse_hydra_calls([*flag, "experiment=evil"])
        refuse_hydra_calls([*flag, "trust=subprocess"])
    assert not (tmp_path / "harm").exists()


def test_a_decompression_bomb_is_refused_by_name(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)  # 3.6 GB of pixels in a file of some bytes
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(RunError, match=r"bomb\.png.*pixels"):
        decode(bomb, lambda height, width: (0, 0, height, width), (8, 8))


NAMES = ["a b", "été", "it's", 'say "hi"', "back\\slash", "a,b=c", "${seed}", "[x]{y}", "tail\\", "#1 (new)", "n" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_one_value(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "overrides.yaml").write_text("[]")
    (folder / "status.json").write_text("{}")
    *_, quoted = command_line([f"resume={folder}"])
    value = OverridesParser.create().parse_override(quoted).value()
    assert str(value).replace("\\${", "${") == str(folder)


@pytest.mark.faults
def test_a_run_in_a_folder_with_a_difficult_name_goes_on(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "it's été, a=b"
    folder.mkdir()
    long = "data.root=" + "x" * 300
    escaped = str(folder).replace("'", "\\'")
    result = train(*SMALL, "observe=off", "schedule=constant", long, f"hydra.run.dir='{escaped}'")
    assert result.returncode == 0, result.stderr
    again = train(f"resume={folder}", "trainer.epochs=2", "trainer.max_steps=4")
    assert again.returncode == 0, again.stderr
    assert read_run(folder).state == "done"
    assert read_run(folder).config["trainer"]["max_steps"] == 4
