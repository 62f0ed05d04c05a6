"""The public names of the toolkit, imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.models.auto import AutoConfig as AutoConfig
    from trainer.models.auto import AutoModel as AutoModel
    from trainer.models.auto import (
        AutoModelForSequenceClassification as AutoModelForSequenceClassification,
    )
    from trainer.settings import TrainSettings as TrainSettings
    from trainer.tokenizer import Tokenizer as Tokenizer

    AutoTokenizer = Tokenizer
    from trainer.trainer import Trainer as Trainer

_HOMES = {
    "AutoConfig": "trainer.models.auto",
    "AutoModel": "trainer.models.auto",
    "AutoModelForSequenceClassification": "trainer.models.auto",
    "AutoTokenizer": "trainer.tokenizer",
    "Tokenizer": "trainer.tokenizer",
    "Trainer": "trainer.trainer",
    "TrainSettings": "trainer.settings",
}
"""Public name -> the module that defines it: `import trainer` itself imports nothing heavy."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
