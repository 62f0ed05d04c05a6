"""Trainer: fine-tunes, evaluates and saves a model; the loop is `fit`."""

import inspect
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import nn

from trainer.callbacks.callback import Callback
from trainer.data.collators import Collator
from trainer.data.in_memory_rows import named_sets
from trainer.devices.sharding import whole_weights
from trainer.errors import InputError, NumericsError
from trainer.metrics.functions import ComputeMetrics, Preprocess
from trainer.metrics.metric import Metric
from trainer.runs.checkpoints import Checkpoints
from trainer.runs.context import RunContext
from trainer.runs.folder import RunFolder
from trainer.runs.outcome import named_metrics, prediction_lines, result
from trainer.runs.saving import shipped_parameters, write_model
from trainer.settings import TrainSettings
from trainer.stores.url import local_folder
from trainer.tasks.agreement import check_set_names
from trainer.tasks.recipe import Recipe
from trainer.training.arguments import RawArguments, check_run_facts, checked, with_progress
from trainer.training.evaluation import check_finite
from trainer.training.evaluator import Evaluator
from trainer.training.familiar_names import FamiliarNames, refuse_unknown
from trainer.training.hub_pushing import PushOptions, push_trained
from trainer.training.interruption import Interruption
from trainer.training.process_state import process_as_found
from trainer.training.reporting import Reporter
from trainer.training.run_facts import results
from trainer.training.seams import seams_of
from trainer.training.session import prepare
from trainer.training.setup import set_up
from trainer.training.steps import Steps
from trainer.training.views import Views

logger = logging.getLogger("trainer")


