"""The metadata of a model card: the YAML that the hub's search, widgets and tables read."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.reports.model_card.base_model import BaseModel
from trainer.reports.result_names import result_names
from trainer.reports.run_record import RunRecord

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PIPELINE_TAGS = {
    "causal_lm": "text-generation",
    "instruction": "text-generation",
    "language_distillation": "text-generation",
    "masked_lm": "fill-mask",
    "multiple_choice": "multiple-choice",
    "preference": "text-generation",
    "question_answering": "question-answering",
    "reranking": "text-ranking",
    "sentence_embedding": "sentence-similarity",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "unpaired_preference": "text-generation",
}
"""Recipe -> the hub's name of its task; the hub has no name for other recipes."""
TAGS_OF_CLASSES = {
    "CausalLM": "text-generation",
    "MaskedLM": "fill-mask",
    "QuestionAnswering": "question-answering",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
}
"""The end of a class name -> the hub's name of its task, for folders without a recipe."""
ADAPTER, RECIPE, MODULES = "adapter_config.json", "recipe.json", "modules.json"
CONFIGS = ("config.json", "model_config.json")
NOT_METRICS = ("loss", "samples", "non_finite_samples")
"""Evaluation results that the metadata does not list as metrics."""


@dataclass(frozen=True)
class Subject:
    """The model that a card describes."""

    name: str
    """The name of the model's repository, without the owner."""
    repo: str
    """owner/name, or the name alone if the owner is not known yet."""
    folder: Path
    """The folder with the model's files."""
    record: RunRecord | None
    """The run that trained the model; None if it is unknown."""
    base: BaseModel
    license: str | None = None
    """The license from push.license."""
    dataset: str | None = None
    """The hub id of the training data, if it is on the hub."""

    @property
    def is_adapter(self) -> bool:
        """Whether the folder contains only an adapter."""
        return (self.folder / ADAPTER).is_file()

    @property
    def architecture(self) -> str:
        """The class of the model, such as BertForSequenceClassification; empty if unknown."""
        for name in CONFIGS:
            found = _json(self.folder / name).get("architectures")
            if isinstance(found, list) and found:
                return str(found[0])
        return ""

    @property
    def recipe(self) -> str:
        """The recipe's short name or dotted path; empty if it is unknown."""
        return str(_json(self.folder / RECIPE).get("recipe") or "")

    @property
    def pipeline_tag(self) -> str | None:
        """The hub's name of the task; None if the hub has no name for it."""
        if self.recipe:
            return PIPELINE_TAGS.get(self.recipe)
        ends = (tag for end, tag in TAGS_OF_CLASSES.items() if self.architecture.endswith(end))
        return next(ends, None)

    @property
    def library(self) -> str | None:
        """The hub's name of the library that loads the model; None if there is none."""
        if self.is_adapter:
            return "peft"
        if self.recipe == "sentence_embedding" and (self.folder / MODULES).is_file():
            return "sentence-transformers"
        if any(self.folder.glob("*.gguf")):
            return "gguf"
        if any(self.folder.rglob("*.onnx")):
            return "onnx"
        known = re.search(r"(Model|For[A-Z]\w+|LMHeadModel)$", self.architecture)
        return "transformers" if known else None

    @property
    def data_name(self) -> str:
        """The name of the data in the card: a hub id, file names, or the data set's class."""
        if self.dataset:
            name = self._data("name")
            return f"{self.dataset}, {name}" if name else self.dataset
        node = self.record.config.get("dataset") if self.record else None
        node = node if isinstance(node, Mapping) else {}
        paths = node.get("train") or node.get("path")
        names = [
            Path(each).name for each in (paths if isinstance(paths, list) else [paths]) if each
        ]
        source = str(node.get("_target_") or "").rpartition(".")[2]
        return ", ".join(names) or source

    def _data(self, key: str) -> str | None:
        node = self.record.config.get("dataset") if self.record else None
        value = node.get(key) if isinstance(node, Mapping) else None
        return value if isinstance(value, str) else None


def metadata(subject: Subject) -> str:
    """The YAML at the top of the card."""
    from huggingface_hub import ModelCardData

    base, measured = subject.base, _results(subject)
    stated = {"license": subject.license} if subject.license else dict(base.license or {})
    kind = "adapter" if subject.is_adapter else "finetune"
    extra: dict[str, Any] = {"base_model_relation": kind} if base.hub_id else {}
    extra |= stated
    card = ModelCardData(
        base_model=base.hub_id,
        datasets=[subject.dataset] if subject.dataset else None,
        library_name=subject.library,
        pipeline_tag=subject.pipeline_tag,
        tags=["tempering", *([subject.recipe.replace("_", "-")] if subject.recipe else [])],
        metrics=sorted({each.metric_type for each in measured}) or None,
        model_name=subject.name if measured else None,
        eval_results=measured or None,
        **extra,
    )
    return card.to_yaml()


def _results(subject: Subject) -> "list[EvalResult]":
    """The metrics of whole evaluation sets, without slices and values that are not finite."""
    from huggingface_hub import EvalResult

    record, found = subject.record, []
    metrics = record.results.get("metrics") if record else None
    for key, name in result_names(metrics or {}, record.sets if record else ()).items():
        assert metrics is not None
        value = metrics[key]
        if name.part or name.metric in NOT_METRICS or not _is_finite(value):
            continue
        title = subject.data_name or "evaluation"
        found.append(
            EvalResult(
                task_type=subject.pipeline_tag or "other",
                dataset_type=subject.dataset or re.sub(r"[^\w.-]+", "-", title),
                dataset_name=title,
                dataset_split=name.set_name or "validation",
                metric_type=name.metric,
                metric_value=round(float(value), 6),
            )
        )
    return found


def _is_finite(value: object) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)  # type: ignore[arg-type]  # a number by the line above


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file does not contain one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
