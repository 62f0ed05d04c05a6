"""Loading: makes the pipeline for a saved model and a task, such as text-classification."""

import re
from collections.abc import Mapping
from typing import Any

from trainer.errors import InputError, nearest
from trainer.pipelines.crf_tagging import CRFTaggingPipeline
from trainer.pipelines.default_recipes import default_recipe
from trainer.pipelines.feature_extraction import FeatureExtractionPipeline
from trainer.pipelines.fill_mask import FillMaskPipeline
from trainer.pipelines.multi_task import MultiTaskPipeline
from trainer.pipelines.multiple_choice import MultipleChoicePipeline
from trainer.pipelines.of_recipe import Pipeline
from trainer.pipelines.question_answering import QuestionAnsweringPipeline
from trainer.pipelines.replaced_token_detection import ReplacedTokenDetectionPipeline
from trainer.pipelines.sentence_similarity import SentenceSimilarityPipeline
from trainer.pipelines.text_classification import TextClassificationPipeline
from trainer.pipelines.text_generation import TextGenerationPipeline
from trainer.pipelines.text_pipeline import TextPipeline
from trainer.pipelines.text_ranking import TextRankingPipeline
from trainer.pipelines.text_to_text import (
    SummarizationPipeline,
    Text2TextGenerationPipeline,
    TranslationPipeline,
)
from trainer.pipelines.token_classification import TokenClassificationPipeline
from trainer.pipelines.zero_shot_classification import ZeroShotClassificationPipeline
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe

PIPELINES: dict[str, type[Pipeline] | type[TextPipeline]] = {
    "feature-extraction": FeatureExtractionPipeline,
    "fill-mask": FillMaskPipeline,
    "multi-task": MultiTaskPipeline,
    "multiple-choice": MultipleChoicePipeline,
    "ner": TokenClassificationPipeline,
    "question-answering": QuestionAnsweringPipeline,
    "replaced-token-detection": ReplacedTokenDetectionPipeline,
    "sentence-similarity": SentenceSimilarityPipeline,
    "sentiment-analysis": TextClassificationPipeline,
    "summarization": SummarizationPipeline,
    "text-classification": TextClassificationPipeline,
    "text-generation": TextGenerationPipeline,
    "text-ranking": TextRankingPipeline,
    "text2text-generation": Text2TextGenerationPipeline,
    "token-classification": TokenClassificationPipeline,
    "translation": TranslationPipeline,
    "zero-shot-classification": ZeroShotClassificationPipeline,
}
"""The hub's name of a task -> its pipeline."""
GENERATING = (TextGenerationPipeline, Text2TextGenerationPipeline)
"""The pipelines that generate text; they convert the weights to the requested precision."""
TRANSLATION = re.compile(r"translation_\w+_to_\w+")
"""Matches names of translation tasks that contain the languages, such as translation_en_to_de."""
DEFAULT_TASKS = {
    "causal_lm": "text-generation",
    "masked_lm": "fill-mask",
    "multi_task": "multi-task",
    "multiple_choice": "multiple-choice",
    "question_answering": "question-answering",
    "replaced_token_detection": "replaced-token-detection",
    "sentence_embedding": "sentence-similarity",
    "seq2seq_lm": "text2text-generation",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "token_classification_crf": "token-classification",
}
"""A model's head -> the default task for the model."""


def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    token: str | None = None,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = None,
    torch_dtype: Any = None,
    framework: str | None = None,
    use_fast: bool = True,
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    **options: Any,
) -> Pipeline | TextPipeline:
    """Load a model from a folder, a hub id or a pkg:// path, and make its pipeline for a task.

    `model` and `tokenizer` may also be loaded objects. Without `task`, the model's head decides.
    The model runs on `device` (a device, its name, or its index; -1: the CPU), by default on the
    accelerator. It computes in `dtype` or `precision` (fp32, bf16, fp16, auto). `model_kwargs` are
    passed to from_pretrained. `options` are `batch_size` and the defaults for the options of calls
    (`aggregation_strategy`, `top_k`, ...). Raises InputError for a task that is unknown or that
    the model does not support.
    """
    from trainer.devices.precision import DTYPES, resolve_precision

    _refuse(config, use_fast, trust_remote_code, framework)
    places = _places(model_kwargs or {}, token)
    recipe = _recipe_of(model, task, {"revision": revision, **places})
    task = task or _task_of(model, recipe)
    kind = _kind_of(task)
    recipe = recipe or default_recipe(kind, model)
    if kind is TokenClassificationPipeline and _has_crf(recipe):
        kind = CRFTaggingPipeline
        options.pop("aggregation_strategy", None)  # answers have only one form
    _check_head(kind, model, recipe)
    model_options = {**(model_kwargs or {}), "dtype": dtype if torch_dtype is None else torch_dtype}
    loaded = _loaded_model(kind, model, {**model_options, **places}, revision)
    place = _device_of(device if device_map is None else device_map)
    found = _loaded_tokenizer(tokenizer, model, revision, places)
    if issubclass(kind, TextPipeline):
        if issubclass(kind, Text2TextGenerationPipeline):
            options["requested_task"] = task
        resolved = resolve_precision(precision, place)
        if resolved != "fp32" and issubclass(kind, GENERATING):  # like job=generate
            loaded, resolved = loaded.to(DTYPES[resolved]), "fp32"
        return kind(loaded.to(place), found, recipe, precision=resolved, **options)
    if options:
        found_option = f"found the option '{next(iter(options))}'"
        raise InputError(f"pipeline: {found_option}; accepted: no options for {task}")
    assert recipe is not None
    return kind(loaded.to(place), recipe, found, TrainSettings(precision=precision))


