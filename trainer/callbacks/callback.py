"""Callback: observes a run through its events, and may ask it to stop, save or evaluate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.option_types import Options

if TYPE_CHECKING:
    from torch import nn

    from trainer.data.batch import Samples
    from trainer.tasks.processor import Processor
    from trainer.tasks.recipe import Recipe


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run that are known before its first step."""

    output_dir: Path | None
    model_name: str
    model_path: str
    num_parameters: int
    num_trainable_parameters: int
    num_train_samples: int | None
    """The number of training samples; None if the training data has no end."""
    num_train_tokens: int | None
    num_eval_samples: Mapping[str, int]
    """Evaluation set -> number of samples; a single set without a name has the key ''."""
    total_steps: int
    steps_per_epoch: int | None
    """The number of steps of an epoch; None if the training data has no end."""
    first_step: int
    """The step from which the run starts: 0, or that of the checkpoint from which it resumes."""
    global_batch_size: int
    num_processes: int
    device: str
    precision: str
    padding_avoided: float | None
    """The fraction of positions that would be padding if batches were padded to equal lengths."""
    imbalance: float = 0.0
    """By how much the work of a step's busiest process exceeds the mean; 0.1 means by 10 %."""
    fresh: tuple[str, ...] = ()
    """The modules of a loaded model that have random initial weights."""
    rates: str = ""
    """A description of how learning rates differ between parameters; empty if all are equal."""
    class_counts: Mapping[str, int] = field(default_factory=dict)
    """Label -> number of training samples; empty if samples have no labels."""
    label_rule: str = ""
    """A description of how the label column is read."""
    data_notes: tuple[str, ...] = ()
    """Sentences about the rows that were held out, and about rows that occur in several sets."""
    num_dropped_rows: int = 0
    """The number of invalid rows that were left out; dropped.jsonl lists these rows."""
    num_truncated_rows: Mapping[str, int] = field(default_factory=dict)
    """Data set -> number of rows that were cut to the maximum length, if they were counted."""
    logged_before: Mapping[str, int] = field(default_factory=dict)
    """Quantity -> the last step at which it was logged, in a resumed run."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config with secrets redacted; empty if the run was started from Python."""
    output_url: str | None = None
    """The URL of the run's folder if it is in an object store; output_dir is then a local copy."""


@dataclass(frozen=True)
class Ask:
    """The requests that a callback makes to the run after a step or an evaluation."""

    stop: bool = False
    save: bool = False
    evaluate: bool = False
    reason: str = ""


class Callback(Options, where="callbacks.{}"):
    """Observes a run. Subclasses are dataclasses, and methods receive facts, never the Trainer.

    Every rank calls `on_step_end`, `on_weights` and `on_evaluate` with equal arguments, so that all
    ranks make the same requests. Only the main process calls the other methods.
    """

    def on_start(self, facts: RunFacts) -> None:
        """Called before the first step."""

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        """Called after each optimizer step; `step` counts from 1."""

    def on_weights(
        self,
        step: int,
        model: "nn.Module",
        tokenizer: "Processor | None",
        recipe: "Recipe",
        eval_samples: "Mapping[str, Samples]",
    ) -> None:
        """Called before the first step and at each evaluation, with the weights to evaluate.

        Call the model only within this method, and equally often on every rank, since each rank may
        have only a part of the weights. The method must not change the weights or the state of the
        random generators that training uses.
        """

    def on_step_measured(self, row: Mapping[str, float]) -> None:
        """Called when the measurements of a step have been read, on a GPU during the next step.

        `row` has `step` and `loss`, and the means of `samples_per_second`, `tokens_per_second` and
        `data_wait` since the last logged row.
        """

    def on_log(self, row: Mapping[str, Any]) -> None:
        """Called after a row of training or evaluation was added to metrics.jsonl."""

    def on_evaluation_batch(self, done: int, total: int, share: float) -> None:
        """Called during an evaluation, after `done` of `total` samples.

        `share` is the fraction of all tokens that these samples contain.
        """

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        """Called after an evaluation; `improved` is true if its model is the best so far."""

    def on_save(self, checkpoint: Path) -> None:
        """Called after a checkpoint was written."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Called after the last step, with the contents of results.json."""

    def on_close(self) -> None:
        """Called after the run has ended or failed, to release resources."""

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs, as JSON values."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned."""
