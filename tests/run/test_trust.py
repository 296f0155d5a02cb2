"""Foreign configurations, run folders and images run no code; and file names of every kind work."""

from __future__ import annotations

import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from tests.harness import SMALL, compose_config, settings_for, train_in_process
from train import cli
from train.command import override
from train.data.decode import decode
from train.errors import RunError, UsageError
from train.run.build import build
from train.run.config_check import ConfigCheck
from train.run.dry_run import check_configs
from train.run.job import start_run
from train.run.resumed_job import folder_to_resume
from train.run.trust import trusted, trusted_packages
from train.store.run import read_run
from train.store.run_folder import RunFolder

Train = Callable[..., "subprocess.CompletedProcess[str]"]
UNTRUSTED = [
    "os.system",
    "subprocess.run",
    "builtins.eval",
    "torch.hub.load",
    "torch.load",
    "torch.nn.os.system",
    "torch.nn.modules.module.warnings.sys.exit",
    "torch.optim.Optimizer.__init__.__globals__",
    "train.parts.init.math.sqrt",
    "train.store.code.run_git",
    "train.cli.main",
    "trainer.parts.anything",
    "hydra.utils.instantiate",
]


@pytest.mark.parametrize("target", UNTRUSTED)
def test_build_refuses_untrusted_targets(target: str) -> None:
    with pytest.raises(UsageError, match=r"norm\._target_="):
        build(settings_for([*SMALL, f"norm._target_={target}"]))


def test_build_imports_only_trusted_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_by_nobody.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="trust=imported_by_nobody"):
        build(settings_for([*SMALL, "norm._target_=imported_by_nobody.norm"]))
    assert not (tmp_path / "harm").exists()
    assert build(settings_for([*SMALL, "norm=none", "norm._target_=tests.run.saboteur.norm"])).norm is not None


def test_trusted_packages_come_from_the_command_line_only() -> None:
    assert trusted_packages(["mine", "yours"], ["seed=1", "trust=[mine,yours]"]) == ("mine", "yours")
    assert trusted_packages("mine", ["+trust=mine"]) == ("mine",)
    assert trusted_packages([], []) == ()
    with pytest.raises(UsageError, match="a file asks to be trusted"):
        trusted_packages(["os"], ["experiment=from_elsewhere"])


def test_trust_of_a_job_does_not_outlast_it(tmp_path: Path) -> None:
    """Hydra's basic launcher runs the jobs of a multirun in one process."""
    foreign = [*SMALL, "observe=off", "trainer.epochs=0", "norm=none", "norm._target_=tests.run.saboteur.norm"]
    for name in ("trusting", "again"):
        train_in_process(tmp_path / name, foreign)
        assert trusted() == ("tests",)
        with pytest.raises(UsageError, match="trust=tests"):
            start_in_process(tmp_path / "other", foreign)
        assert trusted() == ()
    assert not (tmp_path / "other").exists()


def start_in_process(folder: Path, overrides: list[str]) -> None:
    """Start a job that trusts nobody, in this process."""
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        start_run(compose("config", overrides=overrides), RunFolder(folder), overrides, {})


def test_trust_reaches_dry_runs_and_no_other_thread() -> None:
    config = compose_config([*SMALL, "norm=none", "norm._target_=tests.run.saboteur.norm"])
    (check,) = check_configs(([config], (), False, ()))
    assert check.problem is not None
    assert "trust=tests" in check.problem
    assert [replace(check, inputs=None) for check in check_configs(([config], ("tests",), False, ()))] == [ConfigCheck()]
    seen: list[tuple[str, ...]] = []
    thread = threading.Thread(target=lambda: seen.append(trusted()))
    thread.start()
    thread.join()
    assert (trusted(), seen) == (("tests",), [()])


def test_yaml_of_a_run_folder_is_loaded_as_data(tmp_path: Path) -> None:
    harm = f'!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ["{tmp_path}/harm"]]\n'
    run = train_in_process(tmp_path / "run", [*SMALL, "trainer.epochs=0"]).path
    for name in ("overrides.yaml", "config.yaml"):
        original = (run / name).read_text()
        (run / name).write_text(harm)
        with pytest.raises(UsageError, match="cannot be read"):
            read_run(run)
        (run / name).write_text(original)
    assert not (tmp_path / "harm").exists()


def test_decode_refuses_a_decompression_bomb_by_name(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)  # 3.6 GB of pixels in a file of a few bytes
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(RunError, match=r"bomb\.png.*pixels"):
        decode(bomb, lambda height, width: (0, 0, height, width), (8, 8))


NAMES = ["a b", "été", "it's", 'say "hi"', "back\\slash", "a,b=c", "${seed}", "[x]{y}", "tail\\", "#1 (new)", "n" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_resume_finds_every_folder_name(name: str, tmp_path: Path) -> None:
    text = str(tmp_path / name)
    assert folder_to_resume(["seed=1", f"resume={text}"]) == text
    assert folder_to_resume([override("resume", text)]) == text


@pytest.mark.long
def test_resume_accepts_a_folder_with_special_characters(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "it's été, a=b"
    folder.mkdir()
    long = f"observe.layers='{'*' * 300}'"
    escaped = str(folder).replace("'", "\\'")
    result = train(*SMALL, "schedule=constant", long, f"hydra.run.dir='{escaped}'")
    assert result.returncode == 0, result.stderr
    resumed = train(f"resume={folder}", "trainer.epochs=2", "trainer.max_steps=4")
    assert resumed.returncode == 0, resumed.stderr
    assert read_run(folder).state == "done"
    assert read_run(folder).config["trainer"]["max_steps"] == 4
