"""Build the bundled data set `fashion_mini` from the four original Fashion-MNIST files (*-ubyte.gz).

    python scripts/make_fashion_mini.py [FOLDER_OF_THE_ORIGINALS] [--output FOLDER]

Of each class the 1,000 train and 200 test images are taken whose place in the original file has the smallest hash, and they stay
in the original's order; so the choice depends on no library's random numbers, and a rebuild gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from train.data import idx
from train.data.fashion_mini import BUNDLED, CHECKSUMS
from train.data.torchvision_sets import DEBIAN_FASHION
from train.rng import derive

SEED = 0
PER_CLASS = {idx.TRAIN: 1000, idx.TEST: 200}


def choose(labels: Tensor, per_class: int) -> Tensor:
    """The indices, ascending, of `per_class` images of each class."""
    chosen: list[int] = []
    for label in labels.unique():
        places = torch.nonzero(labels == label).flatten().tolist()
        chosen += sorted(places, key=lambda place: derive(SEED, "split", place))[:per_class]
    return torch.tensor(sorted(chosen))


def build(originals: Path, output: Path) -> None:
    """Write the four files of the subset and their checksums (as `sha256sum` does) into `output`."""
    output.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for split, per_class in PER_CLASS.items():
        original = idx.read_split(originals, split)
        chosen = choose(original.labels, per_class)
        values = original.images[chosen].squeeze(1), original.labels[chosen].to(torch.uint8)
        for name, value in zip(idx.names(split), values, strict=True):
            path = output / f"{name}.gz"
            idx.write(path, value)
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (output / CHECKSUMS).write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("originals", nargs="?", type=Path, default=DEBIAN_FASHION, help="folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=BUNDLED, help="where the subset goes (default: the package's own folder)")
    arguments = parser.parse_args()
    if not idx.is_complete(arguments.originals):
        parser.error(f"{arguments.originals} lacks files of Fashion-MNIST; on Debian: apt install dataset-fashion-mnist")
    build(arguments.originals, arguments.output)
    size = sum(path.stat().st_size for path in arguments.output.glob("*.gz"))
    print(f"{arguments.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
