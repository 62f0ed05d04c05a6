"""The public names of the toolkit, imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

from trainer.local_copies import name_urls_in_logs

if TYPE_CHECKING:
    from trainer.generation.settings import GenerationSettings as GenerationSettings
    from trainer.generation.text import generate as generate
    from trainer.interop.tensorflow import TFAutoModel as TFAutoModel
    from trainer.interop.tensorflow import TFAutoModelForMaskedLM as TFAutoModelForMaskedLM
    from trainer.interop.tensorflow import (
        TFAutoModelForMultipleChoice as TFAutoModelForMultipleChoice,
    )
    from trainer.interop.tensorflow import (
        TFAutoModelForQuestionAnswering as TFAutoModelForQuestionAnswering,
    )
    from trainer.interop.tensorflow import (
        TFAutoModelForSequenceClassification as TFAutoModelForSequenceClassification,
    )
    from trainer.interop.tensorflow import (
        TFAutoModelForTokenClassification as TFAutoModelForTokenClassification,
    )
    from trainer.models.adapters.lora_settings import LoRASettings as LoRASettings
    from trainer.models.auto import AutoConfig as AutoConfig
    from trainer.models.auto import AutoModel as AutoModel
    from trainer.models.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from trainer.models.auto import AutoModelForMaskedLM as AutoModelForMaskedLM
    from trainer.models.auto import AutoModelForMultipleChoice as AutoModelForMultipleChoice
    from trainer.models.auto import AutoModelForPreTraining as AutoModelForPreTraining
    from trainer.models.auto import AutoModelForQuestionAnswering as AutoModelForQuestionAnswering
    from trainer.models.auto import AutoModelForSeq2SeqLM as AutoModelForSeq2SeqLM
    from trainer.models.auto import (
        AutoModelForSequenceClassification as AutoModelForSequenceClassification,
    )
    from trainer.models.auto import (
        AutoModelForTokenClassification as AutoModelForTokenClassification,
    )
    from trainer.pipelines import pipeline as pipeline
    from trainer.registry import trust as trust
    from trainer.settings import TrainSettings as TrainSettings
    from trainer.tokenizer import Tokenizer as Tokenizer

    AutoTokenizer = Tokenizer
    from trainer.trainer import Trainer as Trainer

name_urls_in_logs()

_HOMES = {
    "AutoConfig": "trainer.models.auto",
    "AutoModel": "trainer.models.auto",
    "AutoModelForCausalLM": "trainer.models.auto",
    "AutoModelForMaskedLM": "trainer.models.auto",
    "AutoModelForMultipleChoice": "trainer.models.auto",
    "AutoModelForPreTraining": "trainer.models.auto",
    "AutoModelForQuestionAnswering": "trainer.models.auto",
    "AutoModelForSeq2SeqLM": "trainer.models.auto",
    "AutoModelForSequenceClassification": "trainer.models.auto",
    "AutoModelForTokenClassification": "trainer.models.auto",
    "AutoTokenizer": "trainer.tokenizer:Tokenizer",
    "GenerationSettings": "trainer.generation.settings",
    "LoRASettings": "trainer.models.adapters.lora_settings",
    "TFAutoModel": "trainer.interop.tensorflow",
    "TFAutoModelForMaskedLM": "trainer.interop.tensorflow",
    "TFAutoModelForMultipleChoice": "trainer.interop.tensorflow",
    "TFAutoModelForQuestionAnswering": "trainer.interop.tensorflow",
    "TFAutoModelForSequenceClassification": "trainer.interop.tensorflow",
    "TFAutoModelForTokenClassification": "trainer.interop.tensorflow",
    "Tokenizer": "trainer.tokenizer",
    "Trainer": "trainer.trainer",
    "TrainSettings": "trainer.settings",
    "generate": "trainer.generation.text",
    "pipeline": "trainer.pipelines",
    "trust": "trainer.registry",
}
"""Public name -> the module that defines it, followed by `:name` if the module uses another name.
Each module is imported when one of its names is first used, since many of them import torch."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(importlib.import_module(module), attribute or name)
    if name[:1].isupper():
        from trainer.interop import class_names

        return class_names.find(name)
    raise AttributeError(f"module 'trainer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
