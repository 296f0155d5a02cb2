"""Fixtures for tests of plans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from train import cli


@pytest.fixture(scope="module")
def loader() -> Iterator[Any]:
    """Hydra's config loader with the program's own configuration."""
    cli.register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(cli.config_dir())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader
