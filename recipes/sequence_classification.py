"""Sequence classification: one label, several labels or a number for a text or a pair of texts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.data import labels as cells
from trainer.data.rows import column_of, text_column
from trainer.errors import AnswerError, InputError, nearest
from trainer.recipe import Axis, Head, Recipe

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor

    from trainer.data.batch import Batch, Samples
    from trainer.models.outputs import SequenceClassifierOutput
    from trainer.tokenizer import Tokenizer

PROBLEMS = ("auto", "single_label", "multi_label", "regression")
INT_LABELS = ("auto", "ids", "names", "flags")
PAIR = "text_pair"
"""The column of second texts where no setting names one."""


@dataclass(frozen=True)
class SequenceClassification(Recipe):
    """Classify a text or a pair, or give it a number."""

    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text of a pair; null: text_pair, where the rows have such a column."""
    label: str | list[str] = "label"
    """Column of the label: a name, an int, a list of them, a number; or several columns of 0/1."""
    label_separator: str | None = None
    """What stands between the labels of one cell, such as | in "a|b" (multi_label)."""
    problem: str = "auto"
    """single_label, multi_label or regression; auto: as trainer/data/labels.py says."""
    labels: list[str] | None = None
    """Label names in the order of their ids; null: those of the training rows."""
    class_weights: Any = None
    """Weight of each class in the loss: {label: weight}, or balanced (rare classes weigh more)."""
    int_labels: str = "auto"
    """What whole numbers in the label column are: ids or names of labels, or flags (0 and 1)."""
    max_length: int = 128
    """Longer texts are cut to so many tokens."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}

    def __post_init__(self) -> None:
        if self.problem not in PROBLEMS:
            raise InputError(
                f"recipe.problem: found '{self.problem}'; accepted: {', '.join(PROBLEMS)}"
            )
        if self.int_labels not in INT_LABELS:
            accepted = ", ".join(INT_LABELS)
            raise InputError(f"recipe.int_labels: found '{self.int_labels}'; accepted: {accepted}")
        _check_columns(self)
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

    @property
    def answer_columns(self) -> tuple[str, ...]:
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> "SequenceClassification":
        paired = self.text_pair is None and PAIR in rows.column_names
        found = replace(self, text_pair=PAIR) if paired else self
        values = found._values(rows)
        if isinstance(self.label, list):
            found = replace(found, problem="multi_label", labels=self.labels or self.label)
            return replace(found, int_labels="flags")._weighted(values)
        if self.problem == "auto":
            problem = cells.problem_of(values, self.labels, self.label_separator)
            found = replace(found, problem=problem)
        if found.problem == "regression":
            return found
        labelled = [more for more in held_out if self.label in more.column_names]
        more_values = chain.from_iterable(found._values(more) for more in labelled)
        feature = rows.features[self.label]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        found = found._named([*values, *more_values], names)
        _check_number(found)
        return found._weighted(values)

    def _values(self, rows: "Dataset | Mapping[str, Sequence[Any]]") -> list[Any]:
        """The cells of the label, of several columns as one list a row."""
        columns = [column_of(rows, name, "recipe.label") for name in self.answer_columns]
        if isinstance(self.label, str):
            return columns[0]
        return [list(flags) for flags in zip(*columns, strict=True)]

    def _named(self, values: list[Any], names: list[str] | None) -> "SequenceClassification":
        """With the names of its labels, and what whole numbers are: `names` are the feature's."""
        ints, labels, flat = self.int_labels, self.labels, values
        if self.problem == "multi_label":
            lists = [found for value in values if (found := self._listed(value)) is not None]
            flat = list(chain.from_iterable(lists))
            if ints == "auto" and cells.are_flags(lists):
                ints = "flags"
            if ints == "flags" and labels is None and not names:
                labels = [str(number) for number in range(max(map(len, lists), default=0))]
        if labels is None:
            labels = list(names) if names else cells.names_of(flat, "recipe.label")
            learnt_ints = "ids" if names else "names"
        else:
            learnt_ints = cells.ints_are(labels)
        return replace(self, labels=labels, int_labels=learnt_ints if ints == "auto" else ints)

    def _listed(self, value: Any) -> list[Any] | None:
        """The labels of a cell that holds several; an empty one of texts to be split holds none."""
        if value == "" and self.label_separator is not None:
            return []
        return cells.as_list(value, self.label_separator)

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        texts = text_column(rows, self.text, "recipe.text")
        pairs = None
        self.refuse_unread(rows)
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
        if all(name in rows for name in self.answer_columns):
            columns["labels"] = [
                self._target(value, row) for row, value in enumerate(self._values(rows))
            ]
        return columns

    def refuse_unread(self, columns: Iterable[str]) -> None:
        if self.text_pair is None and PAIR in columns:
            found = f"null, but the rows have a column '{PAIR}'"
            accepted = f"recipe.text_pair={PAIR}, or no such column (dataset.columns renames)"
            raise InputError(f"recipe.text_pair: {found}; accepted: {accepted}")

    def class_counts(self, samples: "Samples") -> dict[str, int]:
        import numpy as np

        found = getattr(samples, "fields", {}).get("labels")
        if found is None or self.labels is None:
            return {}
        sets = self.problem == "multi_label"
        counts = found.sum(0) if sets else np.bincount(found, minlength=len(self.labels))
        return {name: int(n) for name, n in zip(self.labels, counts, strict=True)}

    @property
    def label_rule(self) -> str:
        columns = ", ".join(f"'{name}'" for name in self.answer_columns)
        if self.problem == "regression":
            return f"{columns}: a number (regression)"
        ints = {"ids": "ids", "names": "names", "flags": "a flag for each label"}
        whole = ints.get(self.int_labels, "ids or names")
        return f"{columns}: {self.problem}, whole numbers are {whole}"

    @property
    def head(self) -> Head:
        if self.problem == "regression":
            return Head("sequence_classification", {"num_labels": 1, "problem_type": "regression"})
        if self.labels is None:
            raise InputError("recipe.labels: not known; give them, or rows to learn them from")
        if self.problem == "auto":
            raise InputError("recipe.problem: not known; give it, or rows to learn it from")
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
        where = ", ".join(f"'{name}'" for name in self.answer_columns)
        if self.problem == "regression":
            if (number := cells.as_number(value)) is None:
                raise AnswerError(row, f"{where} is {value!r}; accepted: a number")
            return number
        assert self.labels is not None
        if self.problem == "single_label":
            return cells.id_of(value, self.labels, self._ints(), row, where)
        several = self._listed(value)
        if several is None:
            accepted = "accepted: a list of labels (recipe.label_separator splits texts)"
            raise AnswerError(row, f"{where} is {value!r:.60}; {accepted}")
        if self.int_labels == "flags":
            return cells.flags_of(several, self.labels, row, where)
        if self.int_labels == "auto" and len(several) == len(self.labels):
            self._refuse_doubtful(several, row)
        chosen = {cells.id_of(item, self.labels, self._ints(), row, where) for item in several}
        return [float(i in chosen) for i in range(len(self.labels))]

    def _ints(self) -> str:
        """What whole numbers are, of a recipe that has learnt nothing too (a foreign model's)."""
        return cells.ints_are(self.labels or ()) if self.int_labels == "auto" else self.int_labels

    def _refuse_doubtful(self, several: list[Any], row: int) -> None:
        if cells.are_flags([several]):
            accepted = "accepted: recipe.int_labels=flags, or ids"
            raise AnswerError(row, f"'{self.label}' is {several}: flags, or ids? {accepted}")

    def _weighted(self, values: Sequence[Any]) -> "SequenceClassification":
        """With the weight of each class by its name."""
        weights, labels = self.class_weights, self.labels
        assert labels is not None
        if weights is None:
            return self
        if weights == "balanced":
            counts = self._counts(values)
            mean = sum(counts) / len(labels)
            found = {name: mean / max(1, counts[i]) for i, name in enumerate(labels)}
            return replace(self, class_weights=found)
        for name in weights:
            if str(name) not in labels:
                raise InputError(
                    f"recipe.class_weights: no label '{name}'{nearest(str(name), labels)}"
                )
        for name, weight in weights.items():
            if type(weight) not in (int, float) or not 0 <= weight < math.inf:
                shown = f"{name}: {weight!r}"
                raise InputError(f"recipe.class_weights: found {shown}; accepted: 0 or more")
        given = {str(name): float(weight) for name, weight in weights.items()}
        return replace(self, class_weights={name: given.get(name, 1.0) for name in labels})

    def _counts(self, values: Sequence[Any]) -> list[int]:
        """How many rows have each label; cells that are no label are another's to refuse."""
        counts = [0] * len(self.labels or ())
        for value in values:
            try:
                target = self._target(value, 0)
            except AnswerError:
                continue
            if self.problem == "single_label":
                counts[target] += 1
            else:
                counts = [count + int(flag) for count, flag in zip(counts, target, strict=True)]
        return counts

    def _weight_tensor(self, logits: "Tensor") -> "Tensor | None":
        if self.class_weights is None:
            return None
        return logits.new_tensor([self.class_weights[name] for name in self.labels or ()])


