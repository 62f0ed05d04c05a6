"""Distillation of a language model: learns a teacher's next-token probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.errors import InputError
from trainer.tasks.completion_recipe import CompletionRecipe, joined
from trainer.tasks.recipe import Axis, Head
from trainer.tasks.setting_checks import (
    check_choices,
    check_least,
    check_positive,
    check_share,
)

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.data.sample_rows import SampleRows
    from trainer.models.outputs import Outputs
    from trainer.tasks.columns import Columns
    from trainer.tokenizer import Tokenizer

DIVERGENCES = ("forward", "reverse", "js")


@dataclass(frozen=True)
class LanguageDistillation(CompletionRecipe):
    """Learn the next-token probabilities that another model (the teacher) gives to answers.

    Rows have `prompt` and `completion` (texts, or messages), or `messages`, whose last answers are
    trained on. The teacher and the model must have the same vocabulary. The teacher runs once over
    the rows, before the first step, and is then freed. Its `top_k` most probable next tokens are
    cached for each token.
    """

    teacher: str | None = None
    """A folder, .gguf file, hub id or pkg:// path of a causal language model."""
    divergence: str = "forward"
    """forward: KL(teacher || model); reverse: KL(model || teacher); js: Jensen-Shannon."""
    temperature: float = 1.0
    """Logits are divided by this number."""
    soft_weight: float = 0.5
    """Weight of the teacher's probabilities, 0 to 1; the next-token loss has the weight 1 -
    soft_weight.
    """
    top_k: int = 64
    """The number of the teacher's most probable tokens to keep; to keep all, use the size of the
    vocabulary."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "token"}
    derived: ClassVar[Mapping[str, Axis]] = {"teacher_ids": "token", "teacher_log_probs": "token"}
    read_columns: ClassVar[tuple[str, ...]] = ("prompt", "completion", "messages")
    predicted: ClassVar[Mapping[str, Axis]] = dict.fromkeys(
        ("tokens", "next_token_losses", "divergences"), "sample"
    )
    measures: ClassVar[Mapping[str, bool]] = {"perplexity": False, "divergence": False}
    has_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, {"divergence": DIVERGENCES})
        check_positive(self, "temperature")
        check_share(self, "soft_weight")
        check_least(self, 1, "top_k")

    @property
    def derived_by(self) -> str | None:
        if self.teacher is None:
            raise InputError("recipe.teacher: nothing given; accepted: a language model's path")
        return self.teacher

    @property
    def head(self) -> Head:
        return Head("causal_lm")

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        parts = self.encoded(rows, ["messages" if "messages" in rows else "completion"], tokenizer)
        columns = joined(parts, [[0] * len(parts[0].input_ids)])
        del columns["roles"]
        return columns

    def derive(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        from trainer.tasks.distillation_losses import top_log_probs

        ids, log_probs = top_log_probs(outputs.projection, self.top_k, self.temperature)
        return {"teacher_ids": ids, "teacher_log_probs": log_probs}

    def loss(
        self, outputs: "Outputs", batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        from trainer.models.blocks.cross_entropy import IGNORED
        from trainer.tasks.loss_on_gpu import labels_of_successors
        from trainer.tasks.losses import next_token_loss

        on_host = getattr(batch, "on_host", {}).get("labels")
        hard = next_token_loss(
            outputs.projection,
            batch["labels"],
            label_smoothing=label_smoothing,
            host_labels=on_host,
        )
        supervised = hard.supervised
        if on_host is not None:  # on the CPU, so that counting does not synchronize with the device
            supervised = labels_of_successors(outputs.projection.layout, on_host) != IGNORED
        soft = self._divergences(outputs, batch, supervised)
        if hard.sum.requires_grad:
            total = (1 - self.soft_weight) * hard.sum + self.soft_weight * soft.sum()
            return total, hard.count
        losses = (1 - self.soft_weight) * hard.losses + self.soft_weight * soft
        return losses, hard.supervised

    def _divergences(self, outputs: "Outputs", batch: "Batch", supervised: "Tensor") -> "Tensor":
        """[T], the divergence at each token; 0 for tokens whose next token has no loss."""
        from trainer.models.packing import to_device
        from trainer.tasks.distillation_losses import token_divergence

        tokens = to_device(supervised.nonzero().squeeze(1), outputs.projection.hidden.device)
        found = token_divergence(
            outputs.projection,
            batch["teacher_ids"],
            batch["teacher_log_probs"],
            tokens,
            kind=self.divergence,  # type: ignore[arg-type]
            temperature=self.temperature,
        )
        return found.new_zeros(len(supervised)).index_copy(0, tokens, found)

    def predictions(self, outputs: "Outputs", batch: "Batch") -> dict[str, "Tensor"]:
        from trainer.tasks.completions import summed_over_tokens
        from trainer.tasks.losses import next_token_loss

        hard = next_token_loss(outputs.projection, batch["labels"])
        columns = {
            "tokens": summed_over_tokens(hard.supervised.to(hard.losses), batch),
            "next_token_losses": summed_over_tokens(hard.losses, batch),
        }
        if "teacher_ids" in batch:
            soft = self._divergences(outputs, batch, hard.supervised)
            columns["divergences"] = summed_over_tokens(soft, batch)
        return columns

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        import numpy as np

        tokens = columns["tokens"].values.sum(dtype=np.float64)
        losses = columns["next_token_losses"].values.sum(dtype=np.float64)
        divergences = columns["divergences"].values.sum(dtype=np.float64)
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(losses / tokens))
        return {"perplexity": perplexity, "divergence": float(divergences / tokens)}

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        names = ("tokens", "next_token_losses", "divergences")
        kept = {name: columns[name].tolist() for name in names if name in columns}
        return [dict(zip(kept, values, strict=True)) for values in zip(*kept.values(), strict=True)]
