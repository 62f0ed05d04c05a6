"""Every head as tests of many processes train it: a tiny model, a recipe and ragged samples."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tests.unit.test_exactness import RECIPES, SIZES, ragged_table, tiny_model
from trainer.data.tokens import TokenTable
from trainer.losses import cross_entropy, grouped_cross_entropy, next_token_loss
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.recipe import Axis, Recipe

CHOICES = 3


@dataclass(frozen=True)
class PerToken(Recipe):
    """A class for some tokens: labels, or words of the vocabulary; a mean over what is asked."""

    fields: ClassVar[dict[str, Axis]] = {"labels": "token"}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        sums, counts = cross_entropy(outputs.logits, batch["labels"])
        return sums.sum(), counts.sum()


@dataclass(frozen=True)
class NextToken(Recipe):
    fields: ClassVar[dict[str, Axis]] = {"labels": "token"}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        found = next_token_loss(outputs.projection, batch["labels"])
        return found.sum, found.count


@dataclass(frozen=True)
class Span(Recipe):
    fields: ClassVar[dict[str, Axis]] = {"start": "sample", "end": "sample"}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        lengths = batch.sequence_lengths
        places = [batch[name] for name in ("start", "end")]  # beyond a placeholder's one token
        places = [torch.where(place < lengths, place, -100) for place in places]
        starts = grouped_cross_entropy(outputs.start_logits, lengths, places[0])
        ends = grouped_cross_entropy(outputs.end_logits, lengths, places[1])
        return (starts[0] + ends[0]) / 2, starts[1]


@dataclass(frozen=True)
class Choice(Recipe):
    fields: ClassVar[dict[str, Axis]] = {"labels": "sample"}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        return cross_entropy(outputs.logits.view(-1, CHOICES), batch["labels"])

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"predictions": outputs.logits.view(-1, CHOICES)}


@dataclass(frozen=True)
class Case:
    task: str
    recipe: Recipe
    entries: dict[str, Any]

    def model(self) -> Any:
        if self.task == "sequence_classification":
            return tiny_model()
        torch.manual_seed(1)
        config = ModelConfig({"model_type": "bert", **SIZES, **self.entries})
        return TASKS[self.task].from_config(config).double()

    def table(self, num_samples: int, seed: int = 0) -> TokenTable:
        """Sequences of 2 to 39 tokens."""
        if self.task == "sequence_classification":
            return ragged_table(num_samples, seed=seed)
        rng = np.random.default_rng(seed)
        per_sample = CHOICES if self.task == "multiple_choice" else 1
        lengths = rng.integers(2, 40, num_samples * per_sample)
        ids = rng.integers(5, 97, lengths.sum()).astype(np.int32)
        return TokenTable(
            input_ids=ids,
            token_type_ids=None,
            sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
            sample_offsets=np.arange(num_samples + 1) * per_sample,
            fields=self._fields(ids, lengths, num_samples, rng),
            axes=self.recipe.fields,
        )

    def _fields(self, ids: Any, lengths: Any, num_samples: int, rng: Any) -> dict[str, Any]:
        if self.task == "question_answering":
            return {"start": rng.integers(0, lengths), "end": rng.integers(0, lengths)}
        if self.task == "multiple_choice":
            return {"labels": rng.integers(0, CHOICES, num_samples)}
        labels = rng.integers(0, 5, len(ids)) if self.task == "token_classification" else ids
        asked = rng.random(len(ids)) < (1.0 if self.task == "causal_lm" else 0.5)
        return {"labels": np.where(asked, labels, -100).astype(np.int64)}


LLAMA = {"model_type": "llama", "num_key_value_heads": 1, "num_attention_heads": 3}
CASES = {
    "sequence_classification": Case("sequence_classification", RECIPES["single_label"], {}),
    "token_classification": Case("token_classification", PerToken(), {"num_labels": 5}),
    "question_answering": Case("question_answering", Span(), {}),
    "masked_lm": Case("masked_lm", PerToken(), {}),
    "multiple_choice": Case("multiple_choice", Choice(), {}),
    "causal_lm": Case("causal_lm", NextToken(), LLAMA),
    "causal_lm, tied": Case("causal_lm", NextToken(), {**LLAMA, "tie_word_embeddings": True}),
}
