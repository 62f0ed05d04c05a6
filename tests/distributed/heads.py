"""Every head for tests of several processes: a tiny model, a recipe and ragged samples."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recipes.multi_task import MultiTask
from recipes.question_answering import QuestionAnswering
from tests.unit.test_exactness import RECIPES, SIZES, ragged_table, tiny_model
from trainer.data.task_samples import TaskSamples
from trainer.data.tokens import TokenTable
from trainer.models.auto import TASKS as MODELS
from trainer.models.config import ModelConfig
from trainer.tasks.losses import cross_entropy, next_token_loss
from trainer.tasks.recipe import Axis, Recipe
from trainer.tasks.task_batches import counts_by

CHOICES = 3
TIMEOUT = 123.0
"""Seconds, for runs that look at the time limits of their process groups."""


@dataclass(frozen=True)
class PerToken(Recipe):
    """A class for some tokens (labels, or words of the vocabulary), with a mean loss over them."""

    neftune: float = 0.0
    adversarial: float = 0.0

    fields: ClassVar[dict[str, Axis]] = {"labels": "token"}
    predicted: ClassVar[dict[str, Axis]] = {"scores": "token"}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        return cross_entropy(outputs.logits, batch["labels"])

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"scores": outputs.logits.amax(-1)}


@dataclass(frozen=True)
class NextToken(Recipe):
    fields: ClassVar[dict[str, Axis]] = {"labels": "token"}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        found = next_token_loss(outputs.projection, batch["labels"])
        return found.sum, found.count


@dataclass(frozen=True)
class Adversarial(NextToken):
    """Also learns embeddings that make the loss worse."""

    adversarial: float = 0.3


@dataclass(frozen=True)
class Choice(Recipe):
    fields: ClassVar[dict[str, Axis]] = {"labels": "sample"}
    predicted: ClassVar[dict[str, Axis]] = {"predictions": "sample", "scores": "sequence"}

    def loss(self, outputs: Any, batch: Any, *, label_smoothing: float = 0.0) -> Any:
        return cross_entropy(outputs.logits.view(-1, CHOICES), batch["labels"])

    def predictions(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"predictions": outputs.logits.view(-1, CHOICES), "scores": outputs.logits.flatten()}


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
        return MODELS[self.task].from_config(config).double()

    def table(self, num_samples: int, seed: int = 0) -> TokenTable:
        """Sequences of 2 to 39 tokens."""
        if self.task == "sequence_classification":
            return ragged_table(num_samples, seed=seed)
        rng = np.random.default_rng(seed)
        most = {"multiple_choice": (CHOICES, CHOICES), "question_answering": (1, 2)}
        per_sample = rng.integers(*most.get(self.task, (1, 1)), num_samples, endpoint=True)
        lengths = rng.integers(2, 40, per_sample.sum())
        ids = rng.integers(5, 97, lengths.sum()).astype(np.int32)
        return TokenTable(
            input_ids=ids,
            token_type_ids=None,
            sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
            sample_offsets=np.concatenate([[0], np.cumsum(per_sample)]),
            fields=self._fields(ids, lengths, num_samples, rng),
            axes=self.recipe.fields,
        )

    def _fields(self, ids: Any, lengths: Any, num_samples: int, rng: Any) -> dict[str, Any]:
        if self.task == "question_answering":
            places = np.concatenate([np.arange(-1, length - 1) for length in lengths])
            offsets = np.stack([places, np.where(places < 0, places, places + 1)], axis=1)
            ends = rng.integers(0, lengths)
            return {"starts": rng.integers(0, ends + 1), "ends": ends, "offsets": offsets}
        if self.task == "multiple_choice":
            return {"labels": rng.integers(0, CHOICES, num_samples)}
        labels = rng.integers(0, 5, len(ids)) if self.task == "token_classification" else ids
        asked = rng.random(len(ids)) < (1.0 if self.task == "causal_lm" else 0.5)
        return {"labels": np.where(asked, labels, -100).astype(np.int64)}


@dataclass(frozen=True)
class ManyTasks(Case):
    """Samples of two other cases; a rank's micro batch often has only those of one."""

    def table(self, num_samples: int, seed: int = 0) -> TaskSamples:  # type: ignore[override]
        first = num_samples // 3
        sizes = {"kind": first, "answer": num_samples - first}
        recipes = self.recipe.tasks  # type: ignore[attr-defined]
        tables = {
            name: CASES[recipes[name].head.task].table(size, seed) for name, size in sizes.items()
        }
        order = np.random.default_rng(seed).permutation(num_samples)
        rows = {"kind": np.sort(order[:first]), "answer": np.sort(order[first:])}
        weights = {"kind": 0.7, "answer": 0.4}
        return TaskSamples.of(tables, rows, weights, counts_by(recipes, tables))


QUESTIONS = QuestionAnswering(max_answer_length=5, n_best=3)
TASKS = MultiTask(
    {"kind": RECIPES["single_label"], "answer": QUESTIONS}, {"kind": 0.7, "answer": 0.4}
)
LLAMA = {"model_type": "llama", "num_key_value_heads": 1, "num_attention_heads": 3}
CASES = {
    "sequence_classification": Case("sequence_classification", RECIPES["single_label"], {}),
    "token_classification": Case("token_classification", PerToken(), {"num_labels": 5}),
    "question_answering": Case("question_answering", QUESTIONS, {}),
    "masked_lm": Case("masked_lm", PerToken(neftune=5.0, adversarial=0.3), {}),
    "multi_task": ManyTasks("multi_task", TASKS, dict(TASKS.head.config)),
    "multiple_choice": Case("multiple_choice", Choice(), {}),
    "causal_lm": Case("causal_lm", NextToken(), LLAMA),
    "causal_lm, tied": Case("causal_lm", NextToken(), {**LLAMA, "tie_word_embeddings": True}),
}


def timeouts() -> list[float]:
    """The time limits of all process groups of this rank, each once."""
    groups = torch.distributed.distributed_c10d._world.pg_map
    cpu = torch.device("cpu")
    return sorted({each._get_backend(cpu).options._timeout.total_seconds() for each in groups})
