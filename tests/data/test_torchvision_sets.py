"""Where the standard sets are searched, how torchvision's layouts are read, and the message when no copy is there.

The copies are tiny and made here; torchvision checks the md5 sums of the real ones, so its lists are replaced for the test.
"""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets

from train.data import idx
from train.data.contracts import Arrays
from train.data.torchvision_sets import DEBIAN_FASHION, cifar10, cifar100, fashion_mnist, svhn
from train.errors import UsageError

FACTORIES = [fashion_mnist, cifar10, cifar100, svhn]
FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def some_images(count, classes, seed):
    """uint8 [N, 3, 32, 32] and labels, the first of which is the last class."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    labels[0] = classes - 1
    return random.integers(256, size=(count, 3, 32, 32), dtype=np.uint8), labels


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path.name, md5(path)


def make_cifar(root, monkeypatch, reader="CIFAR10"):
    """A copy in torchvision's layout with three train batches; returns train and test images and labels."""
    key, classes = ("labels", 10) if reader == "CIFAR10" else ("fine_labels", 100)
    base, cls = root / FOLDERS[reader], getattr(torchvision.datasets, reader)
    parts = [some_images(5, classes, seed) for seed in range(4)]
    listed = [
        dump(base / f"part_{number}", {"data": images.reshape(5, -1), key: labels.tolist()})
        for number, (images, labels) in enumerate(parts)
    ]
    meta = dump(base / "names", {cls.meta["key"]: ["?"] * classes})
    monkeypatch.setattr(cls, "train_list", listed[:3])
    monkeypatch.setattr(cls, "test_list", listed[3:])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "filename": meta[0], "md5": meta[1]})
    images, labels = zip(*parts, strict=True)
    return (np.concatenate(images[:3]), np.concatenate(labels[:3])), parts[3]


def make_svhn(root, monkeypatch):
    made, listed = [], {}
    for seed, split in enumerate(("train", "test")):
        images, labels = some_images(6, 10, seed)
        path = root / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        listed[split] = ["", path.name, md5(path)]
        made.append((images, labels))
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    return made


