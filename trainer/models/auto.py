"""The hub's names for our models: the task is the class, the family comes from config.json."""

from trainer.models.config import ModelConfig as AutoConfig
from trainer.models.heads import BaseModel as AutoModel
from trainer.models.heads import CausalLMModel as AutoModelForCausalLM
from trainer.models.heads import MaskedLMModel as AutoModelForMaskedLM
from trainer.models.heads import MultipleChoiceModel as AutoModelForMultipleChoice
from trainer.models.heads import QuestionAnsweringModel as AutoModelForQuestionAnswering
from trainer.models.heads import SequenceClassificationModel as AutoModelForSequenceClassification
from trainer.models.heads import TokenClassificationModel as AutoModelForTokenClassification
from trainer.models.pretrained import PretrainedModel

TASKS: dict[str, type[PretrainedModel]] = {
    "base": AutoModel,
    "causal_lm": AutoModelForCausalLM,
    "masked_lm": AutoModelForMaskedLM,
    "multiple_choice": AutoModelForMultipleChoice,
    "question_answering": AutoModelForQuestionAnswering,
    "sequence_classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
}
"""Task -> class; a recipe's head names its task."""

__all__ = [
    "TASKS",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]