def _kind_of(task: str) -> type[Pipeline] | type[TextPipeline]:
    if TRANSLATION.fullmatch(task):
        return TranslationPipeline
    if task not in PIPELINES:
        accepted = f"{', '.join(PIPELINES)}{nearest(task, PIPELINES)}"
        raise InputError(f"pipeline: found '{task}'; accepted: {accepted}")
    return PIPELINES[task]


def _has_crf(recipe: Recipe | None) -> bool:
    return recipe is not None and recipe.head.task == CRFTaggingPipeline.head


def _refuse(
    config: object, use_fast: bool, trust_remote_code: bool | None, framework: str | None
) -> None:
    """Raise InputError for arguments of transformers that are not supported."""
    if config is not None:
        raise InputError("pipeline: config: found one; accepted: None, or set model_kwargs instead")
    if not use_fast:
        raise InputError("pipeline: use_fast: found False; accepted: True, the only tokenizer")
    if framework not in (None, "pt"):
        raise InputError(f"pipeline: framework: found {framework!r}; accepted: 'pt'")
    if trust_remote_code:
        raise InputError("pipeline: trust_remote_code: found True; accepted: False")


def _places(model_kwargs: Mapping[str, Any], token: str | None) -> dict[str, Any]:
    """The arguments that locate files, for loading the model, the tokenizer and the recipe."""
    names = ("cache_dir", "local_files_only", "subfolder", "token")
    given = {**model_kwargs, "token": token or model_kwargs.get("token")}
    return {name: given[name] for name in names if given.get(name) is not None}


def _recipe_of(model: object, task: str | None, places: Mapping[str, Any]) -> Any:
    """The recipe in a model's folder; None for a loaded model or a task that needs no recipe."""
    from trainer.config.saved_recipe import recipe_of

    if model is None:
        raise InputError("pipeline: model: found None; accepted: a folder, a hub id, or a model")
    if not _is_path(model):
        return None
    kind = None if task is None else _kind_of(task)
    needs_none = kind is not None and (not kind.head or kind is ReplacedTokenDetectionPipeline)
    return None if needs_none else recipe_of(str(model), places=places)


def _task_of(model: Any, recipe: Any) -> str:
    head = getattr(model, "task", None) if recipe is None else recipe.head.task
    if type(recipe).__name__ == "Reranking":
        return "text-ranking"
    if head not in DEFAULT_TASKS:
        raise InputError(f"pipeline: task: found None for a {head} model; accepted: a task")
    return DEFAULT_TASKS[head]


def _check_head(kind: type[Pipeline] | type[TextPipeline], model: Any, recipe: Any) -> None:
    head = getattr(model, "task", kind.head) if recipe is None else recipe.head.task
    if kind.head and head != kind.head:
        name = f"{model!s:.80}" if _is_path(model) else type(model).__name__
        raise InputError(f"pipeline: {name} is made for {head}, not {kind.head}")
    if recipe is None and not issubclass(kind, TextPipeline):
        accepted = "accepted: its folder, which has the recipe's settings"
        raise InputError(f"pipeline: {kind.__name__}: found a model; {accepted}")


def _is_path(model: object) -> bool:
    """Whether a model is a folder, a hub id or a path, not a loaded model."""
    return isinstance(model, str) or hasattr(model, "__fspath__")


def _loaded_model(
    kind: type[Pipeline] | type[TextPipeline],
    model: object,
    options: Mapping[str, Any],
    revision: str | None,
) -> Any:
    from trainer.models.auto import AutoModel
    from trainer.models.of_task import model_class

    if not _is_path(model):
        return model
    set_options = {name: value for name, value in options.items() if value is not None}
    loader: Any = model_class(kind.head) if kind.head else AutoModel
    return loader.from_pretrained(model, revision=revision, **set_options)


def _loaded_tokenizer(
    tokenizer: Any, model: Any, revision: str | None, places: Mapping[str, Any]
) -> Any:
    """The given tokenizer, loaded if it is a path; by default the one among the model's files."""
    from trainer.tokenizer import Tokenizer

    if tokenizer is not None and not _is_path(tokenizer):
        return tokenizer
    path = model
    if tokenizer is not None:  # the model's revision and subfolder do not apply
        path, revision = tokenizer, None
        places = {name: value for name, value in places.items() if name != "subfolder"}
    elif not _is_path(model):
        source = getattr(model, "source", None)  # in other models, a submodule may be called source
        named = (getattr(model, "name_or_path", None), None)
        path, revision = source if isinstance(source, tuple) else named
    if not path:
        raise InputError("pipeline: tokenizer: found None with a loaded model; accepted: one")
    return Tokenizer.from_pretrained(path, revision=revision, **places)


def _device_of(device: Any) -> Any:
    import torch

    from trainer.devices.named_device import named_device

    found = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device is None or device == "auto":
        return found
    return named_device(device, "pipeline: device")
