"""Lightning's Trainer, where it is installed, on the data, model, optimizer and augmentation of the plain loop."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from threading import Semaphore, Thread
from typing import Any

import torch
from torch import Tensor, nn

from train.data.readers import Readers
from train.errors import RunError
from train.run.setup import Setup

from .plain import plain_loader, unfused, use_torch_defaults

PACKAGES = ("lightning", "pytorch_lightning")
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
CHECK_S = 1.0


def lightning_package() -> str | None:
    """Return the name under which Lightning is installed, if it is."""
    return next((name for name in PACKAGES if find_spec(name)), None)


class LightningLoop:
    """One `Trainer.fit` for all windows, in a thread that waits between them, so that only steps are timed.

    The precision of `train`; no logger, no checkpoints and no progress bar.
    """

    def __init__(self, name: str, setup: Setup, readers: Readers, workers: int) -> None:
        lightning: Any = importlib.import_module(lightning_package() or PACKAGES[0])
        device, precision = setup.placement.device, PRECISIONS[setup.placement.precision]
        self.name = name
        self.detail = f"Lightning {lightning.__version__}, {precision}, contiguous, not deterministic, {workers} workers"
        self.turns = Turns()
        module = new_module(lightning, setup, readers, self.turns)
        for package in PACKAGES:
            logging.getLogger(f"{package}.pytorch" if package == "lightning" else package).setLevel(logging.ERROR)
        trainer = lightning.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=precision,
            max_epochs=-1,
            gradient_clip_val=setup.settings.trainer.grad_clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = plain_loader(setup, readers, workers)
        self.error: Exception | None = None
        self.thread = Thread(target=self.fit, args=(trainer, module, loader), daemon=True)

    def fit(self, trainer: Any, module: Any, loader: Any) -> None:
        try:
            trainer.fit(module, loader)
        except Exception as error:
            self.error = error

    def window(self, steps: int) -> Callable[[], None]:
        use_torch_defaults()
        return partial(self.run, steps)

    def run(self, steps: int) -> None:
        """Let the thread make so many steps. The first call starts it, when nothing else is captured. RunError if it ends."""
        if self.thread.ident is None:
            self.thread.start()
        for _ in range(steps):
            self.turns.allowed.release()
        for _ in range(steps):
            while not self.turns.made.acquire(timeout=CHECK_S):
                if not self.thread.is_alive():
                    raise RunError(f"{self.name}: {type(self.error).__name__}: {self.error}") from self.error

    def close(self) -> None:
        self.turns.over = True
        self.turns.allowed.release()
        if self.thread.ident is not None:
            self.thread.join()


class Turns:
    """The steps that the thread may make, and those that it has made. `over`: it is to end at the next one."""

    def __init__(self) -> None:
        self.allowed, self.made = Semaphore(0), Semaphore(0)
        self.over = False


def new_module(lightning: Any, setup: Setup, readers: Readers, turns: Turns) -> Any:
    """Return the LightningModule. It logs the loss."""
    criterion = nn.CrossEntropyLoss(label_smoothing=setup.parts.regularization.label_smoothing)

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = setup.initial_model(readers)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            images, labels = batch
            loss = criterion(self.model(images), labels)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return unfused(setup, self.model)

        def on_train_batch_start(self, *_: object) -> int | None:
            turns.allowed.acquire()
            self.trainer.should_stop = turns.over
            return -1 if turns.over else None

        def on_train_batch_end(self, *_: object) -> None:
            turns.made.release()

    return Classifier()
