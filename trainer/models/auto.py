"""The hub's names for our models: the task is the class, the family comes from config.json."""

from trainer.models.config import ModelConfig as AutoConfig
from trainer.models.heads import BaseModel as AutoModel
from trainer.models.heads import SequenceClassificationModel as AutoModelForSequenceClassification
from trainer.models.pretrained import PretrainedModel

TASKS: dict[str, type[PretrainedModel]] = {
    "base": AutoModel,
    "sequence_classification": AutoModelForSequenceClassification,
}
"""Task -> class; a recipe's head names its task."""

__all__ = ["TASKS", "AutoConfig", "AutoModel", "AutoModelForSequenceClassification"]
