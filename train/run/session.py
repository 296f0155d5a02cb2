"""One run from its first step to its ending: train, evaluate, and write the results, a failure or an interruption."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from train.config import CheckpointSettings, Settings
from train.data.readers import Readers
from train.errors import SIGNALLED, Interrupted, RunError, UsageError
from train.explain.sink import ExplanationSink
from train.run.checkpoint import CheckpointSaver, FoundCheckpoint, find_checkpoint, prune_checkpoints
from train.run.device import peak_bytes, reset_peak
from train.run.explanation import explanation_sink
from train.run.loop import Loop, TrainResult
from train.run.outcome import explain_error, explain_unwritable, json_value, summarise
from train.run.ranks import RankLostError, Ranks
from train.run.resume import refuse_other_inputs, restore_run, resume_identities, resume_identity, unusable, validate_length
from train.run.run_sinks import delayed, run_sinks
from train.run.setup import Setup, prepare
from train.run.signals import StopSignal, handle_signals, signal_name
from train.run.step import Score
from train.sinks.contracts import Sink, Summary
from train.sinks.hparams import HParamsRow
from train.store.log import log_file
from train.store.run import Run
from train.store.run_folder import RunFolder

log = logging.getLogger("train")
EXIT_CODES = {"done": 0, "failed": 1, "diverged": 3}


def open_session(
    settings: Settings,
    folder: RunFolder,
    checkpoints: CheckpointSettings | None = None,
    previous: Run | None = None,
    typed: Sequence[str] = (),
) -> Session:
    """Return a run that is ready to start. UsageError names the option and the remedy.

    `previous`: the run in `folder` to resume, None for a new one; `typed`: the overrides on the command line.
    """
    if previous is None:
        folder.refuse_if_taken()
    ranks = Ranks(settings)
    try:
        setup = prepare(settings, typed, ranks.world, ranks.place)
    except (UsageError, RunError):
        raise
    except Exception as error:
        if message := unusable(previous, error):
            raise UsageError(message) from error
        raise
    checkpoint = FoundCheckpoint()
    if previous is not None:
        refuse_other_inputs(previous, setup.inputs)
        checkpoint = find_checkpoint(folder.path, resume_identities(previous.config))
        validate_length(previous, settings, setup.parts.schedule, checkpoint.step, setup.steps_per_epoch)
    return Session(setup, folder, ranks, checkpoints or CheckpointSettings(), previous, checkpoint)


@dataclass(frozen=True)
class Training:
    """A training that is ready for its first step.

    `graph_facts`: returns what became of the CUDA graph; `evidence`: what summary.json says about the chosen ingredients.
    """

    loop: Loop
    graph_facts: Callable[[], dict[str, Any]]
    saver: CheckpointSaver
    explanation: ExplanationSink
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Session:
    """A run that is ready to start: all parts are checked, the data are loaded, the folder is untouched."""

    setup: Setup
    folder: RunFolder
    ranks: Ranks
    """The other processes of a run on several devices."""
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    previous: Run | None = None
    """The run to resume, as stored in the folder; None for a new run."""
    checkpoint: FoundCheckpoint = field(default_factory=FoundCheckpoint)

    def claim_folder(self, config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str] | None = None) -> None:
        """Claim the run folder. UsageError when it belongs to another run."""
        if self.previous is None:
            self.folder.claim(config, overrides, choices, self.setup.inputs)
        else:
            self.folder.resume(self.previous.status, self.checkpoint.step, config, overrides, choices, self.setup.inputs)

    def run(self, title: str, arm: HParamsRow | None = None, stop: StopSignal | None = None) -> tuple[Summary, int]:
        """Train, complete the run folder on every ending, and return the summary and the exit code of the process.

        `stop`: set by signals; None to handle them here. Interrupted when a signal arrived before the first step.
        """
        if stop is None:
            with handle_signals() as stop:
                return self.run(title, arm, stop)
        began = time.perf_counter() - self.checkpoint.elapsed_s
        with self.logging():
            sink, views = run_sinks(self.folder, arm)
            try:
                summary, facts = self.train(title, sink, views, stop, began)
            except Interrupted as error:
                reason = f"{signal_name(error.signal)} before the first step; to resume: {self.folder.resume_command}"
                self.folder.update(status="interrupted", reason=reason, exit_code=error.exit_code, **self.end_fields(began))
                raise
            except BaseException as error:
                explained = self.explain(error)
                if isinstance(explained, RankLostError):
                    log.error("the run is lost: %s", explained)
                    raise explained from error
                if explained is None and not isinstance(error, UsageError) and (message := unusable(self.previous, error)):
                    log.error("the run failed", exc_info=error)
                    explained = RunError(message)
                self.write_failure(explained or error, began)
                if explained is None:
                    raise
                raise explained from error
            finally:
                sink.close()
                self.ranks.end(failed=sys.exc_info()[0] is not None)
        code = SIGNALLED + (stop.signal or 0) if summary.status == "interrupted" else EXIT_CODES[summary.status]
        self.folder.update(status=summary.status, reason=summary.reason, exit_code=code, **facts, **self.end_fields(began))
        if summary.status == "done":
            prune_checkpoints(self.folder.path, "step", keep=1 if self.checkpoints.final else 0)
        return summary, code

    def train(self, title: str, sink: Sink, views: Sink, stop: StopSignal, began: float) -> tuple[Summary, dict[str, Any]]:
        """Train from the data to the scores; return the summary and status.json's entries of the CUDA graph and of the diagnosis.

        The test split is evaluated once, here, after the last step, unless `trainer.score_test` is false.
        """
        with stop.raising():
            reset_peak(self.setup.placement.device)
            self.ranks.start(self.setup.placement.device)
            readers = self.setup.open_readers()
        try:
            with stop.raising():
                training = self.begin(title, readers, sink, views, stop, began)
            loop = training.loop
            result = self.run_loop(loop)
            classes = len(self.setup.parts.dataset.class_names)
            is_scored = result.status == "done" and self.setup.settings.trainer.score_test
            test, right, beside = loop.score_test(readers.test, classes) if is_scored else (None, [], None)
        finally:
            readers.close()
        if test is not None and beside is not None:
            loop.recorder.record(result.steps, test.values("test") | beside)
            if reason := loop.bad_score("test", test):
                result, test = replace(result, status="diverged", reason=reason), None
        elif is_scored or result.status == "interrupted":
            test = None
            result = replace(result, status="interrupted", reason=self.interruption(stop, result.steps, training.saver.problem))
        summary = self.write_results(training, result, test, right)
        loop.sink.finish(summary)
        diagnosis = training.explanation.diagnosis
        return summary, training.graph_facts() | ({"diagnosis": diagnosis.as_json()} if diagnosis else {})

    def run_loop(self, loop: Loop) -> TrainResult:
        """Train. RunError when the first step after a checkpoint fails: it may hold a state that the optimizer cannot use."""
        try:
            try:
                return loop.run()
            finally:
                loop.sink.flush()
        except Exception as error:
            is_first = 0 < self.checkpoint.step == loop.steps
            if not is_first or isinstance(error, UsageError) or self.explain(error) is not None:
                raise
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise RunError(
                f"{self.folder.path}: the first step after the checkpoint of step {loop.steps} failed ({message[:200]}). If the "
                "run did not fail there before, remove that checkpoint to use the previous one."
            ) from error

    def begin(self, title: str, readers: Readers, sink: Sink, views: Sink, stop: StopSignal, began: float) -> Training:
        """Start the sinks, then make the loop, in the state of the checkpoint if the run is resumed."""
        setup, plan = self.setup, self.setup.plan(readers)
        self.folder.update(**setup.facts(readers, plan))
        log.info("pre-processing %s", readers.preprocess.describe())
        offsets = self.checkpoint.files if self.previous is not None else None
        sink.start(replace(setup.info(title, self.folder.path, readers, plan), offsets=offsets))
        for note in setup.notes:
            sink.message(f"note: {note}")
        self.ranks.connect(setup.placement.device)
        train_state = setup.train_state(readers)
        calls = setup.trace(train_state.model)
        observer = setup.observer(train_state.model, calls, readers)
        evidence = setup.evidence(train_state, calls, readers)
        for sentence in evidence["contradictions"]:
            sink.message(sentence, "warning")
            log.warning(sentence)
        explanation = explanation_sink(setup, calls, observer, readers, views, self.folder.path, title)
        del calls  # their tensors may be on the device
        sink = delayed([sink, explanation], setup.placement.device)
        first_batch = evidence["fingerprint"]["first_batch"]["sha256"]
        own_saver = CheckpointSaver(self.folder.path, self.checkpoints, resume_identity(self.folder.config), first_batch, sink)
        schedule = setup.parts.schedule
        runner = setup.runner(train_state, observer, plan)
        stop, saver = self.ranks.stop(stop), self.ranks.saver(own_saver)
        loop = Loop(train_state, schedule, readers.train, readers.val, plan, observer, sink, stop, began, saver, runner)
        restored = None
        if self.previous is not None:
            restored = restore_run(loop, self.previous, self.checkpoint, own_saver, self.folder.metrics_file)
        setup.world.from_first(restored)
        return Training(loop, runner.facts, own_saver, explanation, evidence)

    def interruption(self, stop: StopSignal, steps: int, problem: str) -> str:
        """Return the reason of an interrupted run. `problem`: why its last checkpoint could not be written, or empty."""
        when = f"{signal_name(stop.signal or 0)} after step {steps}{f'; {problem}' if problem else ''}"
        return f"{when}; to resume: {self.folder.resume_command}"

    def write_results(self, training: Training, result: TrainResult, test: Score | None, right: Sequence[int]) -> Summary:
        """Write weights.pt and summary.json; return the summary. `right`: test images that are classified right, by class."""
        loop, placement = training.loop, self.setup.placement
        if loop.plan.total:
            self.save_weights(loop.train_state.scored)  # without a step they follow from the configuration
        summary = summarise(result, test, self.setup.cost, loop.plan.batch_size, placement.device, self.folder.path, loop.began)
        explanation = training.explanation
        verdict = {"initial_verdict": asdict(explanation.verdict)} if explanation.verdict else {}
        theory = {"expected_signal": explanation.network.expected_stds()} if verdict else {}
        content = {name: json_value(value) for name, value in asdict(summary).items()}
        by_class = {"test_correct_by_class": right} if test is not None else {}
        self.folder.write_summary(content | by_class | verdict | theory | training.evidence)
        return summary

    def save_weights(self, model: nn.Module) -> None:
        buffer = io.BytesIO()
        torch.save({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, buffer)
        self.folder.write_weights(buffer.getvalue())

    def explain(self, error: BaseException) -> RunError | None:
        """Return an error that tells the user what to do; None if `error` is not a known one."""
        setup = self.setup
        ended = self.ranks.explain(error)
        explained = ended or explain_error(error, setup.settings.trainer, setup.placement, setup.parts.input_shape)
        return explained or explain_unwritable(error, self.folder.path, self.folder.resume_command)

    def write_failure(self, error: BaseException, began: float) -> None:
        """Write the failure to the run folder; the terminal reports the exception itself."""
        log.error("the run failed", exc_info=error)
        known = isinstance(error, RunError | UsageError)
        code = error.exit_code if known else EXIT_CODES["failed"]
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        try:
            self.folder.update(status="failed", reason=reason, exit_code=code, **self.end_fields(began))
        except OSError as write_error:  # the folder may be the cause; then only the terminal reports it
            log.error("status.json could not be written", exc_info=write_error)

    def end_fields(self, began: float) -> dict[str, object]:
        device = self.setup.placement.device
        return {"wall_s": round(time.perf_counter() - began, 3), "peak_memory_bytes": peak_bytes(device)}

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
