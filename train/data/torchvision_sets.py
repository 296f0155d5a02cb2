"""Standard data sets by torchvision's readers and downloads; a copy that is already on the machine is used first.

Searched in this order: `data.root`, `data.root`/<name>, the folders of the operating system's packages, the cache. Where
none has a copy, it is downloaded to `data.root`/<name>, or without a root to the cache: $XDG_CACHE_HOME/train/data/<name>, by
default ~/.cache/train/data/<name>. A download appears there complete or not at all, and runs that start together share one.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy
import torch
from filelock import FileLock

from train.data import idx
from train.data.contracts import Arrays, Dataset, Splits
from train.data.fashion_mini import CLASSES as FASHION_CLASSES
from train.data.file_hashes import user_cache
from train.data.torchvision_classes import CIFAR10_CLASSES, CIFAR100_CLASSES
from train.errors import UsageError
from train.parts.contracts import Shape

FAILURES = (OSError, RuntimeError, ValueError, EOFError, HTTPException, tarfile.TarError)
"""What readers and downloads raise for missing, damaged and unreachable files."""


@dataclass(frozen=True)
class DatasetSpec:
    """What distinguishes one standard data set from the others.

    `read(folder, download)` returns the splits, after a download into `folder` if asked for; `markers`: a folder with one of
    these files or folders has a copy; `system`: folders in which packages of the operating system put one."""

    name: str
    shape: Shape
    class_names: tuple[str, ...]
    read: Callable[[Path, bool], Splits]
    markers: tuple[str, ...]
    system: tuple[Path, ...] = ()


@dataclass
class TorchvisionSet:
    """A standard data set; `root` and `download` are the options `data.root` and `data.download`.

    UsageError when `root` is not a folder.
    """

    known: DatasetSpec
    root: str | None
    download: bool

    def __post_init__(self) -> None:
        self.shape = self.known.shape
        self.class_names = self.known.class_names
        self.folder = None if self.root is None else Path(self.root).expanduser()
        if self.folder is not None and not self.folder.is_dir():
            raise UsageError(f"data.root={self.root} is not a folder. Name one that exists.")

    def load(self) -> Splits:
        """Read the first copy found, or download one. UsageError when neither works, or the copy is damaged."""
        for folder in self._places():
            if self._is_copy(folder):
                return self._read(folder)
        if not self.download:
            raise self._missing("data.download=false")
        return self._read(self._fetch())

    def has_copy(self, root: Path) -> bool:
        """Return whether `load` would find a copy in `root`."""
        return any(map(self._is_copy, (root, root / self.known.name)))

    def _is_copy(self, folder: Path) -> bool:
        return any((folder / marker).exists() for marker in self.known.markers)

    def _home(self) -> Path:
        return (self.folder or cache()) / self.known.name

    def _places(self) -> list[Path]:
        given = [] if self.folder is None else [self.folder, self._home()]
        return [*given, *self.known.system, cache() / self.known.name]

    def _read(self, folder: Path) -> Splits:
        try:
            splits = self.known.read(folder, False)
            _check(splits, self.known)
        except FAILURES as error:
            raise UsageError(
                f"data={self.known.name}: the copy in {folder} is incomplete or damaged ({error}). "
                "Remove it to have it downloaded again, or name another folder with data.root=FOLDER."
            ) from error
        return splits

    def _fetch(self) -> Path:
        home = self._home()
        partial = home.with_name(f".{home.name}.partial")
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(home.with_name(f".{home.name}.lock")):
                if not home.exists():
                    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
                    partial.mkdir()
                    self.known.read(partial, True)
                    partial.rename(home)
        except FAILURES as error:
            raise self._missing(f"the download to {home} failed: {' '.join(str(error).split())}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return home

    def _missing(self, reason: str) -> UsageError:
        markers, places = " or ".join(self.known.markers), ", ".join(map(str, self._places()))
        return UsageError(
            f"data={self.known.name} is not on this machine (looked for {markers} in {places}), and {reason}. "
            "Name a folder that holds a copy with data.root=FOLDER, or use data=fashion_mini, which needs no download."
        )


def cache() -> Path:
    """Return the folder for downloads without `data.root`."""
    return user_cache() / "data"


def fashion_mnist(root: str | None = None, download: bool = True) -> Dataset:
    """Fashion-MNIST: 60,000 train and 10,000 test images of clothes, grey, 28 x 28, 10 classes. H. Xiao, K. Rasul, R. Vollgraf,
    2017, arXiv:1708.07747. `root`: a folder with the four idx files, gzipped or not, or with torchvision's FashionMNIST/raw."""
    return TorchvisionSet(FASHION_MNIST, root, download)


