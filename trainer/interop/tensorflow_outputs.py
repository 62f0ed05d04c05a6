"""The outputs of the Keras models, in classes that have the same names as in transformers."""

from trainer.models.heads import (
    bare,
    masked_lm,
    multiple_choice,
    question_answering,
    sequence_classification,
    token_classification,
)


class TFBaseModelOutput(bare.BaseModelOutput):
    """Outputs of an encoder without a head."""


class TFMaskedLMOutput(masked_lm.MaskedLMOutput):
    """Outputs of masked language modeling."""


class TFMultipleChoiceModelOutput(multiple_choice.MultipleChoiceModelOutput):
    """Outputs of multiple choice."""


class TFQuestionAnsweringModelOutput(question_answering.QuestionAnsweringModelOutput):
    """Outputs of question answering."""


class TFSequenceClassifierOutput(sequence_classification.SequenceClassifierOutput):
    """Outputs of sequence classification."""


class TFTokenClassifierOutput(token_classification.TokenClassifierOutput):
    """Outputs of token classification."""
