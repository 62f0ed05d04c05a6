"""Trainer: the loop, on one screen."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer import run_facts
from trainer.agreement import check_answers, check_run, tell_doubt
from trainer.allocator import keep_freed_memory
from trainer.arguments import check_run_facts, checked
from trainer.batch_norm import check_batch_norm
from trainer.callbacks.callback import Ask, Callback
from trainer.callbacks.early_stopping import EarlyStopping
from trainer.checkpoint.background import BackgroundSave, fits_in_memory
from trainer.checkpoint.state import read_progress
from trainer.collectives import can_make_up
from trainer.data.ahead import DEPTH, BatchesAhead, Part
from trainer.data.batch import Batch
from trainer.data.given_rows import set_key
from trainer.data.plan import GlobalBatchPlan
from trainer.data.reading import BadRows
from trainer.data.samples import as_samples
from trainer.errors import EnvironmentFault, NumericsError
from trainer.evaluation import Evaluation, evaluate
from trainer.finiteness import check_finite
from trainer.interruption import Interruption
from trainer.memory import (
    evaluation_in,
    free_cached_memory,
    room_told_of,
    smaller_budget,
    step_in,
)
from trainer.metrics.direction import metric_for_best_model
from trainer.metrics.metric import Metric
from trainer.models.sharded import Rows, is_sharded
from trainer.optim import (
    ExponentialMovingAverage,
    build_optimizer,
    learning_rate,
    trainable,
)
from trainer.outcome import named_metrics, prediction_lines
from trainer.placement import place
from trainer.precision import autocast
from trainer.process_state import process_as_found, use_deterministic_kernels
from trainer.recipe import Recipe
from trainer.run_folder import RunFolder, resume_from
from trainer.run_state import Resumable, RunState
from trainer.saving import write_model, written_parameters
from trainer.settings import TrainSettings
from trainer.sharding import calls_outside_training, whole_weights
from trainer.step import StepFacts, Stepper
from trainer.throughput import Throughput
from trainer.token_budget import default_budget, settled_budget
from trainer.tracking import Tracking, forget_logged, logged_before

logger = logging.getLogger("trainer")

MAX_SKIPPED_IN_A_ROW = 20
"""Steps with non-finite numbers that `non_finite: skip` forgives before it stops the run."""


class Trainer:
    """Fine-tunes a model by a recipe and settings; evaluates it, saves it, resumes.

    `model` is one of this package's, with a `recipe` (or a plain `nn.Module` with a `loss` callable
    that takes (outputs, batch) and returns (sum, count)). Data sets are tables of rows, which the
    recipe and the tokenizer turn into ids; several evaluation sets come as a mapping by name. Rows
    come as a `datasets.Dataset`, a list of dicts, a dict of lists, a DataFrame, a map-style set of
    dicts or paths of files; `bad_rows` says what is done with those that the recipe refuses. A
    model or a tokenizer may be a path, a metric its name (trainer/arguments.py). Without
    `output_dir` nothing is written.
    """

    data_notes: Sequence[str] = ()
    """What the start summary says of the data beside its counts."""

    _unread: Callable[[], StepFacts] | None = None
    """Reads the facts of the last step, where the device was not asked for them yet."""
    _unlogged: StepFacts | None = None
    _leave: int = 0
    """The exit code that the ranks agreed on in the last step whose facts were read."""

    def __init__(
        self,
        model: nn.Module | str | Path,
        recipe: Recipe | type[Recipe] | None = None,
        settings: TrainSettings | Mapping[str, Any] | None = None,
        *,
        loss: Any = None,
        tokenizer: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        metrics: Mapping[str, Metric | str] | Sequence[Metric | str] | str | None = None,
        callbacks: Sequence[Callback] | Callback = (),
        output_dir: str | Path | None = None,
        seed: int = 42,
        config: Mapping[str, Any] | None = None,
        cache_dir: Path | None = None,
        model_path: str = "",
        commands: Mapping[str, str] | None = None,
        config_digest: str = "",
        timeout: float | None = None,
        strategy: str = "auto",
        cpu_offload: bool = False,
        bad_rows: BadRows | None = None,
        reduce_gradients: str = "auto",
    ) -> None:
        check_run_facts(output_dir, seed)
        given = checked(
            model, recipe, settings, loss, tokenizer, train_dataset, eval_dataset, metrics,
            callbacks,
        )  # fmt: skip
        self.recipe, self.settings, self.metrics = given.recipe, given.settings, given.metrics
        self.tokenizer, self.eval_rows = given.tokenizer, given.evaluation
        self.seed = seed
        self.config = dict(config or {})
        self.model_path = model_path or (str(model) if isinstance(model, (str, Path)) else "")
        self.commands = dict(commands or {})
        self.config_digest = config_digest
        self.folder = RunFolder(Path(output_dir)) if output_dir is not None else None
        self.resume_from = resume_from(self.settings)
        self.bad_rows = bad_rows or BadRows()
        self.logged_before: dict[str, int] = {}
        trackers_dir = self.folder.trackers if self.folder else None
        how = (timeout, strategy, cpu_offload, reduce_gradients)
        self.placement = place(given.model, self.settings, trackers_dir, *how)
        self.model, self.ranks = self.placement.model, self.placement.ranks
        self.wrapped = self.placement.wrapped
        self.tracking = Tracking(self.placement.accelerator, trackers_dir)
        self.ema: ExponentialMovingAverage | None = None
        self.train_samples = self._samples(given.train, "dataset.train", cache_dir)
        self.eval_samples = {
            name: self._evaluation_samples(name, rows, cache_dir)
            for name, rows in self.eval_rows.items()
        }
        self.evaluations: dict[str, Evaluation] = {}
        self.callbacks = given.callbacks
        if self.settings.early_stopping_patience:
            self.callbacks.append(EarlyStopping(self.settings.early_stopping_patience))

    # --- the loop ---

    def fit(self) -> dict[str, Any]:
        """Train to the last step, or until a callback asks to stop; returns results.json's content.

        Raises NumericsError where loss or gradient are not finite, Interrupted after a signal.
        Leaves torch's generators and its deterministic switch as it found them.
        """
        with process_as_found(), self.ranks.faults_told(), self._session() as interruption:
            state = self.state
            while state.step < self.total_steps and not state.stopped:
                if not self._step(lambda: interruption.code or self._failure):
                    continue  # out of memory: once more, in smaller micro batches
                ask = self._asked(
                    c.on_step_end(state.step, self.total_steps) for c in self.callbacks
                )
                evaluates = self._evaluation_due(ask)
                saves = self._due("save_steps") or ask.save or bool(state.stopped)
                leave = self._leaving(interruption)
                if self._may_run_on(evaluates or saves or leave) or not self._settle():
                    continue
                improved = evaluates and self._evaluate_and_compare()
                leave = self._leaving(interruption)
                if saves or improved or leave or state.stopped:
                    self._save_checkpoint()
                if leave:
                    self._finish_save()
                    raise interruption.error(leave, self.folder and self.folder.newest)
                self.throughput.restart_clock()
            return self._finish()

    def evaluate(self, dataset: Any = None) -> dict[str, float]:
        """Loss and metrics of `dataset`, or of the evaluation sets, as {"eval_loss": ...}.

        With several sets the keys are eval_<set>_<metric>. Uses the average of the weights where
        the run keeps one; touches neither training's randomness nor its position. Raises
        NumericsError where the loss or the logits of a sample are not finite.
        """
        if dataset is None:
            results = self._evaluate_sets()
            check_finite(self.evaluations)
            return results
        found = {"": self._evaluation(self._samples(dataset, "dataset"), self.metrics)}
        check_finite(found)
        return named_metrics(found)

    def predict(self, dataset: Any) -> dict[str, np.ndarray]:
        """What the recipe predicts for rows, [N, ...] each, in their order.

        Answers that stand in the rows are compared with if all can be used. Raises NumericsError
        where the logits of a row are not finite.
        """
        found = self._evaluation(self._samples(dataset, "input", needs_answers=False), {})
        check_finite({"": found})
        return found.predictions

    def save(self, directory: str | Path) -> None:
        """Write the model, its tokenizer and recipe.json: a folder that any tool reloads."""
        try:
            self._fill_model(Path(directory))
        finally:
            self.ranks.barrier()  # the others find it there

    # --- a step's parts ---

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.total_steps(len(self.train_samples))

    def _step(self, asked_to_leave: Callable[[], int]) -> bool:
        """Launch an optimizer step and count it; false where a step is to be done again.

        A GPU decides by itself whether the numbers allow an update. What it has measured in the
        step before is read here, between the launch of this step's passes and its update: so a run
        that is to stop there has changed no weight since.
        """
        state = self.state
        with step_in(state.step + 1, self.step_tokens):
            passes = (*self._micro_batches(), asked_to_leave, self._placeholder())
            sums = self.stepper.accumulate(*passes)
            if not self._settle():
                self.stepper.forget()
                return False
            self._unread = self.stepper.update(sums, self._learning_rate(state.step))
        state.tokens += self._tokens_of(state.step)
        state.step += 1
        return self.stepper.decides_on_device or self._read_facts()

    def _may_run_on(self, has_more_to_do: bool | int) -> bool:
        """Whether the next step may be launched before this one's facts are read."""
        waits = has_more_to_do or self.state.step == self.total_steps
        return self._unread is not None and not waits

    def _settle(self) -> bool:
        """Take in, and log where it is due, what the last step measured; false: do it again."""
        if self._unread is not None and not self._read_facts():
            return False
        if self._unlogged is not None and self._due("logging_steps"):
            self._log_training(self._unlogged)
        self._unlogged = None
        return True

    def _read_facts(self) -> bool:
        """Take in what the last step measured; false where it did not fit in memory."""
        assert self._unread is not None
        facts, self._unread = self._unread(), None
        if facts.out_of_memory:
            self.state.step -= 1
            self.state.tokens -= self._tokens_of(self.state.step)
            self.state.stopped = ""  # callbacks are asked again when the step is done
            self._split_micro_batches()
            return False
        self._advance(facts)
        self._look_at_save(facts)
        self._unlogged = facts
        return True

    def _leaving(self, interruption: Interruption) -> int:
        """The exit code to leave with after this step, the same on all ranks; 0: none."""
        return interruption.code if self.ranks.world_size == 1 else self._leave

    def _tokens_of(self, step: int) -> int:
        return int(self.train_samples.lengths[self.plan.global_batch(step)].sum())

    def _split_micro_batches(self) -> None:
        """Halve the tokens of the step's largest, which no rank has to tell another."""
        parts = [
            self.train_samples.lengths[ids]
            for rank in range(self.ranks.world_size)
            for ids in self._parts(rank, self.state.step)
        ]
        self.step_tokens = smaller_budget(parts)
        free_cached_memory(self.ranks.device)
        if self.ranks.is_main:
            step, tokens = self.state.step + 1, self.step_tokens
            logger.warning("step %d: out of memory; micro batches: <= %d tokens", step, tokens)

    def _placeholder(self) -> Callable[[], Batch] | None:
        """What replaces a micro batch that does not fit; None where no other may."""
        if is_sharded(self.model):
            if not can_make_up(self.model):
                return None
        elif self.ranks.world_size > 1 and any(True for _ in self.model.buffers()):
            return None  # DDP sends them within a forward pass
        return lambda: self._training_batch(np.empty(0, np.int64))

    def _micro_batches(self) -> tuple[Iterator[tuple[Batch, bool]], int]:
        """This rank's share of the step's global batch, made one at a time, and how many.

        An empty share runs a placeholder. The first ones of the next step are made meanwhile.
        """
        step, rank = self.state.step, self.ranks.rank
        parts = self._parts(rank, step)
        more = self._parts(rank, step + 1)[:DEPTH] if step + 1 < self.total_steps else []
        self.batches.expect(
            [Part(step, ids) for ids in parts] + [Part(step + 1, ids) for ids in more]
        )
        return ((self._training_batch(ids), len(ids) > 0) for ids in parts), len(parts)

    def _parts(self, rank: int, step: int) -> list[np.ndarray]:
        return self.plan.micro_batches(
            step,
            rank=rank,
            world_size=self.ranks.world_size,
            micro_batch_size=self.settings.micro_batch_size,
            max_tokens=self.step_tokens,
        )

    def _training_batch(self, sample_ids: np.ndarray) -> Batch:
        with self.throughput.waiting_for_data():
            batch = self.batches.take(Part(self.state.step, sample_ids))
        return batch.to(self.ranks.device)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(step, self.total_steps, self.settings)

    def _advance(self, facts: StepFacts) -> None:
        """Add up what a step measured; one that was not finite stops the run or is skipped."""
        state = self.state
        sample_ids = self.plan.global_batch(state.step - 1)
        self.throughput.add(facts, len(sample_ids), self._tokens_of(state.step - 1))
        self._leave = facts.leave
        state.skipped_in_a_row = 0 if facts.finite else state.skipped_in_a_row + 1
        if not facts.finite:
            self._refuse_or_skip(facts, sample_ids.tolist())

    def _refuse_or_skip(self, facts: StepFacts, sample_ids: list[int]) -> None:
        """Raise, or forgive: fp16 overflows now and then, and its scaler then lowers the scale."""
        self.state.skipped += 1
        found = {"skipped_loss": facts.loss, "grad_norm": facts.grad_norm}
        self._log(found | {"skipped_samples": sample_ids})
        forgiving = self.settings.non_finite == "skip" or self.scaler is not None
        if forgiving and self.state.skipped_in_a_row <= MAX_SKIPPED_IN_A_ROW:
            return
        raise NumericsError(
            f"step {self.state.step}: loss {facts.loss}, gradient norm {facts.grad_norm}; "
            f"samples {', '.join(map(str, sample_ids))}{self._last_good_checkpoint()}"
        )

    def _last_good_checkpoint(self) -> str:
        """The end of a message: the newest checkpoint whose weights are known to be sound.

        Those weights gave a finite evaluation, or a finite loss and gradient in the step after.
        """
        state, good_step = self.state, self.finite_step
        if self.evaluated_step <= good_step:  # the last evaluation, if any, was finite
            good_step = max(good_step, state.step - 1 - state.skipped_in_a_row)
        self.background.wait()
        good = self.folder.newest_until(good_step) if self.folder else None
        return f"; last good checkpoint: {good or 'none'}"

    def _due(self, name: str) -> bool:
        """Whether the step just done ends an interval; the last step ends every one but 0."""
        interval = self.settings.interval(name, len(self.train_samples))
        return interval > 0 and (
            self.state.step % interval == 0 or self.state.step == self.total_steps
        )

    def _evaluation_due(self, ask: Ask) -> bool:
        """Whether to evaluate now; a run that stops early does, before the best is chosen."""
        stops = bool(self.state.stopped) and self.settings.eval_steps != 0
        return ask.evaluate or self._due("eval_steps") or stops

    def _asked(self, answers: Iterable[Ask | None]) -> Ask:
        """What the callbacks want together; remembers why one wants to stop."""
        asks = [ask for ask in answers if ask is not None]
        for ask in asks:
            if ask.stop:
                self.state.stopped = ask.reason or "a callback asked to stop"
        return Ask(save=any(ask.save for ask in asks), evaluate=any(ask.evaluate for ask in asks))

    # --- what is told ---

    def _log_training(self, facts: StepFacts) -> None:
        self._log(
            self.throughput.row()
            | {"learning_rate": self._learning_rate(self.state.step - 1)}
            | {"grad_norm": facts.grad_norm}
            | ({"skipped_steps": self.state.skipped} if self.state.skipped else {})
        )

    def _log(self, values: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl, told to callbacks and trackers as well."""
        row = {
            "step": self.state.step,
            "epoch": round(self.state.step / self.plan.steps_per_epoch, 4),
            "samples": self.plan.samples_before(self.state.step),
            "tokens": self.state.tokens,
            **values,
        }
        if not self.ranks.is_main:
            return
        if self.folder:
            self.folder.log(row)
        for callback in self.callbacks:
            callback.on_log(row)
        self.tracking.track(row)

    def _evaluate_and_compare(self) -> bool:
        """Evaluate, log, and say whether to save: for a better best model, or as asked."""
        results = self._evaluate_sets()
        self.evaluated_step = self.state.step
        if results:
            self._log(results)
        finite = self._evaluation_is_finite()
        self._show_weights()
        if not results:
            return False
        value = results[self.best_name] if finite else math.nan
        improved = self.state.offer(self.best_name, value, self.greater_is_better)
        step = self.state.step
        ask = self._asked(c.on_evaluate(step, results, improved) for c in self.callbacks)
        return ask.save or (improved and self.settings.load_best_model_at_end)

    def _evaluate_sets(self) -> dict[str, float]:
        """Measure all evaluation sets, and keep what was found."""
        self.evaluations = {
            name: self._evaluation(samples, self.metrics)
            for name, samples in self.eval_samples.items()
        }
        return named_metrics(self.evaluations)

    def _evaluation_is_finite(self, forgiving: bool = True) -> bool:
        """Whether the last evaluation was; raises NumericsError unless `non_finite` is skip."""
        step = self.state.step
        bad = any(len(found.non_finite) for found in self.evaluations.values())
        try:
            good = self._last_good_checkpoint() if bad else ""
            check_finite(self.evaluations, f"; step {step}{good}")
        except NumericsError as error:
            if not forgiving or self.settings.non_finite != "skip":
                raise
            logger.warning("%s; the evaluation does not count", error)
            return False
        self.finite_step = step
        return True

    # --- beginning and end ---

    def _samples(
        self,
        dataset: Any,
        where: str,
        cache_dir: Path | None = None,
        needs_answers: bool = True,
    ) -> Any:
        if dataset is None:
            return None
        with self.ranks.main_first():  # the others find its work in the cache
            return as_samples(
                dataset,
                self.recipe,
                self.tokenizer,
                self.model,
                where=where,
                cache_dir=cache_dir,
                progress=self.ranks.is_main,
                bad_rows=self.bad_rows if needs_answers else None,
                needs_answers=needs_answers,
            )

    def _prepare(self) -> None:
        """Everything that training needs and evaluation does not."""
        check_run(
            self.settings, self.recipe, self.train_samples, self.eval_samples, bool(self.folder)
        )
        check_batch_norm(self.model, self.train_samples, self.settings, self.seed, self.ranks)
        if self.ranks.is_main:
            tell_doubt(self.recipe, self.train_samples, self.model, self.tokenizer)
        keep_freed_memory()
        settings = self.settings
        if settings.deterministic:
            use_deterministic_kernels()
        self.step_tokens = default_budget(self, self.train_samples)
        rows = Rows(self.model) if is_sharded(self.model) else None
        parameters = list(rows.parameters.items()) if rows else trainable(self.model)
        self.plan = GlobalBatchPlan(
            self.train_samples.lengths, settings.global_batch_size, self.seed
        )
        self.optimizer = build_optimizer(parameters, settings)
        if settings.ema_decay:
            self.ema = ExponentialMovingAverage(parameters, settings.ema_decay)
        self.scaler = torch.amp.GradScaler() if self.placement.precision == "fp16" else None
        self.stepper: Stepper = Stepper(
            self.wrapped,
            self.recipe,
            self.optimizer,
            ranks=self.ranks,
            global_batch_size=settings.global_batch_size,
            precision=self.placement.precision,
            max_grad_norm=settings.max_grad_norm,
            label_smoothing=settings.label_smoothing,
            ema=self.ema,
            scaler=self.scaler,
            rows=rows,
            reduces_once=self.placement.reduces_once,
        )
        self.best_name, self.greater_is_better = metric_for_best_model(
            settings.metric_for_best_model, self.recipe, self.metrics, list(self.eval_samples)
        )
        pin = self.ranks.device.type == "cuda"
        self.batches = BatchesAhead(self.train_samples, self.seed, self.plan.steps_per_epoch, pin)
        self.state: RunState = RunState()
        self.throughput = Throughput()
        self.resumable = Resumable(
            self.model,
            dict(parameters),
            self.tokenizer,
            self.recipe,
            self.optimizer,
            self.ema,
            self.scaler,
            self.callbacks,
            self.state,
            self.throughput,
        )
        self.background = BackgroundSave()
        self.saved_step = self.evaluated_step = self.finite_step = -1
        self._unread, self._unlogged, self._leave = None, None, 0
        for metric in self.metrics.values():
            metric.prepare()

    def _evaluation_samples(self, name: str, rows: Any, cache_dir: Path | None) -> Any:
        where = set_key(name)
        samples = self._samples(rows, where, cache_dir)
        check_answers(self.recipe, samples, where)
        return samples

    @contextmanager
    def _session(self) -> Iterator[Interruption]:
        """A run from its folder's lock to its callbacks' close, standing where it is to go on."""
        self._prepare()
        with ExitStack() as stack:
            stack.callback(self.batches.close)
            for callback in self.callbacks:
                stack.callback(callback.on_close)
            if self.folder:
                opened = self.folder.opened(self.resume_from, self.ranks)
                checkpoint = stack.enter_context(opened)
                stack.callback(self.background.close)  # before another run may have the folder
                if checkpoint is not None:
                    self._restore(checkpoint)
                elif self.ranks.is_main:
                    self.folder.metrics.cut_back(-1)
                    forget_logged(self.folder.trackers)
            stack.callback(self.tracking.finish)
            self._start()
            yield stack.enter_context(Interruption(self.settings.time_limit))

    def _start(self) -> None:
        """Tell everybody what begins."""
        if self.ranks.is_main:
            if self.folder and self.config:
                self.folder.write_config(self.config)
            if self.folder:
                self.folder.write_dropped(run_facts.dropped_rows(self))
            for callback in self.callbacks:
                callback.on_start(run_facts.facts_at_start(self))
        state = self.state
        self.tracking.start(self.config, state.step, state.trackers, self.logged_before)
        state.trackers = self.tracking.runs
        self.wrapped.train()
        with room_told_of():
            self.step_tokens = settled_budget(self, self._placeholder(), self._training_batch)
        if self.state.step == 0:
            self._show_weights()
        self.throughput.restart_clock()

    def _restore(self, checkpoint: Path) -> None:
        saved = read_progress(checkpoint / "state").max_tokens
        if not (self.settings.max_tokens_per_micro_batch or self.settings.micro_batch_size):
            self.step_tokens = saved or self.step_tokens
        self.resumable.restore(checkpoint, run_facts.progress(self), self.settings)
        best = self.state.best
        self.finite_step = best.step if best else -1
        if best and self.folder:
            reason = "" if best.metric == self.best_name else f"it was chosen by {best.metric}"
            if not reason and self.settings.load_best_model_at_end:
                reason = self._damage_of(best.step)
            if reason:
                logger.warning("resume: the best model so far does not count: %s", reason)
                self.state.best = None
        if self.folder and checkpoint.resolve().parent == self.folder.path.resolve():
            self.saved_step = self.state.step
        if self.folder and self.ranks.is_main:
            if self.settings.trackers:
                self.logged_before = logged_before(self.folder.trackers, self.folder.metrics.path)
            self.folder.metrics.cut_back(self.state.step)

    def _damage_of(self, step: int) -> str:
        """Why the checkpoint of a step cannot be used; empty: it can."""
        assert self.folder is not None
        try:
            self.folder.verified_checkpoint(step, self.ranks)
        except EnvironmentFault as fault:
            return str(fault)
        return ""

    def _save_checkpoint(self) -> None:
        """Save what resuming needs, once a step; in the background where that is wanted."""
        if self.folder is None:
            return
        self._finish_save()  # never two at once
        if self.saved_step == self.state.step:
            return
        checkpoint = self.folder.save_checkpoint(
            self.state.step,
            self._fill_checkpoint,
            ranks=self.ranks,
            limit=self.settings.save_total_limit,
            best=self.state.best.step if self.state.best else None,
            expected_bytes=self.resumable.num_bytes,
            background=self.background if self._saves_in_background() else None,
        )
        self.saved_step = self.state.step
        self._tell_saved(checkpoint)

    def _saves_in_background(self) -> bool:
        if self.settings.async_save != "auto":
            return self.settings.async_save
        return fits_in_memory(self.resumable.copied_bytes(self.ranks), self.ranks)

    @property
    def _failure(self) -> int:
        """The exit code for a save in the background that has failed; 0: none has."""
        return EnvironmentFault.exit_code * self.background.failed

    def _look_at_save(self, facts: StepFacts) -> None:
        """Raise what kept a rank from saving in the background; tell of what was published."""
        if facts.leave == EnvironmentFault.exit_code:
            self._finish_save()
        self._tell_saved(self.background.news())

    def _finish_save(self) -> None:
        """Wait for a save in the background. Raises what made it fail; every rank calls it."""
        self._tell_saved(self.background.finish(self.ranks))

    def _tell_saved(self, checkpoint: Path | None) -> None:
        if self.ranks.is_main and checkpoint is not None:
            for callback in self.callbacks:
                callback.on_save(checkpoint)

    def _fill_checkpoint(self, directory: Path) -> None:
        self.resumable.write(directory, run_facts.progress(self), self.ranks)

    def _finish(self) -> dict[str, Any]:
        """Ship the model, evaluate it, and write down how the run went."""
        state, shipped = self.state, self.state.step
        if self.eval_samples and self.evaluated_step != shipped:
            self._evaluate_sets()
        last = named_metrics(self.evaluations)
        self._finish_save()
        if self.settings.load_best_model_at_end and state.best and self.folder:
            shipped = state.best.step
            self.resumable.read_weights(self.folder.verified_checkpoint(shipped, self.ranks))
        if self.eval_samples and shipped != state.step:
            self._evaluate_sets()
        self._evaluation_is_finite(forgiving=False)
        if self.folder:
            self.folder.publish_model(shipped, self._fill_model, self.ranks)
        results = run_facts.results(self, shipped, last)
        if self.ranks.is_main:
            if self.folder:
                self._write_predictions(self.folder)
                self.folder.write_results(results)
            for callback in self.callbacks:
                callback.on_end(results)
        self.wrapped.eval()
        return results

    def _fill_model(self, directory: Path) -> None:
        with self._shipped_weights():
            weights = whole_weights(self.model, written_parameters(self.model, shipped=True))
            if self.ranks.is_main:
                parts = (self.model, self.tokenizer, self.recipe, weights)
                write_model(directory, *parts, shipped=True)

    def _write_predictions(self, folder: RunFolder) -> None:
        for name, evaluation in self.evaluations.items():
            if evaluation.predictions:
                rows, samples = self.eval_rows[name], self.eval_samples[name]
                lines = prediction_lines(evaluation, self.recipe, rows, samples)
                folder.write_predictions(name, lines)

    def _evaluation(self, samples: Any, metrics: Mapping[str, Metric]) -> Evaluation:
        """One evaluation of the weights that would be shipped."""
        training, tokens = self.model.training, default_budget(self, samples)
        self.wrapped.eval()
        with self._shipped_weights(), calls_outside_training(self.model), evaluation_in(tokens):
            found = evaluate(
                self._forward,
                self.recipe,
                samples,
                metrics,
                max_tokens=tokens,
                ranks=self.ranks,
                in_step=is_sharded(self.model),
                told=lambda done, share: self._tell_evaluated(done, len(samples), share),
            )
        self.wrapped.train(training)
        return found

    def _tell_evaluated(self, done: int, total: int, share: float) -> None:
        if self.ranks.is_main:
            for callback in self.callbacks:
                callback.on_evaluation_batch(done, total, share)

    def _show_weights(self) -> None:
        """Let callbacks look at the weights that would be shipped, in the run's precision."""
        self.wrapped.eval()
        with (
            self._shipped_weights(),
            calls_outside_training(self.model),
            autocast(self.placement.precision, self.ranks.device),
        ):
            for callback in self.callbacks:
                callback.on_weights(
                    self.state.step, self.model, self.tokenizer, self.recipe, self.eval_samples
                )
        self.wrapped.train()

    def _forward(self, batch: Batch) -> Any:
        with autocast(self.placement.precision, self.ranks.device):
            return self.model(**batch.inputs())  # not the wrapper, which may wait for other ranks

    def _shipped_weights(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that are shipped: the average, if one is kept."""
        return self.ema.applied() if self.ema else nullcontext()
