"""AutoModel classes for this package's models: the class sets the task, config.json the family."""

from collections.abc import Iterator, Mapping
from typing import cast

from trainer.models.config import ModelConfig as AutoConfig
from trainer.models.family import find_heads
from trainer.models.heads.bare import BaseModel as AutoModel
from trainer.models.heads.causal_lm import CausalLMModel as AutoModelForCausalLM
from trainer.models.heads.masked_lm import MaskedLMModel as AutoModelForMaskedLM
from trainer.models.heads.multiple_choice import MultipleChoiceModel as AutoModelForMultipleChoice
from trainer.models.heads.question_answering import (
    QuestionAnsweringModel as AutoModelForQuestionAnswering,
)
from trainer.models.heads.replaced_token_detection import (
    ReplacedTokenDetectionModel as AutoModelForPreTraining,
)
from trainer.models.heads.sentence_embedding import (
    SentenceEmbeddingModel as AutoModelForSentenceEmbedding,
)
from trainer.models.heads.seq2seq_lm import Seq2SeqLMModel as AutoModelForSeq2SeqLM
from trainer.models.heads.sequence_classification import (
    SequenceClassificationModel as AutoModelForSequenceClassification,
)
from trainer.models.heads.token_classification import (
    TokenClassificationModel as AutoModelForTokenClassification,
)
from trainer.models.pretrained import PretrainedModel


class _Tasks(Mapping[str, type[PretrainedModel]]):
    """Looks up the heads at each access, since more packages may become trusted."""

    def __getitem__(self, task: str) -> type[PretrainedModel]:
        return cast(type[PretrainedModel], find_heads()[task])

    def __iter__(self) -> Iterator[str]:
        return iter(find_heads())

    def __len__(self) -> int:
        return len(find_heads())


TASKS: Mapping[str, type[PretrainedModel]] = _Tasks()
"""Task -> the class of its models. A recipe's `head` is one of these tasks."""

__all__ = [
    "TASKS",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSentenceEmbedding",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]
