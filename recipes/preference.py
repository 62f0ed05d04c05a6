"""Preference tuning on pairs: DPO, IPO, hinge, CPO, SimPO and ORPO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.tasks.completion_recipe import CompletionRecipe, joined
from trainer.tasks.preference_objective import ROLES, PreferenceObjective
from trainer.tasks.recipe import Axis, Head

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.models.outputs import Outputs
    from trainer.tasks.columns import Columns
    from trainer.tasks.figures import Figures
    from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Preference(CompletionRecipe):
    """Learn which of two completions of a prompt is preferred.

    Rows have `prompt`, `chosen` and `rejected`: texts, or messages. `chosen` and `rejected` may be
    whole conversations, which need no prompt. Rows may also have `tools`, `system` and
    `chat_template_kwargs`. The reference model is the initial model; its log-probabilities are
    computed once, before the first step.
    """

    objective: str = "dpo"
    """dpo, ipo, hinge (SLiC), cpo, simpo or orpo."""
    beta: float | None = None
    """The scale of rewards (orpo: the weight of the preference loss); null: 0.1, or 2 for simpo."""
    label_smoothing: float = 0.0
    """The assumed share of wrong preferences, below 0.5, for dpo, cpo and simpo."""
    margin: float = 0.5
    """For simpo: the margin (gamma) by which the chosen completion's reward should be higher."""
    nll_weight: float | None = None
    """Weight of the chosen completion's mean loss per token; null: 1 for cpo and orpo, else 0."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}
    roles: ClassVar[tuple[str, ...]] = ROLES
    predicted: ClassVar[Mapping[str, Axis]] = {"log_probs": "sample", "rewards": "sample"}
    measures: ClassVar[Mapping[str, bool]] = {
        "preference_accuracy": True,
        "margin": True,
        "chosen_reward": True,
        "rejected_reward": False,
        "chosen_log_prob": True,
        "rejected_log_prob": False,
    }

    step_figures: ClassVar[tuple[str, ...]] = tuple(measures)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._objective.check()

    @property
    def _objective(self) -> PreferenceObjective:
        return PreferenceObjective(
            self.objective, self.beta, self.label_smoothing, self.margin, self.nll_weight
        )

    @property
    def derived(self) -> Mapping[str, Axis]:  # type: ignore[override]
        """The reference's log-probability of each sequence, if the objective has a reference."""
        return {"reference": "sequence"} if self._objective.has_reference else {}

    @property
    def head(self) -> Head:
        return Head("causal_lm")

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        parts = self.encoded(rows, ROLES, tokenizer)
        number = len(parts[0].input_ids)
        return joined(parts, [[0] * number, [1] * number])

    def derive(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        from trainer.tasks.completions import Completions

        return {"reference": Completions.of(outputs, batch).log_probs}

    def loss(
        self, outputs: "Outputs", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        import torch

        from trainer.tasks.completions import Completions

        losses = self._objective.losses(outputs, Completions.of(outputs, batch))
        return losses, torch.ones_like(losses)

    def figures(self, outputs: "Outputs", batch: "Batch") -> "Figures":
        from trainer.tasks.completions import Completions
        from trainer.tasks.figures import means, of_pairs

        found = Completions.of(outputs, batch)
        chosen, rejected = (self._objective.reward(found, role) for role in ROLES)
        log_probs = {f"{role}_log_prob": found.summed(role) for role in ROLES}
        return {**of_pairs(chosen, rejected, "reward"), **means(log_probs)}

    def predictions(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        import torch

        from trainer.tasks.completions import Completions

        found = Completions.of(outputs, batch)
        columns = {"log_probs": torch.stack([found.summed(role) for role in ROLES], 1)}
        if all(name in batch for name in self.derived):
            rewards = [self._objective.reward(found, role) for role in ROLES]
            columns["rewards"] = torch.stack(rewards, 1)
        return columns

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        from trainer.tasks.preference_measures import of_pairs

        chosen, rejected = columns["rewards"].values.astype("float64").T
        log_probs = columns["log_probs"].values.astype("float64").mean(0).tolist()
        return {
            **of_pairs(chosen, rejected, "reward"),
            **{f"{role}_log_prob": mean for role, mean in zip(ROLES, log_probs, strict=True)},
        }

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{} for _ in range(len(columns["log_probs"]))]
        for column, name in (("log_probs", "log_prob"), ("rewards", "reward")):
            if column in columns:
                for answer, (chosen, rejected) in zip(found, columns[column].tolist(), strict=True):
                    answer |= {f"chosen_{name}": chosen, f"rejected_{name}": rejected}
        return found
