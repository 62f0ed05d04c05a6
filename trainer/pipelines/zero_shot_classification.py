"""Zero-shot classification: scores arbitrary labels with a model trained on entailment."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from trainer.errors import InputError
from trainer.pipelines.text_pipeline import TextPipeline

log = logging.getLogger("trainer")

TEMPLATE = "This example is {}."


class ZeroShotClassificationPipeline(TextPipeline):
    """`pipeline("zero-shot-classification", model)(text, candidate_labels=[...])`."""

    task: ClassVar[str] = "zero-shot-classification"
    head: ClassVar[str] = "sequence_classification"

    def __call__(self, inputs: Any = None, candidate_labels: object = None, **options: Any) -> Any:
        """Score the labels for each text: `{"sequence", "labels", "scores"}`, the best label first.

        `candidate_labels` is a list, or a text in which commas separate the labels. In
        `hypothesis_template`, `{}` stands for the label. With `multi_label`, each label has an
        independent probability. Raises InputError for a model without a label that begins with
        "entail".
        """
        inputs = options.pop("sequences", inputs)
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **options)

    def answers(
        self,
        inputs: Sequence[Any],
        *,
        candidate_labels: str | Sequence[str] = (),
        hypothesis_template: str = TEMPLATE,
        multi_label: bool = False,
    ) -> list[Any]:
        labels = _listed(candidate_labels)
        if not labels:
            raise InputError("pipeline: candidate_labels: found none; accepted: one or more")
        _check_template(hypothesis_template)
        encodings = [
            self.encoded(text, hypothesis_template.format(label), truncation="only_first")
            for text in inputs
            for label in labels
        ]
        logits = self.forward(encodings).logits.float()
        entails = self._entailment_id
        if multi_label or len(labels) == 1:
            contradicts = logits.shape[1] - 1 if entails == 0 else 0
            scores = logits[:, [contradicts, entails]].softmax(-1)[:, 1].view(-1, len(labels))
        else:
            scores = logits[:, entails].view(-1, len(labels)).softmax(-1)
        return [
            _answer(text, labels, row.tolist()) for text, row in zip(inputs, scores, strict=True)
        ]

    @property
    def _entailment_id(self) -> int:
        names = self.model.config.id2label
        for number, name in names.items():
            if str(name).lower().startswith("entail"):
                return int(number)
        found = ", ".join(map(str, names.values()))
        raise InputError(f"pipeline: found the labels {found}; accepted: one named entailment")


def _listed(labels: object) -> list[str]:
    if isinstance(labels, str):
        return [label.strip() for label in labels.split(",") if label.strip()]
    if not isinstance(labels, Iterable) or isinstance(labels, (bytes, Mapping)):
        found = f"found {labels!r:.60}"
        raise InputError(f"pipeline: candidate_labels: {found}; accepted: a list of labels")
    return list(labels)


def _check_template(template: object) -> None:
    """Raise InputError unless `{}` in a template stands for the label."""
    try:
        if isinstance(template, str) and template.format("a label") != template:
            return
    except (ValueError, LookupError, AttributeError):  # other braces than {}
        pass
    found = f"found {template!r:.60}"
    raise InputError(f"pipeline: hypothesis_template: {found}; accepted: a text with {{}}")


def _answer(text: str, labels: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
    order = sorted(range(len(labels)), key=lambda number: (-scores[number], -number))
    return {
        "sequence": text,
        "labels": [labels[number] for number in order],
        "scores": [scores[number] for number in order],
    }