def cifar10(root: str | None = None, download: bool = True) -> Dataset:
    """CIFAR-10: 50,000 train and 10,000 test photographs, colour, 32 x 32, 10 classes. A. Krizhevsky: Learning Multiple Layers
    of Features from Tiny Images, 2009. `root`: a folder with cifar-10-batches-py."""
    return TorchvisionSet(CIFAR10, root, download)


def cifar100(root: str | None = None, download: bool = True) -> Dataset:
    """CIFAR-100: 50,000 train and 10,000 test photographs, colour, 32 x 32, 100 classes. A. Krizhevsky: Learning Multiple Layers
    of Features from Tiny Images, 2009. `root`: a folder with cifar-100-python."""
    return TorchvisionSet(CIFAR100, root, download)


def svhn(root: str | None = None, download: bool = True) -> Dataset:
    """SVHN, cropped digits: 73,257 train and 26,032 test photographs of house numbers, colour, 32 x 32, 10 classes. Y. Netzer
    et al.: Reading Digits in Natural Images with Unsupervised Feature Learning, 2011. `root`: a folder with train_32x32.mat and
    test_32x32.mat."""
    return TorchvisionSet(SVHN, root, download)


def _check(splits: Splits, known: DatasetSpec) -> None:
    """Raise ValueError when the images or labels cannot be those of the set."""
    for split in (splits.train, splits.test):
        assert isinstance(split, Arrays)
        if tuple(split.images.shape[1:]) != known.shape or not 0 <= int(split.labels.max()) < len(known.class_names):
            raise ValueError(f"images of shape {list(split.images.shape[1:])}, labels up to {int(split.labels.max())}")


def _read_fashion(folder: Path, download: bool) -> Splits:
    if download:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(folder, download=True)
    raw = folder / "FashionMNIST" / "raw"
    return idx.read_splits(raw if raw.is_dir() else folder)


def _read_cifar(reader: str, folder: Path, download: bool) -> Splits:
    import torchvision.datasets

    read = getattr(torchvision.datasets, reader)
    train, test = (read(folder, train=train, download=download) for train in (True, False))
    return Splits(train=_from_rows(train.data, train.targets), test=_from_rows(test.data, test.targets))


def _read_svhn(folder: Path, download: bool) -> Splits:
    from torchvision.datasets import SVHN

    train, test = (SVHN(folder, split=split, download=download) for split in ("train", "test"))
    return Splits(train=_from_planes(train.data, train.labels), test=_from_planes(test.data, test.labels))


def _from_rows(images: numpy.ndarray, labels: list[int]) -> Arrays:
    """Convert uint8 [N, H, W, C] and a list of labels."""
    return _from_planes(images.transpose(0, 3, 1, 2), numpy.asarray(labels))


def _from_planes(images: numpy.ndarray, labels: numpy.ndarray) -> Arrays:
    """Convert uint8 [N, C, H, W], whatever its strides, and its labels."""
    return Arrays(torch.from_numpy(numpy.ascontiguousarray(images)), torch.from_numpy(labels.astype(numpy.int64)))


DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Debian's package dataset-fashion-mnist puts the four files there."""

FASHION_MNIST = DatasetSpec(
    "fashion_mnist",
    (1, 28, 28),
    FASHION_CLASSES,
    _read_fashion,
    markers=("FashionMNIST/raw", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    system=(DEBIAN_FASHION,),
)
CIFAR10 = DatasetSpec("cifar10", (3, 32, 32), CIFAR10_CLASSES, partial(_read_cifar, "CIFAR10"), markers=("cifar-10-batches-py",))
CIFAR100 = DatasetSpec("cifar100", (3, 32, 32), CIFAR100_CLASSES, partial(_read_cifar, "CIFAR100"), markers=("cifar-100-python",))
SVHN = DatasetSpec("svhn", (3, 32, 32), tuple("0123456789"), _read_svhn, markers=("train_32x32.mat",))
