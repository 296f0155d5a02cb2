"""The bundled images: what they are, that they come from the originals, and that damage is noticed."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train.data import idx
from train.data.contracts import Arrays
from train.data.fashion_mini import BUNDLED, FashionMini, fashion_mini
from train.data.torchvision_sets import DEBIAN_FASHION
from train.errors import UsageError

ROOT = Path(__file__).parents[2]
needs_originals = pytest.mark.skipif(not idx.is_complete(DEBIAN_FASHION), reason=f"no original Fashion-MNIST in {DEBIAN_FASHION}")


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(BUNDLED, tmp_path / "fashion_mini"))


def test_fashion_mini_is_stratified_with_stated_sizes():
    dataset = fashion_mini()
    splits = dataset.load()
    for split, per_class in ((splits.train, 1000), (splits.test, 200)):
        assert isinstance(split, Arrays)
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == [per_class] * len(dataset.class_names)
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (10 * per_class, *dataset.shape)


@pytest.mark.long
@needs_originals
def test_fashion_mini_keeps_original_splits_and_labels():
    for split in (idx.TRAIN, idx.TEST):
        subset, original = idx.read_split(BUNDLED, split), idx.read_split(DEBIAN_FASHION, split)
        known = {image.tobytes(): label for image, label in zip(original.images.numpy(), original.labels.tolist(), strict=True)}
        labels = [known.get(image.tobytes()) for image in subset.images.numpy()]
        assert labels == subset.labels.tolist()


@pytest.mark.long
@needs_originals
def test_make_fashion_mini_rebuilds_the_bundled_files(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "scripts" / "make_fashion_mini.py"), str(DEBIAN_FASHION), "--output", str(tmp_path)]
    subprocess.run(script, check=True, env=environment, capture_output=True)
    for path in BUNDLED.glob("*.gz"):  # the images to the byte; the compressed file only where zlib is the same build
        assert torch.equal(idx.read(tmp_path / path.name), idx.read(path))
    FashionMini(tmp_path).load()


def test_idx_write_is_deterministic(tmp_path):
    values = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 4)
    for name in ("a.gz", "another.gz"):
        idx.write(tmp_path / name, values)
        os.utime(tmp_path / name, (0, 0))
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "another.gz").read_bytes()
    assert torch.equal(idx.read(tmp_path / "a.gz"), values)


def test_fashion_mini_has_licence_and_checksums():
    assert "Copyright (c) 2017 Zalando SE" in (BUNDLED / "LICENSE").read_text()
    lines = (BUNDLED / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {path.name for path in BUNDLED.glob("*.gz")}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLED.glob("*.gz")))
def test_fashion_mini_refuses_flipped_bit(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name} does not match its checksum.*make_fashion_mini"):
        FashionMini(copy).load()


def test_fashion_mini_refuses_missing_file_or_checksums(copy):
    (copy / "SHA256SUMS").write_text("")
    with pytest.raises(UsageError, match="checksum"):
        FashionMini(copy).load()
    (copy / "SHA256SUMS").unlink()
    with pytest.raises(UsageError, match="SHA256SUMS cannot be read"):
        FashionMini(copy).load()


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00", b"\x00\x00\x08\x01\x00\x00\x00\x05abc", b"\x00\x00\x0d\x01\x00\x00\x00\x01a"]
)
def test_idx_read_refuses_damaged_file(tmp_path, content):
    (tmp_path / "labels").write_bytes(content)
    (tmp_path / "labels.gz").write_bytes(content)
    for name in ("labels", "labels.gz"):
        with pytest.raises(ValueError, match="labels"):
            idx.read(tmp_path / name)