def make_fashion(folder, zipped=True):
    made = []
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate((idx.TRAIN, idx.TEST)):
        images = torch.from_numpy(np.random.default_rng(seed).integers(256, size=(7, 28, 28), dtype=np.uint8))
        labels = torch.arange(7, dtype=torch.uint8)
        for name, values in zip(idx.names(split), (images, labels), strict=True):
            idx.write(folder / f"{name}.gz", values)
            if not zipped:
                header = bytes([0, 0, 8, values.dim()]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
                (folder / name).write_bytes(header + values.numpy().tobytes())
                (folder / f"{name}.gz").unlink()
        made.append((images.unsqueeze(1).numpy(), labels.numpy()))
    return made


def agree(splits, made):
    for split, (images, labels) in zip((splits.train, splits.test), made, strict=True):
        assert isinstance(split, Arrays)
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert split.labels.dtype == torch.int64
        np.testing.assert_array_equal(split.images.numpy(), images)
        np.testing.assert_array_equal(split.labels.numpy(), labels)


@pytest.fixture(autouse=True)
def nothing_cached_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.mark.parametrize("factory", FACTORIES)
def test_torchvision_set_knows_shape_before_loading(factory):
    dataset = factory()
    assert dataset.shape == ((1, 28, 28) if factory is fashion_mnist else (3, 32, 32))
    assert len(set(dataset.class_names)) == (100 if factory is cifar100 else 10)


def test_fashion_classes_are_torchvisions():
    assert list(fashion_mnist().class_names) == torchvision.datasets.FashionMNIST.classes


@pytest.mark.parametrize(("factory", "reader"), [(cifar10, "CIFAR10"), (cifar100, "CIFAR100")])
@pytest.mark.parametrize("below", [".", "{name}"])
def test_torchvision_set_reads_local_cifar(tmp_path, monkeypatch, factory, reader, below):
    made = make_cifar(tmp_path / below.format(name=factory.__name__), monkeypatch, reader)
    agree(factory(root=str(tmp_path), download=False).load(), made)


def test_torchvision_set_reads_local_svhn(tmp_path, monkeypatch):
    made = make_svhn(tmp_path, monkeypatch)
    agree(svhn(root=str(tmp_path), download=False).load(), made)


@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torchvision_set_reads_local_fashion_mnist(tmp_path, layout, zipped):
    made = make_fashion(tmp_path / layout, zipped)
    agree(fashion_mnist(root=str(tmp_path), download=False).load(), made)


@pytest.mark.long
@pytest.mark.skipif(not idx.is_complete(DEBIAN_FASHION), reason=f"no Fashion-MNIST in {DEBIAN_FASHION}")
def test_torchvision_set_reads_system_fashion_mnist():
    splits = fashion_mnist(download=False).load()
    for split, per_class in ((splits.train, 6000), (splits.test, 1000)):
        assert isinstance(split, Arrays)
        assert split.labels.bincount().tolist() == [per_class] * 10
        assert split.images.shape == (10 * per_class, 1, 28, 28)


@pytest.mark.parametrize("with_root", [True, False])
def test_torchvision_set_downloads_once(tmp_path, monkeypatch, with_root):
    downloads = []

    def download(self):
        if not Path(self.root, FOLDERS["CIFAR10"]).exists():
            downloads.append(Path(self.root))
            made.append(make_cifar(Path(self.root), monkeypatch))

    made = []
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    root = str(tmp_path) if with_root else None
    home = tmp_path / "cifar10" if with_root else tmp_path / "cache" / "train" / "data" / "cifar10"
    partial = home.parent / ".cifar10.partial"
    (partial / FOLDERS["CIFAR10"]).mkdir(parents=True)  # left behind by a process that was killed
    splits = cifar10(root=root).load()
    assert downloads == [partial]
    agree(splits, made[0])
    assert home.is_dir()
    assert not partial.exists()
    agree(cifar10(root=root).load(), made[0])
    assert downloads == [partial]


@pytest.mark.parametrize("factory", [cifar10, cifar100, svhn])
def test_torchvision_set_without_copy_names_places(tmp_path, factory):
    with pytest.raises(UsageError) as caught:
        factory(root=str(tmp_path)).load()
    message = str(caught.value)
    for part in (f"data={factory.__name__}", str(tmp_path), str(tmp_path / "cache"), "download", "refused", "data.root=FOLDER"):
        assert part in message
    assert "\n" not in message
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("factory", [cifar10, svhn])
def test_torchvision_set_download_false(tmp_path, factory):
    with pytest.raises(UsageError, match=r"data\.download=false"):
        factory(root=str(tmp_path), download=False).load()
    assert not list(tmp_path.iterdir())


def test_torchvision_set_refuses_root_without_folder(tmp_path):
    with pytest.raises(UsageError, match=r"data\.root=.*nowhere is not a folder"):
        cifar10(root=str(tmp_path / "nowhere"))


def test_torchvision_set_names_damaged_copy(tmp_path, monkeypatch):
    make_cifar(tmp_path, monkeypatch)
    (tmp_path / FOLDERS["CIFAR10"] / "part_1").write_bytes(b"half")
    with pytest.raises(UsageError, match=rf"copy in {tmp_path} is incomplete or damaged"):
        cifar10(root=str(tmp_path)).load()
    make_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UsageError, match=r"incomplete or damaged.*t10k-labels"):
        fashion_mnist(root=str(tmp_path)).load()


def test_torchvision_set_refuses_wrong_labels(tmp_path):
    make_fashion(tmp_path)
    idx.write(tmp_path / "train-labels-idx1-ubyte.gz", torch.full((7,), 10, dtype=torch.uint8))
    with pytest.raises(UsageError, match="labels up to 10"):
        fashion_mnist(root=str(tmp_path)).load()


def test_torchvision_set_imports_torchvision_late():
    code = "import sys, train.data.torchvision_sets as s; s.cifar10(); sys.exit('torchvision' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
