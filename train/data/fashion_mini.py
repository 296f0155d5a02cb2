"""The bundled data set: 12,000 images of Fashion-MNIST, so that a fresh checkout trains on real images at once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from train.data import idx
from train.data.contracts import Dataset, Splits
from train.errors import UsageError
from train.parts.contracts import Shape

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
"""The classes of Fashion-MNIST, in the order of their labels."""

BUNDLED = Path(__file__).parent / "bundled" / "fashion_mini"
CHECKSUMS = "SHA256SUMS"


@dataclass
class FashionMini:
    """The bundled data set: four files in `folder`, each checked against the folder's SHA256SUMS before use."""

    folder: Path = BUNDLED
    shape: Shape = (1, 28, 28)
    class_names: tuple[str, ...] = CLASSES

    def load(self) -> Splits:
        """Read both splits. UsageError naming the file when one is missing or does not match its checksum."""
        listed = set(_contents(self.folder / CHECKSUMS).decode(errors="replace").splitlines())
        for path in (self.folder / f"{name}.gz" for split in (idx.TRAIN, idx.TEST) for name in idx.names(split)):
            if f"{hashlib.sha256(_contents(path)).hexdigest()}  {path.name}" not in listed:
                raise _unusable(path, f"does not match its checksum in {CHECKSUMS}")
        try:
            return idx.read_splits(self.folder)
        except (OSError, ValueError) as error:
            raise _unusable(self.folder, f"cannot be read ({error})") from error


def fashion_mini() -> Dataset:
    """Return the bundled images of Fashion-MNIST: 10,000 train and 2,000 test images, grey, 28 x 28.

    They are 1,000 and 200 of each class from the original train and test split. Built by
    scripts/make_fashion_mini.py. H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST, 2017, arXiv:1708.07747.
    """
    return FashionMini()


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error


def _unusable(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"data=fashion_mini: the bundled file {path} {reason}. Restore it (git checkout, or install the package again), "
        "rebuild it with scripts/make_fashion_mini.py, or choose another data set, as in data=noise."
    )
