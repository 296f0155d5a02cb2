"""Names of run folders: readable, safe on every file system, and unique."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from train.naming import SLUG_BYTES, job_name, run_name, slug, sweep_name

SLUGS = {
    "": "defaults",
    "init=xavier norm=batch": "init=xavier,norm=batch",
    "data.root=/home/me/images": "data.root=-home-me-images",
    "+augment.stop.p=0.5": "+augment.stop.p=0.5",
    "~schedule.final": "~schedule.final",
    "data.shape=[3,32,32]": "data.shape=-3,32,32",
    "model.name='a:b*c?'": "model.name=-a-b-c",
    "..": "run",
    "/": "run",
}


@pytest.mark.parametrize("overrides", SLUGS)
def test_slug_of_overrides(overrides: str) -> None:
    assert slug(overrides.split()) == SLUGS[overrides]


def test_slug_replaces_spaces_and_non_ascii_letters() -> None:
    assert slug(["a=größe 3", "b=\n\t\0"]) == "a=gr-e-3,b="


@pytest.mark.parametrize(
    "overrides", [["x=" + "y" * 1000], [f"key{n}=value{n}" for n in range(100)], ["é" * 300], ["a" * 119 + "/b"]]
)
def test_run_name_fits_into_a_file_system(tmp_path: Path, overrides: list[str]) -> None:
    name = run_name(overrides)
    assert len(slug(overrides).encode()) <= SLUG_BYTES
    (tmp_path / f"1234_{name}").mkdir()
    assert re.fullmatch(r"[A-Za-z0-9=.,_+~-]+", name)


def test_run_names_of_the_same_moment_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: run_name(["init=xavier"]), range(200)))
    assert len(set(names)) == 200
    assert len({sweep_name() for _ in range(200)}) == 200


def test_run_name_contains_the_time_and_the_overrides() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[a-z0-9]{5}_init=xavier", run_name(["init=xavier"]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[a-z0-9]{5}_sweep", sweep_name())


def test_job_name_is_unique_and_reproducible() -> None:
    long = [f"key{n}=value{n}" for n in range(100)]
    names = [
        job_name(overrides)
        for overrides in (["seed=0"], ["seed=1"], [*long, "seed=0"], [*long, "seed=1"], ["a=b,c"], ["a=b", "c"])
    ]
    assert len(set(names)) == len(names), "also if the readable part is truncated or equal"
    assert names[0] == job_name(["seed=0"])
    assert all(re.fullmatch(r"[A-Za-z0-9=.,_+~-]+_[0-9a-f]{8}", name) and len(name) <= 255 for name in names)
