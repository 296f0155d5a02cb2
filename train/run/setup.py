"""What a run is put together from: its checked parts, its data, and what they make of readers, model and observer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train import rng
from train.config import Settings, total_steps
from train.data.batches import Batching, epoch_order, whole_batches
from train.data.contracts import Arrays, Splits, noted
from train.data.readers import Readers, ReaderSettings, open_readers
from train.observe.observer import Observer
from train.observe.probe import plain_images, probe_images
from train.parts.model.trace import Call, trace
from train.run import preflight, unused
from train.run.build import Parts, build
from train.run.device import Placement, choose_placement, configure_determinism, refuse_devices, refuse_graph
from train.run.fingerprint import evidence, fingerprint
from train.run.graphs import GraphedRunner
from train.run.inputs import load_data
from train.run.recorder import TrainPlan
from train.run.step import TrainState, forward_of, rates_for
from train.sinks.contracts import RunInfo
from train.store.inputs import Inputs
from train.world import ALONE, World


@dataclass(frozen=True)
class Assembly:
    """The parts of a configuration that was built and checked before any data is loaded."""

    settings: Settings
    parts: Parts
    placement: Placement
    cost: preflight.Cost


def assemble(settings: Settings, place: int | None = None) -> Assembly:
    """Build and check everything that needs no data. UsageError names the option and the remedy."""
    configure_determinism(settings.trainer.deterministic)
    placement = choose_placement(settings.trainer, place)
    if settings.trainer.devices > 1:
        refuse_devices(settings.trainer, placement.device)
    if settings.trainer.cuda_graph is True:
        refuse_graph(placement.device)
    parts = build(settings)
    cost = preflight.check_model(parts, settings.trainer.batch_size, placement, settings.observe.layers)
    return Assembly(settings, parts, placement, cost)


def prepare(settings: Settings, typed: Sequence[str] = (), world: World = ALONE, place: int | None = None) -> Setup:
    """Build, check and load what the user can get wrong, cheapest first. UsageError names the option and the remedy.

    `typed`: the overrides on the command line, of which none may be without effect on the result; `place`: the number of the
    device on this machine.
    """
    assembly = assemble(settings, place)
    unused.refuse_unread(typed, settings)
    data = load_data(settings, assembly.parts.dataset)
    steps_per_epoch = whole_batches(len(data.splits.train), settings.trainer.batch_size)  # rejects a batch larger than the split
    facts = unused.RunFacts(settings, assembly.parts, steps_per_epoch, data.own_validation)
    notes = (*noted(data.dataset), *unused.notes_on_run(typed, facts))
    inputs = data.inputs(settings)
    return Setup(settings, assembly.parts, assembly.placement, assembly.cost, data.splits, inputs, notes, world)


@dataclass(frozen=True)
class Setup(Assembly):
    """An assembly with its data, from which a run can be started.

    `inputs`: what goes into the run besides its configuration; `notes`: sentences for the user on what was left out of the data,
    and on what was typed in vain.
    """

    splits: Splits
    inputs: Inputs
    notes: Sequence[str] = ()
    world: World = ALONE

    @property
    def steps_per_epoch(self) -> int:
        return whole_batches(len(self.splits.train), self.settings.trainer.batch_size)

    def open_readers(self) -> Readers:
        return open_readers(self.parts.dataset, self.splits, self.parts.pipeline, self.reader_settings())

    def reader_settings(self) -> ReaderSettings:
        batching = Batching(
            batch_size=self.settings.trainer.batch_size,
            device=self.placement.device,
            memory_format=self.placement.memory_format,
            world=self.world,
            order_seed=self.settings.seeds.order,
            augment_seed=self.settings.seeds.augment,
        )
        return ReaderSettings(self.settings.data.preprocess, self.settings.data.workers, batching)

    def plan(self, readers: Readers) -> TrainPlan:
        trainer = self.settings.trainer
        steps_per_epoch = readers.train.steps_per_epoch
        return TrainPlan(
            total=total_steps(trainer, steps_per_epoch),
            steps_per_epoch=steps_per_epoch,
            batch_size=trainer.batch_size,
            record_every=trainer.record_every,
            evaluate_every=trainer.evaluate_every,
            dropout_seed=self.settings.seeds.dropout,
        )

    def train_state(self, readers: Readers) -> TrainState:
        """Return the model with the initial weights of the chosen init, and everything that updates it."""
        trainer = self.settings.trainer
        model = self.placement.place(self.initial_model(readers))
        optimizer = self.parts.new_optimizer(model)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return TrainState(
            model=model,
            forward=forward_of(model, trainer.compile, self.world),
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(self.placement.device.type, enabled=self.placement.dtype is torch.float16),
            placement=self.placement,
            label_smoothing=self.parts.regularization.label_smoothing,
            grad_clip=trainer.grad_clip,
            rates=rates_for(optimizer, self.placement.device),
            average=None if (averaging := self.parts.regularization.averaging) is None else averaging(model),
            second_pass=self.parts.regularization.second_pass,
            world=self.world,
        )

    def runner(self, train_state: TrainState, observer: Observer, plan: TrainPlan) -> GraphedRunner:
        """Return what runs the steps: CUDA graphs if that is wanted and possible. UsageError if it is demanded in vain."""
        return GraphedRunner(train_state, observer, min(plan.record_every, plan.total), self.settings.trainer.cuda_graph)

    def initial_model(self, readers: Readers) -> nn.Module:
        """Initialise the model on the CPU: all devices start from the same bits."""
        seed = self.settings.seeds.init
        model = constructed_model(self.parts, seed)
        images = readers.first_batch.images.cpu()
        self.parts.initialise(model, images, rng.generator(seed, "init", 1))
        return model

    def trace(self, model: nn.Module) -> Sequence[Call]:
        """Return the calls of one forward pass. They hold tensors: do not keep them."""
        return trace(model, self.parts.input_shape)

    def observer(self, model: nn.Module, calls: Sequence[Call], readers: Readers) -> Observer:
        """Return the observer of a model with its initial weights."""
        size = self.settings.observe.probe_size
        images = self.probe(readers, size) if size else None
        return Observer(model, self.settings.observe, calls, images, self.world)

    def probe(self, readers: Readers, size: int) -> Tensor:
        parts = self.parts
        return probe_images(parts.dataset, self.splits.train, parts.pipeline, readers.preprocess, self.reader_settings(), size)

    def plain_first_batch(self, readers: Readers, size: int) -> Tensor:
        """Return the first `size` images of the first batch without augmentation, [n, C, H, W]; files as they are evaluated."""
        parts, settings = self.parts, replace(self.reader_settings(), workers=0)
        source = self.splits.train.take(epoch_order(settings.batching, len(readers.train), 0)[:size])
        if isinstance(source, Arrays):
            return readers.preprocess.apply(source.images)
        return plain_images(parts.dataset, source, parts.pipeline, readers.preprocess, settings)

    def evidence(self, train_state: TrainState, calls: Sequence[Call], readers: Readers) -> dict[str, Any]:
        """Return the fingerprint, which proves that the chosen ingredients are in this run, and contradictions to it."""
        found = fingerprint(
            train_state.model,
            calls,
            self.settings,
            self.parts,
            train_state.optimizer,
            readers.first_batch,
            readers.preprocess,
            train_state.average,
            train_state.second_pass,
        )
        return evidence(found)

    def info(self, title: str, folder: Path, readers: Readers, plan: TrainPlan) -> RunInfo:
        """Return the facts about a new run."""
        return RunInfo(
            folder=folder,
            name=title,
            device=self.device_text(),
            precision=f"{self.placement.precision} ({self.placement.reason}), {self.placement.layout}",
            parameters=self.cost.parameters,
            flops_per_image=self.cost.flops,
            total_steps=plan.total,
            steps_per_epoch=plan.steps_per_epoch,
            epochs=round(plan.total / plan.steps_per_epoch, 2),
            batch_size=plan.batch_size,
            classes=len(self.parts.dataset.class_names),
            data=self.settings.parts["data"]["_target_"].rpartition(".")[2],
            train_size=len(readers.train),
            val_size=len(readers.val) if readers.val is not None else 0,
            test_size=len(readers.test),
        )

    def device_text(self) -> str:
        """Return the name of the hardware, and how often a run on several devices has it."""
        described = self.placement.describe()
        return described if self.world.is_alone else f"{self.world.size} x {described}"

    def facts(self, readers: Readers, plan: TrainPlan) -> Mapping[str, Any]:
        """Return what was chosen for this machine and measured on the data, for status.json."""
        placement = self.placement
        return {
            "device": placement.describe(),
            "precision": placement.precision,
            "precision_reason": placement.reason,
            "memory_format": placement.layout,
            "threads": torch.get_num_threads(),
            **({} if self.world.is_alone else {"devices": self.world.size}),
            "preprocess": readers.preprocess.describe(),
            "input_shape": list(self.parts.input_shape),
            "total_steps": plan.total,
        }


def constructed_model(parts: Parts, seed: int) -> nn.Module:
    """Return the model before its init, on the CPU. Torch's draws at construction are seeded too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.derive(seed, "init", 0))
        return parts.new_model()
