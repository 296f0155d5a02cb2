"""One run: what is put together before training, and what happens from the first step to the summary."""

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
from train.config import CheckpointSettings, ObserveSettings, Settings, total_steps
from train.data.batches import Batching, whole_batches
from train.data.contracts import Splits
from train.data.readers import Readers, ReaderSettings, open_readers
from train.data.split import split_validation
from train.errors import SIGNALLED, Interrupted, RunError
from train.observe.observer import Observer, select_layers
from train.observe.probe import probe_images
from train.observe.verdict import Thresholds
from train.parts.regularization import parameter_groups
from train.run import device as placing
from train.run import preflight
from train.run.build import Parts, build
from train.run.checkpoint import CheckpointSaver, FoundCheckpoint, find_checkpoint
from train.run.checkpoint_files import prune_checkpoints
from train.run.contradictions import contradictions
from train.run.default_sinks import default_sinks
from train.run.device import Placement
from train.run.explanation import ExplanationSink, NetworkInfo, predict_signal, read_switches
from train.run.fingerprint import fingerprint
from train.run.folder import RunFolder, write_atomic, write_json
from train.run.loop import Loop, TrainPlan, evaluate
from train.run.memory import peak_bytes, reset_peak
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
from train.sinks.log import log_file
from train.store.run import Run

log = logging.getLogger("train")
EXIT_CODES = {"done": 0, "failed": 1, "diverged": 3}


@dataclass(frozen=True)
class Session:
    """A run that is ready to begin: every part checked, the data at hand, the folder still untouched."""

    settings: Settings
    parts: Parts
    placement: Placement
    cost: preflight.Cost
    splits: Splits
    folder: RunFolder
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    previous: Run | None = None
    """What the folder said of the run that is gone on with; None for a new one."""
    checkpoint: FoundCheckpoint = field(default_factory=FoundCheckpoint)

    def claim_folder(self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None = None) -> None:
        """Make the folder this run's. UsageError when another has it."""
        if self.previous is None:
            self.folder.claim(config, overrides, choices)
        else:
            self.folder.resume(self.previous.status, self.checkpoint.step, config, overrides, choices)

    def run(self, title: str, arm: HParamsRow | None = None, stop: StopSignal | None = None) -> tuple[Summary, int]:
        """Train, and leave the folder complete whatever happens. The summary and the exit code of the process.

        `stop`: set by signals; None to listen to them here. Interrupted when one came before the first step.
        """
        if stop is None:
            with handle_signals() as stop:
                return self.run(title, arm, stop)
        began = time.perf_counter() - self.checkpoint.elapsed_s
        with self.logging():
            shown = BroadcastSink(default_sinks(self.folder, arm))
            insight = ExplanationSink(shown, self.folder.metrics_file, Thresholds(**self.settings.thresholds.model_dump()))
            sink = BroadcastSink([JsonlSink(), shown, HeatMapSink(shown), insight])
            try:
                summary = self.train(title, sink, insight, stop, began)
                sink.finish(summary)
            except Interrupted as error:
                reason = f"{signal_name(error.signal)} before the first step; to go on: {resume_command(self.folder.path)}"
                self.folder.update(status="interrupted", reason=reason, exit_code=error.exit_code, **self.end_fields(began))
                raise
            except BaseException as error:
                known = explain_error(error, self.settings.trainer, self.placement, self.parts.input_shape)
                known = known or explain_unwritable(error, self.folder.path)
                self.write_failure(known or error, began)
                if known is None:
                    raise
                raise known from error
            finally:
                sink.close()
        code = SIGNALLED + (stop.signal or 0) if summary.status == "interrupted" else EXIT_CODES[summary.status]
        diagnosis = {"diagnosis": insight.diagnosis.as_json()} if insight.diagnosis else {}
        self.folder.update(status=summary.status, reason=summary.reason, exit_code=code, **diagnosis, **self.end_fields(began))
        if summary.status == "done":
            prune_checkpoints(self.folder.path, "step", keep=1 if self.checkpoints.final else 0)
        return summary, code

    def train(self, title: str, sink: Sink, insight: ExplanationSink, stop: StopSignal, began: float) -> Summary:
        """From the data to the scores. The test split is looked at once, here, after the last step."""
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
                observer = self.observer(train_state.model, readers)
                proof = self.verify_choices(train_state, readers, sink)
                insight.network = self.network_info(train_state.model, observer, readers)
                saver = self.saver(proof, sink)
                loop = Loop(
                    train_state, self.parts.schedule, readers.train, readers.val, plan, observer, sink, stop, began, saver
                )
                if self.previous is not None:
                    restore_run(loop, self.previous, self.checkpoint, saver, sink, self.folder.metrics_file)
            ending = loop.run()
            test = evaluate(train_state, readers.test, stop) if ending.status == "done" else None
        finally:
            readers.close()
        if ending.status == "done" and test is None:
            ending.status = "interrupted"
        if ending.status == "interrupted":
            problem = f"; {saver.problem}" if saver.problem else ""
            resume = resume_command(self.folder.path)
            ending.reason = f"{signal_name(stop.signal or 0)} after step {ending.steps}{problem}; to go on: {resume}"
        if test is not None:
            sink.record(Record(ending.steps, loop.epochs(ending.steps), time.perf_counter() - began, test.values("test")))
        if plan.total:
            self.save_weights(train_state.model)  # without a step they are a function of the configuration
        summary = summarise(ending, test, self.cost, plan.batch_size, self.placement.device, self.folder.path, began)
        verdict = {"initial_verdict": asdict(insight.verdict)} if insight.verdict else {}
        content = {name: json_value(value) for name, value in asdict(summary).items()}
        write_json(self.folder.summary_file, content | verdict | proof)
        return summary

    def saver(self, proof: Mapping[str, Any], sink: Sink) -> CheckpointSaver:
        first_batch = proof["fingerprint"]["first_batch"]["sha256"]
        return CheckpointSaver(self.folder.path, self.checkpoints, resume_identity(self.folder.config), first_batch, sink)

    def verify_choices(self, train_state: TrainState, readers: Readers, sink: Sink) -> dict[str, Any]:
        """What shows that the chosen ingredients are really in this run; where they are not, it is said loudly."""
        found = fingerprint(
            train_state.model, self.settings, self.parts, train_state.optimizer, readers.first_batch, readers.preprocess
        )
        wrong = contradictions(found)
        for sentence in wrong:
            sink.message(sentence, "warning")
            log.warning(sentence)
        return {"fingerprint": found, "contradictions": wrong}

    def network_info(self, model: nn.Module, observer: Observer, readers: Readers) -> NetworkInfo:
        """What the explanation of step 0 needs to know; theory is asked only when the layers will be looked at."""
        images = readers.first_batch.images
        expected = predict_signal(model, self.parts.input_shape, images) if observer.due(0, 0) else ()
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
        """The model with the initial weights of the chosen init, and everything that updates it."""
        trainer, regularization = self.settings.trainer, self.parts.regularization
        model = self.placement.place(self.initial_model(readers))
        optimizer = self.parts.optimizer(parameter_groups(model, regularization))
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return TrainState(
            model=model,
            forward=torch.compile(model) if trainer.compile else model,
            optimizer=optimizer,
            scaler=torch.amp.GradScaler(self.placement.device.type, enabled=self.placement.dtype is torch.float16),
            placement=self.placement,
            label_smoothing=regularization.label_smoothing,
            grad_clip=trainer.grad_clip,
        )

    def observer(self, model: nn.Module, readers: Readers) -> Observer:
        """For a model with its initial weights."""
        size = self.settings.observe.probe_size
        images = self.probe(readers, size) if size else None
        return Observer(model, self.settings.observe, self.parts.input_shape, images)

    def probe(self, readers: Readers, size: int) -> Tensor:
        parts = self.parts
        return probe_images(parts.dataset, self.splits.train, parts.pipeline, readers.preprocess, self.reader_settings(), size)

    def initial_model(self, readers: Readers) -> nn.Module:
        """On the CPU, so that every device starts from the same bits. Torch's own draws at construction are seeded too."""
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
        """What was chosen for this machine and measured on the data: part of the run's record."""
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
        write_atomic(self.folder.weights_file, buffer.getvalue())

    def write_failure(self, error: BaseException, began: float) -> None:
        """Say in the folder what the terminal is about to say; the terminal gets the exception itself."""
        log.error("the run failed", exc_info=error)
        code = error.exit_code if isinstance(error, RunError) else EXIT_CODES["failed"]
        reason = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        try:
            self.folder.update(status="failed", reason=reason, exit_code=code, **self.end_fields(began))
        except OSError as again:  # the folder may be what failed; then the terminal alone can say so
            log.error("status.json could not be written", exc_info=again)

    def end_fields(self, began: float) -> dict[str, object]:
        return {"wall_s": round(time.perf_counter() - began, 3), "peak_memory_bytes": peak_bytes(self.placement.device)}

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Inside, the package's log goes to train.log."""
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
    """A configuration that has been built once and found possible, before any data is loaded."""

    parts: Parts
    placement: Placement
    cost: preflight.Cost


