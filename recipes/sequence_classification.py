"""Sequence classification: one label, several labels or a number for a text or a pair of texts."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data.rows import label_column, text_column
from trainer.errors import InputError, RowError, nearest
from trainer.recipe import Axis, Head, Recipe

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch
    from trainer.models.outputs import SequenceClassifierOutput
    from trainer.tokenizer import Tokenizer

PROBLEMS = ("auto", "single_label", "multi_label", "regression")


@dataclass(frozen=True)
class SequenceClassification(Recipe):
    """Classify a text or a pair, or give it a number."""

    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text of a pair."""
    label: str = "label"
    """Column of the label: a name, an int, a list of them (multi_label), a number (regression)."""
    problem: str = "auto"
    """single_label, multi_label or regression; auto: told by the label column's type."""
    labels: list[str] | None = None
    """Label names in the order of their ids; null: those of the training rows."""
    class_weights: Any = None
    """Weight of each class in the loss: {label: weight}, or balanced (rare classes weigh more)."""
    int_labels: str = "ids"
    """What an int in the label column is: the id of a label, or its name."""
    max_length: int = 128
    """Longer texts are cut to so many tokens."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}

    def __post_init__(self) -> None:
        if self.problem not in PROBLEMS:
            raise InputError(
                f"recipe.problem: found '{self.problem}'; accepted: {', '.join(PROBLEMS)}"
            )
        if self.int_labels not in ("ids", "names"):
            raise InputError(f"recipe.int_labels: found '{self.int_labels}'; accepted: ids, names")
        if self.max_length < 1:
            raise InputError(f"recipe.max_length: found {self.max_length}; accepted: 1 or more")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise InputError("recipe.labels: a name stands there twice")
        weights = self.class_weights
        if weights is not None and weights != "balanced" and not isinstance(weights, Mapping):
            raise InputError(
                f"recipe.class_weights: found {weights!r}; accepted: {{label: weight}} or balanced"
            )

    @property
    def metric_for_best_model(self) -> str:
        metrics = {"regression": "pearson", "multi_label": "f1_macro"}
        return metrics.get(self.problem, "accuracy")

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def class_names(self) -> list[str] | None:
        return self.labels if self.problem == "single_label" else None

    @classmethod
    def fields_of_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        names = config.get("id2label") or {i: f"LABEL_{i}" for i in range(2)}
        if not isinstance(names, Mapping) or not all(str(key).isdigit() for key in names):
            raise InputError(f"config.json: id2label: found {names!r:.60}; accepted: {{id: name}}")
        labels = [str(names[key]) for key in sorted(names, key=int)]
        problem = str(config.get("problem_type") or "").removesuffix("_classification")
        if problem not in PROBLEMS:
            problem = "regression" if len(labels) == 1 else "single_label"
        return {"problem": problem, "labels": None if problem == "regression" else labels}

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "SequenceClassification":
        values = label_column(rows, self.label, "recipe.label")
        problem = _problem(values) if self.problem == "auto" else self.problem
        if problem == "regression":
            return replace(self, problem=problem)
        learned = replace(self, problem=problem)
        if self.labels is None:
            labelled = [more for more in held_out if self.label in more.column_names]
            more_values = [label_column(more, self.label, "recipe.label") for more in labelled]
            feature = rows.features[self.label]
            names = getattr(getattr(feature, "feature", feature), "names", None)
            found = names or _names(chain(values, *more_values), problem)
            learned = replace(learned, labels=list(found), int_labels="ids" if names else "names")
        if problem == "single_label" and len(learned.labels or ()) < 2:
            found = f"only one label, {', '.join(learned.labels or ())}"
            raise InputError(f"recipe.label: '{self.label}' holds {found}; accepted: two or more")
        return replace(learned, class_weights=learned._weights(values))

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        texts = text_column(rows, self.text, "recipe.text")
        pairs = None
        if self.text_pair is not None:
            pairs = text_column(rows, self.text_pair, "recipe.text_pair")
        encoded = tokenizer(
            texts,
            pairs,
            truncation=True,
            max_length=self.max_length,
            return_num_truncated_tokens=True,
        )
        names = ("input_ids", "token_type_ids", "num_truncated_tokens")
        columns = {name: encoded[name] for name in names if name in encoded}
        if self.label in rows:
            columns["labels"] = [
                self._target(value, row) for row, value in enumerate(rows[self.label])
            ]
        return columns

    @property
    def head(self) -> Head:
        if self.problem == "regression":
            return Head("sequence_classification", {"num_labels": 1, "problem_type": "regression"})
        if self.labels is None:
            raise InputError("recipe.labels: not known; give them, or rows to learn them from")
        config = {
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: i for i, name in enumerate(self.labels)},
            "problem_type": f"{self.problem}_classification",
        }
        return Head("sequence_classification", config)

    def loss(
        self,
        outputs: "SequenceClassifierOutput",
        batch: "Batch",
        *,
        label_smoothing: float = 0.0,
    ) -> tuple["Tensor", "Tensor"]:
        from trainer.losses import binary_cross_entropy, cross_entropy, mean_squared_error

        assert outputs.logits is not None
        if self.problem == "regression":
            return mean_squared_error(outputs.logits.squeeze(-1), batch["labels"])
        loss = cross_entropy if self.problem == "single_label" else binary_cross_entropy
        return loss(
            outputs.logits,
            batch["labels"],
            label_smoothing=label_smoothing,
            class_weights=self._weight_tensor(outputs.logits),
        )

    def predictions(
        self, outputs: "SequenceClassifierOutput", batch: "Batch"
    ) -> dict[str, "Tensor"]:
        assert outputs.logits is not None
        logits = outputs.logits.float()
        match self.problem:
            case "regression":
                found = {"predictions": logits.squeeze(-1)}
            case "multi_label":
                probabilities = logits.sigmoid()
                found = {
                    "predictions": (probabilities > 0.5).long(),
                    "probabilities": probabilities,
                }
            case _:
                found = {"predictions": logits.argmax(-1), "probabilities": logits.softmax(-1)}
        if "labels" in batch:
            sets = self.problem == "multi_label"
            found["references"] = batch["labels"].long() if sets else batch["labels"]
        return found

    def answers(self, predictions: Mapping[str, "np.ndarray"]) -> list[dict[str, Any]]:
        found = [self._answer(value) for value in predictions["predictions"].tolist()]
        if "probabilities" in predictions:
            for answer, row in zip(found, predictions["probabilities"].tolist(), strict=True):
                if self.problem == "single_label":
                    answer["score"] = max(row)
                answer["probabilities"] = dict(zip(self.labels or (), row, strict=True))
        if "references" in predictions:
            for answer, value in zip(found, predictions["references"].tolist(), strict=True):
                answer["reference"] = next(iter(self._answer(value).values()))
        return found

    def _answer(self, value: Any) -> dict[str, Any]:
        """A prediction or a reference in words: a number, a label, or a list of labels."""
        if self.problem == "regression":
            return {"value": value}
        assert self.labels is not None
        if self.problem == "multi_label":
            return {"labels": [name for name, yes in zip(self.labels, value, strict=True) if yes]}
        return {"label": self.labels[value]}

    def _target(self, value: Any, row: int) -> Any:
        """What the loss compares with: an id, a number, or a vector of zeros and ones."""
        if self.problem == "regression":
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise RowError(row, f"'{self.label}' is {value!r}; accepted: a number")
            return float(value)
        if self.problem == "single_label":
            return self._id(value, row)
        assert self.labels is not None
        if not isinstance(value, (list, tuple)):
            raise RowError(row, f"'{self.label}' is {value!r}; accepted: a list of labels")
        chosen = {self._id(item, row) for item in value}
        return [float(i in chosen) for i in range(len(self.labels))]

    def _id(self, value: Any, row: int) -> int:
        """The id of a label given by its name or, where ints are ids, by the id itself."""
        assert self.labels is not None
        if type(value) is int and self.int_labels == "ids":
            if 0 <= value < len(self.labels):
                return value
            accepted = f"0 to {len(self.labels) - 1}"
        else:
            if (name := _name(value)) in self.labels:
                return self.labels.index(name)
            accepted = ", ".join(self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
            accepted += nearest(str(value), self.labels)
        raise RowError(row, f"'{self.label}' is {value!r}; accepted: {accepted}")

    def _weights(self, values: Sequence[Any]) -> dict[str, float] | None:
        """The weight of each class by its name."""
        weights, labels = self.class_weights, self.labels
        assert labels is not None
        if weights is None:
            return None
        if weights == "balanced":
            lists = values if self.problem == "multi_label" else [[value] for value in values]
            counts = Counter(self._id(item, row) for row, many in enumerate(lists) for item in many)
            mean = sum(counts.values()) / len(labels)
            return {name: mean / max(1, counts[i]) for i, name in enumerate(labels)}
        for name in weights:
            if str(name) not in labels:
                raise InputError(
                    f"recipe.class_weights: no label '{name}'{nearest(str(name), labels)}"
                )
        for name, weight in weights.items():
            if type(weight) not in (int, float) or not 0 <= weight < math.inf:
                found = f"{name}: {weight!r}"
                raise InputError(f"recipe.class_weights: found {found}; accepted: 0 or more")
        given = {str(name): float(weight) for name, weight in weights.items()}
        return {name: given.get(name, 1.0) for name in labels}

    def _weight_tensor(self, logits: "Tensor") -> "Tensor | None":
        if self.class_weights is None:
            return None
        return logits.new_tensor([self.class_weights[name] for name in self.labels or ()])


def _problem(values: Sequence[Any]) -> str:
    """The problem that a label column's type tells."""
    first = next(iter(values), None)
    if isinstance(first, float):
        return "regression"
    return "multi_label" if isinstance(first, (list, tuple)) else "single_label"


def _names(values: Iterable[Any], problem: str) -> list[str]:
    """The distinct labels in order, as names: numbers by their size, texts by their letters."""
    flat = values if problem == "single_label" else chain.from_iterable(values)
    distinct = set(flat)
    if not all(isinstance(value, (str, int)) for value in distinct):
        odd = next(value for value in distinct if not isinstance(value, (str, int)))
        raise InputError(f"recipe.label: found {odd!r}; accepted: names, or whole numbers")
    return [_name(value) for value in sorted(distinct, key=lambda v: (isinstance(v, str), v))]


def _name(value: Any) -> str:
    """A label's name: true and false as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)
