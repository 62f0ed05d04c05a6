"""Callback: the moments of a run that one may watch, and what one may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.data.batch import Samples
    from trainer.recipe import Recipe


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before its first step."""

    output_dir: Path | None
    model_name: str
    model_path: str
    num_parameters: int
    num_trainable_parameters: int
    num_train_samples: int
    num_train_tokens: int
    num_eval_samples: Mapping[str, int]
    """Samples of each evaluation set; a single unnamed one has the key ''."""
    total_steps: int
    steps_per_epoch: int
    first_step: int
    """0, or the step of the checkpoint that the run resumes from."""
    global_batch_size: int
    num_processes: int
    device: str
    precision: str
    padding_avoided: float
    """Share of positions that batches padded to their longest sequence would have wasted."""
    imbalance: float = 0.0
    """How much more than the mean the busiest process does in a step; 0.1 is a tenth more."""
    fresh: tuple[str, ...] = ()
    """The modules that a loaded model begins with random weights in."""
    class_counts: Mapping[str, int] = field(default_factory=dict)
    """Training samples of each label, where they have some."""
    label_rule: str = ""
    """What was found in the label column, in words."""
    data_notes: tuple[str, ...] = ()
    """What was held out and how, and how many rows the sets share."""
    num_dropped_rows: int = 0
    """Rows that were left out as bad; dropped.jsonl lists them."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config, secrets redacted (for trackers); empty from Python."""


@dataclass(frozen=True)
class Ask:
    """What a callback wants of the run after the present step."""

    stop: bool = False
    save: bool = False
    evaluate: bool = False
    reason: str = ""


class Callback:
    """Watches a run. Subclasses are dataclasses; they are told facts and never hold the Trainer.

    Every rank calls `on_step_end`, `on_weights` and `on_evaluate` with equal arguments, so that
    equal rules ask for equal things everywhere; the other moments are told to the main process
    only.
    """

    def on_start(self, facts: RunFacts) -> None:
        """Before the first step."""

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        """After each optimizer step; `step` counts from 1."""

    def on_weights(
        self,
        step: int,
        model: Any,
        tokenizer: Any,
        recipe: "Recipe",
        eval_samples: "Mapping[str, Samples]",
    ) -> None:
        """Before the first step, and at each evaluation: look at the weights that it measures.

        Only within the call; they and what is random in training stay as they are. All ranks must
        call the model equally often, since each may hold a share of it.
        """

    def on_log(self, row: Mapping[str, Any]) -> None:
        """A row was added to metrics.jsonl (training or evaluation)."""

    def on_evaluation_batch(self, done: int, total: int, share: float) -> None:
        """In the course of an evaluation, from 0 on: samples measured, of all; of their tokens."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float], improved: bool) -> Ask | None:
        """After an evaluation; `improved`: the metric for the best model is the best so far."""

    def on_save(self, checkpoint: Path) -> None:
        """A checkpoint was published."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """After the last step, with what results.json holds."""

    def on_close(self) -> None:
        """The run is over, whether it ended or failed: give back what was taken."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know (JSON values)."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
