"""Preference tuning on single completions that are good or bad: KTO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.preference_answers import BAD, GOOD, MISMATCHED, ROLES, are_good
from trainer.tasks.completion_recipe import CompletionRecipe, joined
from trainer.tasks.recipe import Axis, Head
from trainer.tasks.setting_checks import check_least, check_positive

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, Samples
    from trainer.data.sample_rows import SampleRows
    from trainer.models.outputs import Outputs
    from trainer.tasks.columns import Columns
    from trainer.tasks.figures import Figures
    from trainer.tasks.processor import Processor, SampleContext
    from trainer.tasks.rated_completions import RatedCompletions
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class UnpairedPreference(CompletionRecipe):
    """Learn which completions are good (KTO: Ethayarajh et al. 2024).

    Rows have `prompt`, `completion` (texts, or messages) and `label`: true or 1 if the
    completion is good. The reward of a completion is compared with an estimate of the KL
    divergence from the reference model, computed on each prompt with the completion of the
    previous row of the data set. `kl_group` consecutive samples of a global batch share an
    estimate and always stay in the same micro batch. The reference model is the initial model.
    """

    beta: float = 0.1
    """The scale of rewards; a higher value keeps the model closer to the reference model."""
    desirable_weight: float = 1.0
    """Weight of good completions."""
    undesirable_weight: float = 1.0
    """Weight of bad completions."""
    kl_group: int = 8
    """The number of samples of a global batch that share an estimate of the KL divergence, at least
    2."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}
    derived: ClassVar[Mapping[str, Axis]] = {"reference": "sequence"}
    roles: ClassVar[tuple[str, ...]] = ROLES
    read_columns: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    predicted: ClassVar[Mapping[str, Axis]] = dict.fromkeys(
        ("log_probs", "good", "rewards", "kl"), "sample"
    )
    measures: ClassVar[Mapping[str, bool]] = {
        "preference_accuracy": True,
        "margin": True,
        "good_reward": True,
        "bad_reward": False,
        "good_log_prob": True,
        "bad_log_prob": False,
        "kl": False,
    }

    step_figures: ClassVar[tuple[str, ...]] = tuple(n for n in measures if n != "margin")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "beta")
        check_least(self, 2, "kl_group")
        check_least(self, 0, "desirable_weight", "undesirable_weight")

    @property
    def group_size(self) -> int:
        return self.kl_group

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return ("label",)

    @property
    def head(self) -> Head:
        return Head("causal_lm")

    def samples(
        self, rows: "Dataset", processor: "Processor | None", context: "SampleContext"
    ) -> "Samples":
        from trainer.data.preference_rows import with_mismatched

        return context.tokenize(with_mismatched(rows, context.where))

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        from trainer.data.preference_rows import mismatched

        good = [ROLES.index(GOOD if each else BAD) for each in are_good(rows)]
        own = self.encoded(rows, ("completion",), tokenizer)
        other = self.encoded(mismatched(rows), ("completion",), tokenizer)
        return joined([*own, *other], [good, [ROLES.index(MISMATCHED)] * len(good)])

    def derive(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        from trainer.tasks.completions import Completions

        return {"reference": Completions.of(outputs, batch).log_probs}

    def loss(
        self, outputs: "Outputs", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        import torch

        weights = (self.desirable_weight, self.undesirable_weight)
        losses = self._rated(outputs, batch).losses(weights)
        return losses, torch.ones_like(losses)

    def figures(self, outputs: "Outputs", batch: "Batch") -> "Figures":
        return self._rated(outputs, batch).figures()

    def predictions(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        return self._rated(outputs, batch).columns()

    def _rated(self, outputs: "Outputs", batch: "Batch") -> "RatedCompletions":
        from trainer.tasks.completions import Completions
        from trainer.tasks.rated_completions import RatedCompletions

        return RatedCompletions(Completions.of(outputs, batch), self.beta, self.kl_group)

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        from trainer.tasks.preference_measures import of_good_and_bad

        good = columns["good"].values.astype(bool)
        rewards, log_probs, kl = (
            columns[name].values.astype("float64") for name in ("rewards", "log_probs", "kl")
        )
        right = (rewards > self.beta * kl) == good
        values = {"reward": rewards, "log_prob": log_probs}
        return {**of_good_and_bad(good, right, values), "kl": float(kl.mean())}

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        names = {"log_probs": "log_prob", "rewards": "reward", "good": "good"}
        found: list[dict[str, Any]] = [{} for _ in range(len(columns["good"]))]
        for column, name in names.items():
            if column in columns:
                for answer, value in zip(found, columns[column].tolist(), strict=True):
                    answer[name] = bool(value) if column == "good" else value
        return found