def _check_number(recipe: SequenceClassification) -> None:
    """Raise InputError for fewer labels than a classifier can tell apart."""
    labels = recipe.labels or []
    least = 2 if recipe.problem == "single_label" else 1
    if len(labels) < least:
        found = f"only one label, {labels[0]}" if labels else "no label in any row"
        accepted = "two or more" if least == 2 else "one or more"
        raise InputError(f"recipe.label: '{recipe.label}' holds {found}; accepted: {accepted}")


def _check_columns(recipe: SequenceClassification) -> None:
    """Raise InputError for settings of label columns that exclude each other."""
    if not recipe.answer_columns or len(set(recipe.answer_columns)) < len(recipe.answer_columns):
        raise InputError(
            f"recipe.label: found {recipe.label}; accepted: one column, or different ones"
        )
    if isinstance(recipe.label, str):
        if recipe.label_separator == "":
            raise InputError("recipe.label_separator: found ''; accepted: a character or more")
        if recipe.label_separator is not None and recipe.problem not in ("auto", "multi_label"):
            found = f"found beside recipe.problem={recipe.problem}"
            raise InputError(f"recipe.label_separator: {found}; accepted: multi_label")
        return
    if recipe.problem not in ("auto", "multi_label") or recipe.label_separator is not None:
        accepted = "accepted: recipe.problem=multi_label, and no recipe.label_separator"
        raise InputError(f"recipe.label: several columns, one for each label; {accepted}")
    if recipe.labels is not None and len(recipe.labels) != len(recipe.label):
        found = f"{len(recipe.labels)} names for {len(recipe.label)} columns of recipe.label"
        raise InputError(f"recipe.labels: found {found}; accepted: one for each")
