"""Room for caches: none is begun that does not fit, a disk that fills is one message, and killed commands leave none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.catalogue import overrides_of
from tests.conftest import Train
from tests.harness import COMMAND

FOLDER = [*overrides_of("data=image_folder"), "observe=off"]
SIDE = 9000


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "train" / "images"


def large_images(root: Path, bytes_in_all: int) -> Path:
    """A folder with one image of 9000 x 9000 pixels under so many names that their pixels take more than `bytes_in_all`."""
    for split in ("train", "val"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
    first = root / "train" / "a" / "0.png"
    Image.new("1", (SIDE, SIDE)).save(first)
    for index in range(1, bytes_in_all // (3 * SIDE * SIDE) + 2):
        (first.parent / f"{index}.png").hardlink_to(first)
    for place in ("train/b", "val/a", "val/b"):
        (root / place / "0.png").hardlink_to(first)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [False, True])
def test_cache_that_does_not_fit_is_refused_before_an_image_is_decoded(
    tmp_path: Path, caches: Path, train: Train, sweep: bool
) -> None:
    root = large_images(tmp_path / "photos", shutil.disk_usage(tmp_path).free)
    caches.mkdir(parents=True)
    (caches / "train-0-1.arrow").write_bytes(b"another cache" * 200_000)
    command = [*FOLDER, f"data.root={root}", "data.cache=uint8", f"data.cache_side={SIDE}"]
    done = train(*(["-m", "seed=0,1"] if sweep else []), *command, XDG_CACHE_HOME=str(caches.parents[1]))
    assert done.returncode == 2
    text = " ".join(done.stderr.split())
    assert "data.cache=uint8: the images need" in text
    assert f"in {caches}, where" in text
    assert "are free. Make room; of the 1 other cache there (2 MiB) delete those that no run needs" in text
    assert "data.cache_dir=FOLDER" in text
    assert "Traceback" not in done.stderr
    assert [path.name for path in caches.iterdir() if path.suffix != ".lock"] == ["train-0-1.arrow"]


LIMITED = """
import resource, sys
from train.data.image_folder import image_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
image_folder(sys.argv[1], size=224, short_side=224, cache="uint8").load()
"""


@pytest.mark.long
def test_disk_that_fills_meanwhile_is_one_message(tmp_path: Path, caches: Path) -> None:
    """A limit on the size of files simulates it."""
    root = large_images(tmp_path / "photos", 1)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XDG_CACHE_HOME": str(caches.parents[1])}
    command = [sys.executable, "-c", LIMITED, str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "UsageError: data.cache=uint8: " in done.stderr
    assert "cannot be written (" in done.stderr
    assert "Make room there, or name another folder with data.cache_dir=FOLDER." in done.stderr
    assert [path.name for path in caches.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.long
@pytest.mark.slow
def test_command_that_is_killed_while_it_makes_a_cache_leaves_none_that_is_used(tmp_path: Path, caches: Path) -> None:
    """By SIGKILL at several moments of the work of two processes; the next command makes the same cache."""
    root, noise = tmp_path / "photos", np.random.default_rng(0)
    for split, count in (("train", 300), ("val", 20)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 256, (300, 300, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{index}.jpg")
    environment = os.environ | {"XDG_CACHE_HOME": str(caches.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [str(COMMAND), *FOLDER, f"data.root={root}", "data.cache=uint8", "data.workers=2", "data.cache_side=250"]
    finish = [*command, f"hydra.run.dir={tmp_path / 'run'}"]
    subprocess.run(finish, env=environment, cwd=tmp_path, check=True, capture_output=True)
    expected = {path.name: path.read_bytes() for path in caches.glob("*.arrow")}
    assert len(expected) == 2
    for share in (0.0, 0.3, 0.6, 0.9):
        shutil.rmtree(caches)
        with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True) as run:
            while not any(path.stat().st_size >= share * 100e6 for path in caches.glob(".train-*.partial")):
                assert run.poll() is None
                time.sleep(0.002)
            os.kill(run.pid, signal.SIGKILL)
        assert list(caches.glob("*.arrow")) == []
        assert len(list(caches.glob(".train-*.partial"))) == 1
        shutil.rmtree(tmp_path / "run")
        subprocess.run(finish, env=environment, cwd=tmp_path, check=True, capture_output=True)
        assert {path.name: path.read_bytes() for path in caches.iterdir() if path.suffix != ".lock"} == expected
