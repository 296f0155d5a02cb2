"""One run: assemble and check its parts, then train from the first step to the summary."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from train import rng
from train.config import CheckpointSettings, Settings, total_steps
from train.data.batches import Batching, whole_batches
from train.data.contracts import Splits
from train.data.readers import Readers, ReaderSettings, open_readers
from train.data.split import split_validation
from train.errors import SIGNALLED, Interrupted, RunError
from train.explain.sink import ExplanationSink, NetworkInfo
from train.observe.observer import Observer
from train.observe.probe import probe_images
from train.parts.model.trace import Call, trace
from train.run import device, preflight
from train.run.build import Parts, build
from train.run.checkpoint import CheckpointSaver, FoundCheckpoint, find_checkpoint
from train.run.checkpoint_files import prune_checkpoints
from train.run.contradictions import contradictions
from train.run.default_sinks import default_sinks
from train.run.device import Placement
from train.run.fingerprint import fingerprint
from train.run.loop import Loop, TrainPlan, evaluate
from train.run.memory import peak_bytes, reset_peak
from train.run.network_info import predict_signal, read_switches
from train.run.outcome import explain_error, explain_unwritable, json_value, summarise
from train.run.restore import restore_run, validate_length
from train.run.resume import resume_command, resume_identities, resume_identity
from train.run.signals import StopSignal, handle_signals, signal_name
from train.run.step import TrainState
from train.sinks.broadcast import BroadcastSink
from train.sinks.contracts import Record, RunInfo, Sink, Summary
from train.sinks.heatmap import HeatMapSink
from train.sinks.hparams import HParamsRow
from train.sinks.jsonl import JsonlSink
from train.store.log import log_file
from train.store.run import Run
from train.store.run_folder import RunFolder

log = logging.getLogger("train")
EXIT_CODES = {"done": 0, "failed": 1, "diverged": 3}


@dataclass(frozen=True)
class Session:
    """A run that is ready to start: all parts are checked, the data are loaded, the folder is untouched."""

    settings: Settings
    parts: Parts
    placement: Placement
    cost: preflight.Cost
    splits: Splits
    folder: RunFolder
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    previous: Run | None = None
    """The run to resume, as stored in the folder; None for a new run."""
    checkpoint: FoundCheckpoint = field(default_factory=FoundCheckpoint)

    def claim_folder(self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None = None) -> None:
        """Claim the run folder. UsageError when it belongs to another run."""
        if self.previous is None:
            self.folder.claim(config, overrides, choices)
        else:
            self.folder.resume(self.previous.status, self.checkpoint.step, config, overrides, choices)

    def run(self, title: str, arm: HParamsRow | None = None, stop: StopSignal | None = None) -> tuple[Summary, int]:
        """Train, complete the run folder on every ending, and return the summary and the exit code of the process.

        `stop`: set by signals; None to handle them here. Interrupted when a signal arrived before the first step.
        """
        if stop is None:
            with handle_signals() as stop:
                return self.run(title, arm, stop)
        began = time.perf_counter() - self.checkpoint.elapsed_s
        with self.logging():
            views = BroadcastSink(default_sinks(self.folder, arm))
            explanation = ExplanationSink(views, self.folder.metrics_file, self.settings.thresholds)
            sink = BroadcastSink([JsonlSink(), views, HeatMapSink(views), explanation])
            try:
                summary = self.train(title, sink, explanation, stop, began)
                sink.finish(summary)
            except Interrupted as error:
                reason = f"{signal_name(error.signal)} before the first step; to resume: {resume_command(self.folder.path)}"
                self.folder.update(status="interrupted", reason=reason, exit_code=error.exit_code, **self.end_fields(began))
                raise
            except BaseException as error:
                explained = explain_error(error, self.settings.trainer, self.placement, self.parts.input_shape)
                explained = explained or explain_unwritable(error, self.folder.path)
                self.write_failure(explained or error, began)
                if explained is None:
                    raise
                raise explained from error
            finally:
                sink.close()
        code = SIGNALLED + (stop.signal or 0) if summary.status == "interrupted" else EXIT_CODES[summary.status]
        diagnosis = {"diagnosis": explanation.diagnosis.as_json()} if explanation.diagnosis else {}
        self.folder.update(status=summary.status, reason=summary.reason, exit_code=code, **diagnosis, **self.end_fields(began))
        if summary.status == "done":
            prune_checkpoints(self.folder.path, "step", keep=1 if self.checkpoints.final else 0)
        return summary, code

    def train(self, title: str, sink: Sink, explanation: ExplanationSink, stop: StopSignal, began: float) -> Summary:
        """Train from the data to the scores. The test split is evaluated once, here, after the last step."""
        with stop.raising():
            reset_peak(self.placement.device)
            readers = open_readers(self.parts.dataset, self.splits, self.parts.pipeline, self.reader_settings())
        try:
            with stop.raising():
                plan = self.plan(readers)
                info = self.info(title, readers, plan)
                self.describe(readers, plan)
                sink.start(info)
                train_state = self.train_state(readers)
                calls = trace(train_state.model, self.parts.input_shape)
                observer = self.observer(train_state.model, calls, readers)
                evidence = self.verify_choices(train_state, calls, readers, sink)
                explanation.network = self.network_info(calls, observer, readers)
                del calls  # their tensors may be on the device
                saver = self.saver(evidence, sink)
                loop = Loop(
                    train_state, self.parts.schedule, readers.train, readers.val, plan, observer, sink, stop, began, saver
                )
                if self.previous is not None:
                    restore_run(loop, self.previous, self.checkpoint, saver, sink, self.folder.metrics_file)
            result = loop.run()
            test = evaluate(train_state, readers.test, stop) if result.status == "done" else None
        finally:
            readers.close()
        if result.status == "done" and test is None:
            result.status = "interrupted"
        if result.status == "interrupted":
            problem = f"; {saver.problem}" if saver.problem else ""
            command = resume_command(self.folder.path)
            result.reason = f"{signal_name(stop.signal or 0)} after step {result.steps}{problem}; to resume: {command}"
        if test is not None:
            sink.record(Record(result.steps, loop.epochs(result.steps), time.perf_counter() - began, test.values("test")))
        if plan.total:
            self.save_weights(train_state.model)  # without a step they follow from the configuration
        summary = summarise(result, test, self.cost, plan.batch_size, self.placement.device, self.folder.path, began)
        verdict = {"initial_verdict": asdict(explanation.verdict)} if explanation.verdict else {}
        content = {name: json_value(value) for name, value in asdict(summary).items()}
        self.folder.write_summary(content | verdict | evidence)
        return summary

    def saver(self, evidence: Mapping[str, Any], sink: Sink) -> CheckpointSaver:
        first_batch = evidence["fingerprint"]["first_batch"]["sha256"]
        return CheckpointSaver(self.folder.path, self.checkpoints, resume_identity(self.folder.config), first_batch, sink)

    def verify_choices(self, train_state: TrainState, calls: Sequence[Call], readers: Readers, sink: Sink) -> dict[str, Any]:
        """Return the fingerprint, which proves that the chosen ingredients are in this run, and warn of contradictions to it."""
        evidence = fingerprint(
            train_state.model, calls, self.settings, self.parts, train_state.optimizer, readers.first_batch, readers.preprocess
        )
        conflicts = contradictions(evidence)
        for sentence in conflicts:
            sink.message(sentence, "warning")
            log.warning(sentence)
        return {"fingerprint": evidence, "contradictions": conflicts}

    def network_info(self, calls: Sequence[Call], observer: Observer, readers: Readers) -> NetworkInfo:
        """Return the network's facts for the explanation of step 0. Theory is computed only if the layers are observed."""
        images = readers.first_batch.images
        expected = predict_signal(calls, images) if observer.due(0, 0) else ()
        return NetworkInfo(observer.layers, expected, len(self.parts.dataset.class_names), read_switches(self.settings))

    def reader_settings(self) -> ReaderSettings:
        batching = Batching(
            batch_size=self.settings.trainer.batch_size,
            device=self.placement.device,
            memory_format=self.placement.memory_format,
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
            forward=torch.compile(model) if trainer.compile else model,
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(self.placement.device.type, enabled=self.placement.dtype is torch.float16),
            placement=self.placement,
            label_smoothing=self.parts.regularization.label_smoothing,
            grad_clip=trainer.grad_clip,
        )

    def observer(self, model: nn.Module, calls: Sequence[Call], readers: Readers) -> Observer:
        """Return the observer of a model with its initial weights."""
        size = self.settings.observe.probe_size
        images = self.probe(readers, size) if size else None
        return Observer(model, self.settings.observe, calls, images)

    def probe(self, readers: Readers, size: int) -> Tensor:
        parts = self.parts
        return probe_images(parts.dataset, self.splits.train, parts.pipeline, readers.preprocess, self.reader_settings(), size)

    def initial_model(self, readers: Readers) -> nn.Module:
        """Initialise the model on the CPU: all devices start from the same bits. Torch's draws at construction are seeded too."""
        seed = self.settings.seeds.init
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(rng.derive(seed, "init", 0))
            model = self.parts.new_model()
        images = readers.first_batch.images.cpu()
        self.parts.init(model, images, rng.generator(seed, "init", 1))
        return model

    def info(self, title: str, readers: Readers, plan: TrainPlan) -> RunInfo:
        return RunInfo(
            folder=self.folder.path,
            name=title,
            device=self.placement.describe(),
            precision=f"{self.placement.precision} ({self.placement.reason}), {self.placement.layout}",
            parameters=self.cost.parameters,
            flops_per_image=self.cost.flops,
            total_steps=plan.total,
            steps_per_epoch=plan.steps_per_epoch,
            epochs=round(plan.total / plan.steps_per_epoch, 2),
            batch_size=plan.batch_size,
            data=self.settings.parts["data"]["_target_"].rpartition(".")[2],
            train_size=len(readers.train),
            val_size=len(readers.val) if readers.val is not None else 0,
            test_size=len(readers.test),
            offsets=self.checkpoint.files if self.previous is not None else None,
        )

    def describe(self, readers: Readers, plan: TrainPlan) -> None:
        """Write to the run folder what was chosen for this machine and measured on the data."""
        placement, preprocess = self.placement, readers.preprocess
        self.folder.update(
            device=placement.describe(),
            precision=placement.precision,
            precision_reason=placement.reason,
            memory_format=placement.layout,
            threads=torch.get_num_threads(),
            preprocess=preprocess.describe(),
            total_steps=plan.total,
        )
        log.info("pre-processing %s", preprocess.describe())

    def save_weights(self, model: nn.Module) -> None:
        buffer = io.BytesIO()
        torch.save({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, buffer)
        self.folder.write_weights(buffer.getvalue())

    def write_failure(self, error: BaseException, began: float) -> None:
        """Write the failure to the run folder; the terminal reports the exception itself."""
        log.error("the run failed", exc_info=error)
        code = error.exit_code if isinstance(error, RunError) else EXIT_CODES["failed"]
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        try:
            self.folder.update(status="failed", reason=reason, exit_code=code, **self.end_fields(began))
        except OSError as write_error:  # the folder may be the cause; then only the terminal reports it
            log.error("status.json could not be written", exc_info=write_error)

    def end_fields(self, began: float) -> dict[str, object]:
        return {"wall_s": round(time.perf_counter() - began, 3), "peak_memory_bytes": peak_bytes(self.placement.device)}

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Send the package's log to train.log inside the context."""
        handler = log_file(self.folder.path)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()


@dataclass(frozen=True)
class Assembly:
    """The parts of a configuration that was built and checked before any data is loaded."""

    parts: Parts
    placement: Placement
    cost: preflight.Cost


def assemble(settings: Settings) -> Assembly:
    """Build and check everything that needs no data. UsageError names the option and the remedy."""
    device.configure_determinism(settings.trainer.deterministic)
    placement = device.choose_placement(settings.trainer)
    parts = build(settings)
    cost = preflight.check_model(parts, settings.trainer.batch_size, placement, settings.observe.layers)
    return Assembly(parts, placement, cost)


def prepare(
    settings: Settings, folder: RunFolder, checkpoints: CheckpointSettings | None = None, previous: Run | None = None
) -> Session:
    """Build, check and load everything that the user can get wrong, cheapest first. UsageError names the option and the remedy.

    `previous`: the run in `folder` to resume, None for a new one.
    """
    if previous is None:
        folder.refuse_if_taken()
    assembly = assemble(settings)
    splits = split_validation(assembly.parts.dataset.load(), settings.data.val_fraction, settings.seeds.split)
    steps_per_epoch = whole_batches(len(splits.train), settings.trainer.batch_size)  # rejects a batch larger than the split
    checkpoint = FoundCheckpoint()
    if previous is not None:
        checkpoint = find_checkpoint(folder.path, resume_identities(previous.config))
        validate_length(assembly.parts, settings, previous, checkpoint.step, steps_per_epoch)
    checkpoints = checkpoints or CheckpointSettings()
    return Session(settings, assembly.parts, assembly.placement, assembly.cost, splits, folder, checkpoints, previous, checkpoint)
