"""Evaluator: evaluates the weights that would be saved, and passes them to callbacks."""

from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from trainer.callbacks.progress import Progress
from trainer.data.batch import Batch, Samples
from trainer.data.in_memory_rows import set_key
from trainer.data.preprocessing import rows_of
from trainer.data.sample_rows import SampleRows
from trainer.devices.precision import autocast
from trainer.devices.sharding import calls_outside_training
from trainer.metrics.functions import MetricFunctions
from trainer.models.sharded import is_sharded
from trainer.runs.outcome import named_metrics
from trainer.tasks.plain_recipes import PlainRecipe
from trainer.tasks.recipe import Recipe
from trainer.tasks.slices import check_slices
from trainer.tasks.source_recipes import with_changes
from trainer.training.derived import comparable
from trainer.training.evaluation import Evaluation, Wanted, check_finite, evaluate
from trainer.training.memory import evaluation_memory
from trainer.training.moving_average import ExponentialMovingAverage, shipped_weights
from trainer.training.setup import Setup
from trainer.training.token_budget import default_budget


class Evaluator:
    """Runs evaluations in the run's precision. Every rank calls its methods."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.ema: ExponentialMovingAverage | None = None
        """The average of the weights, if training keeps one."""
        self.optimizer: torch.optim.Optimizer | None = None
        """The optimizer of the last training, which may keep an average."""
        self.evaluations: dict[str, Evaluation] = {}
        """Name of an evaluation set -> its last evaluation."""
        self._settled: Recipe | None = None

    def measure_sets(self) -> dict[str, float]:
        """Measure all evaluation sets: {"eval_loss": ...}, or {"eval_<set>_loss": ...}."""
        found: dict[str, Evaluation] = {}
        recipe = self.setup.recipe
        for name, samples in self.setup.evaluation.items():
            own = self.setup.set_recipes.get(name)
            used = recipe if own is None else with_changes(own, self.setup.recipe, recipe)
            found[name] = self.measure(
                comparable(self.setup, samples, set_key(name)),
                self.setup.sample_rows(name),
                replace(self.wanted(), settles=not found),
                used,
            )
            settled = found[name].recipe
            recipe = settled if used is recipe else with_changes(recipe, used, settled)
        self._settled = recipe
        self.evaluations = found
        return named_metrics(found)

    def wanted(self) -> Wanted:
        """The results that evaluations compute, from metrics and the user's functions."""
        setup = self.setup
        functions, plain = setup.seams.functions, isinstance(setup.recipe, PlainRecipe)
        keeps = functions.compute is not None or (plain and bool(setup.metrics))
        return Wanted(setup.metrics, functions, keeps)

    def settled_recipe(self) -> Recipe:
        """The recipe, with values such as thresholds that evaluating the first set determined."""
        return self._settled or self.setup.recipe

    def measure_rows(
        self,
        dataset: object,
        where: str,
        needs_answers: bool = True,
    ) -> tuple[Evaluation, SampleRows]:
        """The evaluation of a data set, and the rows of its samples.

        Error messages call the data set `where`. Without `needs_answers` it only predicts. Raises
        NumericsError if the loss or the logits of a sample are not finite.
        """
        table = self.setup.table_of(dataset, where)
        if needs_answers:
            check_slices(self.setup.recipe, table, where)
        samples = self.setup.samples_of(table, where, needs_answers=needs_answers)
        rows = rows_of(table, samples)
        if needs_answers:
            samples = comparable(self.setup, samples, where)
        plain = isinstance(self.setup.recipe, PlainRecipe)
        wanted = Wanted({}, MetricFunctions(), keeps=plain, loss=not plain)
        if needs_answers:
            wanted = replace(self.wanted(), settles=not self.evaluations)
        found = self.measure(samples, rows, wanted, self.settled_recipe())
        check_finite({"": found})
        return found, rows

    def measure(
        self, samples: Samples, rows: SampleRows, wanted: Wanted, recipe: Recipe
    ) -> Evaluation:
        """Evaluate the weights that would be saved on `samples`."""
        setup, wrapped = self.setup, self.setup.placement.wrapped
        training = setup.model.training
        tokens = default_budget(setup.settings, samples, setup.ranks.device)
        wrapped.eval()
        with self.shipped_weights(), calls_outside_training(setup.model), evaluation_memory(tokens):
            try:
                found = evaluate(
                    lambda batch: self._forward(recipe, batch),
                    recipe,
                    samples,
                    wanted,
                    max_tokens=tokens,
                    ranks=setup.ranks,
                    rows=rows,
                    in_step=is_sharded(setup.model),
                    on_progress=lambda done, share: self._report(done, len(samples), share),
                )
            finally:
                self._remove_bars()
        wrapped.train(training)
        return found

    def show_weights(self, step: int) -> None:
        """Call `on_weights` with the weights that would be saved after `step` steps."""
        setup, wrapped = self.setup, self.setup.placement.wrapped
        wrapped.eval()
        with (
            self.shipped_weights(),
            calls_outside_training(setup.model),
            autocast(setup.placement.precision, setup.ranks.device),
        ):
            for callback in setup.callbacks:
                callback.on_weights(
                    step, setup.model, setup.tokenizer, setup.recipe, setup.evaluation
                )
        wrapped.train()

    def shipped_weights(self) -> AbstractContextManager[None]:
        """Context manager: the model has the weights to save (the average, if there is one)."""
        return shipped_weights(self.ema, self.optimizer)

    def _forward(self, recipe: Recipe, batch: Batch) -> object:
        setup = self.setup
        with autocast(setup.placement.precision, setup.ranks.device):
            outputs = setup.model(**batch.inputs())  # DDP's wrapper might wait for other ranks
            return recipe.evaluated(setup.model, outputs, batch)

    def _remove_bars(self) -> None:
        """Remove the progress bar, which a failed evaluation would leave behind."""
        for callback in self.setup.callbacks:
            if isinstance(callback, Progress):
                callback.end_evaluation()

    def _report(self, done: int, total: int, share: float) -> None:
        if self.setup.ranks.is_main:
            for callback in self.setup.callbacks:
                callback.on_evaluation_batch(done, total, share)
