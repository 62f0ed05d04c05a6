"""Resolves class names of transformers to this package's classes, or says what to use instead."""

import importlib
import re
from typing import Any

from trainer.interop.tensorflow import keras_class
from trainer.models.auto import TASKS
from trainer.models.family import Family, find_family, native_families
from trainer.models.family_classes import config_class, of_family
from trainer.tokenizer import Tokenizer

PATTERN = re.compile(r"(TF)?[A-Z]\w*?(Config|Tokenizer|TokenizerFast|Model|For[A-Z]\w+)")
"""Matches the class names of model families."""

SAME = {
    "BatchEncoding": "trainer.tokenizer:BatchEncoding",
    "PreTrainedConfig": "trainer.models.config:ModelConfig",
    "PreTrainedModel": "trainer.models.pretrained:PretrainedModel",
    "PreTrainedTokenizer": "trainer.tokenizer:Tokenizer",
    "PreTrainedTokenizerBase": "trainer.tokenizer:Tokenizer",
    "PreTrainedTokenizerFast": "trainer.tokenizer:Tokenizer",
    "PretrainedConfig": "trainer.models.config:ModelConfig",
}
"""Name in transformers -> module:name of the equivalent in this package."""

_COLLATOR = "a recipe, which builds the batches; transformers' collators also accept our Tokenizer"
_ANY_CALLABLE = "a function (ids, scores) -> scores, in logits_processor=[...] of generate"
_STREAMER = "an object with put(ids) and end(), such as transformers' TextStreamer, or job=chat"
REPLACEMENTS = {
    "AutoProcessor": "AutoTokenizer; the models here only read text",
    "BitsAndBytesConfig": "from_pretrained(..., quantization='nf4'), or 'int4' or 'int8'",
    "DataCollatorForLanguageModeling": _COLLATOR,
    "DataCollatorForSeq2Seq": _COLLATOR,
    "DataCollatorForTokenClassification": _COLLATOR,
    "DataCollatorWithPadding": _COLLATOR,
    "EarlyStoppingCallback": "TrainSettings(early_stopping_patience=...)",
    "GenerationConfig": "GenerationSettings, or the arguments of generate",
    "LoraConfig": "LoRASettings, with Trainer or model.add_lora",
    "LogitsProcessor": _ANY_CALLABLE,
    "LogitsProcessorList": "a list of functions (ids, scores) -> scores",
    "PeftModel": "AutoModelFor...from_pretrained(FOLDER) with the adapter's folder",
    "SentenceTransformer": "pipeline('sentence-similarity', model=...)",
    "Seq2SeqTrainer": "Trainer with recipes.seq2seq.Seq2Seq",
    "Seq2SeqTrainingArguments": "TrainSettings",
    "StoppingCriteria": "a function (ids, scores) -> [N] bool, in stopping_criteria=[...]",
    "StoppingCriteriaList": "a list of functions (ids, scores) -> [N] bool",
    "TextIteratorStreamer": _STREAMER,
    "TextStreamer": _STREAMER,
    "TrainingArguments": "TrainSettings",
}
"""Name in transformers -> what to use instead; docs/from_transformers.md shows examples."""


def find(name: str) -> Any:
    """Resolve `from tempering import name` for a name from transformers.

    Raises ImportError for a name that has a replacement, which the message gives, and
    AttributeError for an unknown name.
    """
    if name in SAME:
        module, _, equivalent = SAME[name].partition(":")
        return getattr(importlib.import_module(module), equivalent)
    if name in REPLACEMENTS:
        raise ImportError(f"tempering: found {name}; accepted: {REPLACEMENTS[name]}")
    families = [find_family(each) for each in native_families()]
    for family in families:
        is_keras, suffix = _parts(name, family)
        found = _keras_class(family, suffix) if is_keras else _class(family, suffix)
        if found is not None:
            return found
    if PATTERN.fullmatch(name):
        names = ", ".join(family.name for family in families)
        raise ImportError(f"tempering: no class {name}; families that have classes: {names}")
    raise AttributeError(f"module 'tempering' has no attribute '{name}'")


def _parts(name: str, family: Family) -> tuple[bool, str]:
    """Whether the name starts with TF, and the suffix after the family's name.

    The suffix is "" if the name does not contain the family's name.
    """
    is_keras = name.startswith(f"TF{family.name}")
    start = f"TF{family.name}" if is_keras else family.name
    return is_keras, name.removeprefix(start) if name.startswith(start) else ""


def _class(family: Family, suffix: str) -> type | None:
    if suffix in ("Tokenizer", "TokenizerFast"):
        return Tokenizer  # one class for all families
    if suffix == "Config":
        return config_class(family.model_type)
    task = _task(family, suffix)
    return None if task is None else of_family(TASKS[task], family)


def _keras_class(family: Family, suffix: str) -> type | None:
    task = _task(family, suffix)
    return None if task is None else keras_class(task, family)


def _task(family: Family, suffix: str) -> str | None:
    """The task whose head has this suffix in transformers' class names."""
    heads = family.heads.items()
    found = (
        t for t, head in heads if head.class_suffix == suffix and (head.bare or suffix != "Model")
    )
    return next(found, None)