class Trainer(FamiliarNames, Views):
    """Fine-tunes a model with a recipe and settings; evaluates, saves and resumes.

    `model` is a model of this package, trained with a `recipe`, or any `nn.Module`. A plain module
    needs a `loss` callable, which takes (outputs, batch) and returns (sum, count), unless the
    module returns its own loss. Data sets are rows, which the recipe and the tokenizer convert to
    token ids. Rows may be a `datasets.Dataset`, a list of dicts, a dict of lists, a DataFrame, any
    torch data set, a stream or file paths. `eval_dataset` may be a mapping of names to data sets.
    A model or a tokenizer may be given as a path, and a metric by its name
    (trainer/training/arguments.py). As in transformers, some arguments replace parts of training:
    `data_collator`, `compute_metrics` (a function of an `EvalPrediction`) with
    `preprocess_logits_for_metrics`, and `optimizers`, a pair (optimizer, schedule). Without
    `output_dir` nothing is written. Progress is shown on standard error, or below the cell of a
    notebook, unless `progress` is false. `context` holds rarely used options: devices, caches and
    the policy for bad rows.
    """

    steps: Steps
    checkpoints: Checkpoints
    reporter: Reporter

    def __init__(
        self,
        model: nn.Module | str | Path | None = None,
        recipe: Recipe | type[Recipe] | None = None,
        settings: TrainSettings | Mapping[str, Any] | None = None,
        *,
        loss: object = None,
        tokenizer: object = None,
        train_dataset: object = None,
        eval_dataset: object = None,
        data_collator: Collator | None = None,
        metrics: Mapping[str, Metric | str] | Sequence[Metric | str] | str | None = None,
        compute_metrics: ComputeMetrics | None = None,
        preprocess_logits_for_metrics: Preprocess | None = None,
        optimizers: object = None,
        callbacks: Sequence[Callback] | Callback = (),
        output_dir: str | Path | None = None,
        seed: int = 42,
        progress: bool = True,
        context: RunContext | None = None,
        **unknown: object,
    ) -> None:
        refuse_unknown(unknown, list(inspect.signature(Trainer).parameters)[:-1])
        check_run_facts(output_dir, seed)
        seams = seams_of(data_collator, compute_metrics, preprocess_logits_for_metrics, optimizers)
        data = (train_dataset, eval_dataset)
        all_callbacks = with_progress(callbacks, progress)
        training = (model, recipe, settings, loss, tokenizer)
        given = RawArguments(*training, *data, metrics, all_callbacks, seams)
        self.setup = set_up(checked(given, seed), output_dir, seed, context or RunContext())
        self.evaluator = Evaluator(self.setup)

    def fit(self) -> dict[str, Any]:
        """Train to the last step, or until a callback stops the run.

        Returns the content of results.json. Raises NumericsError if the loss or gradient is not
        finite, and Interrupted after a signal. At the end, the states of torch's random generators
        and its deterministic setting are restored.
        """
        with process_as_found(), self.ranks.faults_reported(), self._started() as interruption:
            session, state = self.session, self.session.state
            while not session.over:
                if not self.steps.take(lambda: interruption.code or self.checkpoints.failure):
                    continue  # out of memory: repeat with smaller micro batches
                requests = self.reporter.step_ended()
                evaluates = requests.evaluate or session.evaluation_due()
                saves = requests.save or session.due("save_steps") or bool(state.stopped)
                leave = self._leaving(interruption)
                if self.steps.may_run_ahead(evaluates or saves or leave) or not self.steps.settle():
                    continue
                improved = evaluates and self._evaluate_and_compare()
                leave = self._leaving(interruption)
                if saves or improved or leave or state.stopped:
                    self.checkpoints.save()
                if leave:
                    self.checkpoints.finish()
                    saved = self.folder.newest_shown if self.folder else None
                    raise interruption.error(leave, saved)
                session.throughput.restart_clock()
            return self._finish()

    def evaluate(self, dataset: object = None) -> dict[str, float]:
        """Loss and metrics of `dataset`, or of the evaluation sets, as {"eval_loss": ...}.

        `dataset` may be a mapping of names to data sets. With several sets the keys are
        eval_<set>_<metric>. If the run keeps an average of the weights (`ema_decay`), the average
        is evaluated. Does not affect the random generators or the position in the training data.
        Raises NumericsError if the loss or the logits of a sample are not finite, and InputError if
        there are no rows.
        """
        sets = self.setup.evaluation if dataset is None else named_sets(dataset)
        if not sets:
            raise InputError("evaluate: found no rows; accepted: evaluate(rows), or eval_dataset")
        if dataset is None:
            found = self.evaluator.measure_sets()
            check_finite(self.evaluations)
            return found
        check_set_names(sets)
        measured = {
            name: self.evaluator.measure_rows(rows, f"dataset {name}".rstrip())[0]
            for name, rows in sets.items()
        }
        return named_metrics(measured)

    def predict(self, dataset: object) -> dict[str, np.ndarray | list[np.ndarray]]:
        """The recipe's predictions for N rows, in their order; for a plain module its outputs.

        Each value is an array [N, ...], or a list of N arrays if a sample has several entries (for
        example one per token). If every row has a usable answer, the answers are included, usually
        as `references`. Raises NumericsError if the logits of a row are not finite.
        """
        found, _ = self.evaluator.measure_rows(dataset, "input", needs_answers=False)
        if found.kept is not None:
            return dict(found.kept.outputs)
        return {name: column.by_sample() for name, column in found.predictions.items()}

    def answers(self, dataset: object) -> list[dict[str, Any]]:
        """The predictions in readable form: a dict per row, for example with a label and its score.

        A block (a sample that packs several texts) gets one dict.
        """
        found, rows = self.evaluator.measure_rows(dataset, "input", needs_answers=False)
        return found.recipe.answers(found.predictions, rows)

    def save(self, directory: str | Path) -> None:
        """Write the model, its tokenizer and recipe.json to a folder that other tools can load."""
        folder = local_folder(directory, "save")
        try:
            self._fill_model(folder)
        finally:
            self.ranks.barrier()  # every rank returns once the folder is complete

    def push_to_hub(self, repo: str, **options: Unpack[PushOptions]) -> str:
        """Upload the model, with a model card that describes its training, to the hub.

        The repository (owner/name, or a name) is created if it does not exist, and is private
        unless `private=False`. With an `output_dir`, the report and the checkpoints that the option
        `checkpoints` selects are uploaded too. Returns the commit's URL. docs/push.md describes the
        options. Raises InputError or EnvironmentFault with a one-line message, which never contains
        the token.
        """
        return push_trained(self, self.save, repo, **options)

    def _prepare(self) -> None:
        """Build the parts that only training needs."""
        self.session = prepare(self.setup)
        self.setup = self.evaluator.setup = self.session.setup  # has the derived columns
        self.evaluator.ema, self.evaluator.optimizer = self.session.ema, self.session.optimizer
        self.reporter = Reporter(self.session)
        self.checkpoints = Checkpoints(self.session, self.reporter.saved)
        self.steps = Steps(self.session, self.reporter, self.checkpoints)

    @contextmanager
    def _started(self) -> Iterator[Interruption]:
        """Context manager for training: locks the folder, starts or resumes, closes callbacks."""
        self._prepare()
        session, folder = self.session, self.folder
        with ExitStack() as stack:
            stack.callback(session.batches.close)
            for callback in self.callbacks:
                stack.callback(callback.on_close)
            if folder:
                checkpoint = stack.enter_context(folder.opened(self.setup.resume, self.ranks))
                # background writes must end before another run may lock the folder
                stack.callback(self.checkpoints.background.close)
                stack.push(self.reporter.report.closed)
                if checkpoint is not None:
                    self.checkpoints.restore(checkpoint)
                self.reporter.cut_back(resumed=checkpoint is not None)
            self.reporter.start()
            self.setup.placement.wrapped.train()
            self.steps.settle_budget()
            if session.state.step == 0:
                self.evaluator.show_weights(0)
            session.throughput.restart_clock()
            yield stack.enter_context(Interruption(self.settings.time_limit))

    def _leaving(self, interruption: Interruption) -> int:
        """The code to exit with after this step, equal on all ranks; 0: continue."""
        return interruption.code if self.ranks.world_size == 1 else self.steps.leave

    def _evaluate_and_compare(self) -> bool:
        """Evaluate and log; returns whether to save (a new best model, or a callback's request)."""
        session, state = self.session, self.session.state
        found = self.evaluator.measure_sets()
        session.evaluated_step = state.step
        if found:
            self.reporter.log(found)
        finite = self._evaluation_is_finite()
        self.evaluator.show_weights(state.step)
        if not found:
            return False
        value = result(found, session.best_metric) if finite else math.nan
        improved = state.offer(session.best_metric, value, session.greater_is_better)
        requests = self.reporter.evaluated(found, improved)
        return requests.save or (improved and self.settings.load_best_model_at_end)

    def _evaluation_is_finite(self, may_skip: bool = True) -> bool:
        """Whether the last evaluation was finite.

        Raises NumericsError if it was not, unless `may_skip` and the setting `non_finite` is skip.
        """
        step = self.state.step
        bad = any(len(found.non_finite) for found in self.evaluations.values())
        try:
            last_good = self.checkpoints.last_good() if bad else ""
            check_finite(self.evaluations, f"; step {step}{last_good}")
        except NumericsError as error:
            if not may_skip or self.settings.non_finite != "skip":
                raise
            logger.warning("%s; the evaluation does not count", error)
            return False
        self.session.finite_step = step
        return True

    def _finish(self) -> dict[str, Any]:
        """Save the final model, evaluate it, and write the results."""
        session, state, final_step = self.session, self.state, self.state.step
        if self.eval_samples and session.evaluated_step != final_step:
            self.evaluator.measure_sets()
        last_metrics = named_metrics(self.evaluations)
        self.checkpoints.finish()
        if self.settings.load_best_model_at_end and state.best and self.folder:
            final_step = state.best.step
            self.checkpoints.load_best(final_step)
        if self.eval_samples and final_step != state.step:
            self.evaluator.measure_sets()
        self._evaluation_is_finite(may_skip=False)
        if self.folder:
            self.folder.publish_model(final_step, self._fill_model, self.ranks)
        summary = results(session, self.evaluations, final_step, last_metrics)
        if self.ranks.is_main and self.folder:
            self._write_predictions(self.folder)
            self.folder.write_results(summary)
        self.reporter.ended(summary)
        self.setup.placement.wrapped.eval()
        return summary

    def _fill_model(self, directory: Path) -> None:
        with self.evaluator.shipped_weights():
            weights = whole_weights(self.model, shipped_parameters(self.model, self.recipe))
            if self.ranks.is_main:
                parts = (self.model, self.tokenizer, self.evaluator.settled_recipe(), weights)
                write_model(directory, *parts, shipped=True)

    def _write_predictions(self, folder: RunFolder) -> None:
        for name, evaluation in self.evaluations.items():
            if evaluation.predictions:
                lines = prediction_lines(evaluation, self.setup.sample_rows(name))
                folder.write_predictions(name, lines)