def assemble(settings: Settings) -> Assembly:
    """Build and check everything that needs no data. UsageError names the option and the remedy."""
    placing.configure_determinism(settings.trainer.deterministic)
    placement = placing.choose_placement(settings.trainer)
    parts = build(settings)
    cost = preflight.check_model(parts, settings.trainer.batch_size, placement)
    refuse_unknown_layers(parts, settings.observe)
    return Assembly(parts, placement, cost)


def prepare(
    settings: Settings, folder: RunFolder, checkpoints: CheckpointSettings | None = None, before: Run | None = None
) -> Session:
    """Everything that can fail for the user's reasons, cheapest first. UsageError names the option and the remedy.

    `before`: the run in `folder` that is gone on with, None for a new one.
    """
    if before is None:
        folder.refuse_if_taken()
    built = assemble(settings)
    splits = split_validation(built.parts.dataset.load(), settings.data.val_fraction, settings.seeds.split)
    steps_per_epoch = whole_batches(len(splits.train), settings.trainer.batch_size)  # refuses a batch larger than the split
    found = FoundCheckpoint()
    if before is not None:
        found = find_checkpoint(folder.path, resume_identities(before.config))
        validate_length(built.parts, settings, before, found.step, steps_per_epoch)
    keep = checkpoints or CheckpointSettings()
    return Session(settings, built.parts, built.placement, built.cost, splits, folder, keep, before, found)


def refuse_unknown_layers(parts: Parts, observe: ObserveSettings) -> None:
    """UsageError when `observe.layers` fits no layer."""
    if observe.layers == "*":
        return
    with torch.device("meta"):
        select_layers(parts.new_model(), parts.input_shape, observe.layers)
