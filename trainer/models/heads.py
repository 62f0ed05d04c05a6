"""Models for tasks: the bare one, and sequence classification."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.losses import IGNORED, binary_cross_entropy, cross_entropy, mean_squared_error
from trainer.models.config import ModelConfig
from trainer.models.dropout import Dropout
from trainer.models.encoder import ACTIVATIONS
from trainer.models.outputs import BaseModelOutput, SequenceClassifierOutput
from trainer.models.pretrained import PretrainedModel


class BaseModel(PretrainedModel):
    """The bare encoder: token vectors, and one vector for each sequence if it has a pooler."""

    task = "base"
    class_suffix = "Model"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | None = None,
        dropout_keys: Tensor | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Padded: ids and mask [B, L]. Flat: ids [T] and `sequence_lengths` [B] on the CPU."""
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        outputs = BaseModelOutput(
            last_hidden_state=encoding.last_hidden_state,
            pooler_output=None if self.body.pooler is None else encoding.encoded.pooled,
            **encoding.traces,
        )
        return outputs if return_dict else outputs.to_tuple()


class SequenceClassificationModel(PretrainedModel):
    """An encoder with one linear classifier or regressor over a vector of the whole sequence.

    Logits are [B, num_labels], before any activation: softmax (one label), sigmoid (several) or
    nothing (regression) turns them into the answer.
    """

    task = "sequence_classification"
    class_suffix = "ForSequenceClassification"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
        *,
        sequence_lengths: Tensor | None = None,
        dropout_keys: Tensor | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As the bare model's; labels are [B] of ids or numbers, or [B, num_labels]."""
        encoding = self.encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            sequence_lengths,
            dropout_keys,
            output_hidden_states,
            output_attentions,
        )
        logits = self.head(encoding.encoded.pooled, encoding.sequence_keys)
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        outputs = SequenceClassifierOutput(loss=loss, logits=logits, **encoding.traces)
        return outputs if return_dict else outputs.to_tuple()


class ClassificationHead(nn.Module):
    """(linear -> activation ->) dropout -> linear, over one vector for each sequence."""

    def __init__(
        self, hidden_size: int, num_labels: int, *, dropout: float, dense: str | None = None
    ) -> None:
        """`dense` is the activation of the first linear layer, where the family has one."""
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size) if dense else None
        self.activation = ACTIVATIONS[dense] if dense else None
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_labels)

    def forward(self, pooled: Tensor, keys: Tensor | None = None) -> Tensor:
        """pooled [B, D], dropout keys [B] -> logits [B, num_labels]."""
        if self.dense is not None and self.activation is not None:
            pooled = self.activation(self.dense(pooled))
        return self.classifier(self.dropout(pooled, keys))


def classification_loss(logits: Tensor, labels: Tensor, config: ModelConfig) -> Tensor:
    """The mean loss of logits [B, C], of the kind that config.problem_type names.

    Without one it is inferred as in transformers: one label is regression, integer labels are
    classes, others are several labels at once. Raises InputError where labels do not fit.
    """
    problem = config.problem_type or infer_problem_type(labels, config.num_labels)
    if problem == "single_label_classification":
        _check_classes(labels, logits)
        sums, counts = cross_entropy(logits, labels.reshape(-1).long())
    elif problem == "regression":
        _check_numbers(labels, logits)
        sums, counts = mean_squared_error(logits, labels.reshape(logits.shape))
    else:
        _check_numbers(labels, logits)
        sums, counts = binary_cross_entropy(logits, labels)
    return sums.sum() / counts.sum()


def infer_problem_type(labels: Tensor, num_labels: int) -> str:
    """What labels mean where the config does not say: transformers' rule."""
    if num_labels == 1:
        return "regression"
    integer = labels.dtype in (torch.int64, torch.int32)
    return "single_label_classification" if integer else "multi_label_classification"


def _check_classes(labels: Tensor, logits: Tensor) -> None:
    batch_size, num_labels = logits.shape
    integer = labels.dtype in (torch.int64, torch.int32)
    if not integer or labels.shape not in ((batch_size,), (batch_size, 1)):
        raise InputError(
            f"labels: found {labels.dtype} {tuple(labels.shape)}; "
            f"accepted: int64 or int32 ({batch_size},)"
        )
    if labels.device.type == "cpu":
        outside = labels[(labels != IGNORED) & ((labels < 0) | (labels >= num_labels))]
        if outside.numel():
            raise InputError(f"labels: found {int(outside[0])}; accepted: 0 to {num_labels - 1}")


def _check_numbers(labels: Tensor, logits: Tensor) -> None:
    shapes = [tuple(logits.shape)] + ([(len(logits),)] if logits.shape[1] == 1 else [])
    if tuple(labels.shape) not in shapes:
        accepted = " or ".join(str(shape) for shape in shapes)
        raise InputError(f"labels: found shape {tuple(labels.shape)}; accepted: {accepted}")
