"""One run of the plain loop: training, validation after every epoch, the test at the end. A sweep by hand starts it per run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.plain import PlainLoop, test_loader
from benchmarks.training import prepare_setup


@torch.no_grad()
def accuracy(model: nn.Module, loader: torch.utils.data.DataLoader, device: torch.device) -> float:
    model.eval()
    correct = count = 0
    for images, labels in loader:
        correct += (model(images.to(device)).argmax(dim=1) == labels.to(device)).sum().item()
        count += len(labels)
    return correct / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_intermixed_args()
    setup = prepare_setup(arguments.overrides)
    readers = setup.open_readers()
    plan = setup.plan(readers)
    loop = PlainLoop("plain", setup, readers, arguments.workers)
    for begin in range(0, plan.total, plan.steps_per_epoch):
        loop.window(min(plan.steps_per_epoch, plan.total - begin))()
        if setup.splits.val is not None:
            print(f"val {accuracy(loop.model, test_loader(setup, readers, setup.splits.val), loop.device):.4f}")
    print(f"test {accuracy(loop.model, test_loader(setup, readers, setup.splits.test), loop.device):.4f}")
    loop.close()


if __name__ == "__main__":
    main()
