"""Ways of running the program that tests share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from train import cli
from train.config import Settings, parse
from train.run.folder import RunFolder

SMALL = [
    "data=noise",
    "data.shape=[1,16,16]",
    "data.train_size=48",
    "data.test_size=16",
    "data.val_fraction=0.25",
    "model.width=8",
    "trainer.batch_size=8",
    "trainer.epochs=1",
    "trainer.max_steps=2",
]
"""A run of a second: real code on little data."""

COMMAND = Path(sys.executable).with_name("train")


def compose_config(overrides: Sequence[str]) -> dict[str, object]:
    """The resolved configuration that the command would get."""
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        content = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def settings_for(overrides: Sequence[str]) -> Settings:
    return parse(compose_config(overrides))


def run_here(folder: Path, overrides: Sequence[str]) -> RunFolder:
    """Train in this process; returns the finished folder."""
    from train.run.session import prepare

    content = compose_config(overrides)
    run_folder = RunFolder(folder)
    session = prepare(parse(content), run_folder)
    run_folder.claim(content, overrides)
    session.run("test")
    return run_folder


def only_run(parent: Path) -> Path:
    """The one run folder under `parent`/outputs."""
    (folder,) = (parent / "outputs").iterdir()
    return folder
