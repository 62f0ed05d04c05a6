"""The heads' losses in TensorFlow: one number for each example, as transformers' Keras models."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trainer.losses import IGNORED
from trainer.models.config import ModelConfig


def classification_losses(logits: Any, labels: Any, config: ModelConfig) -> Any:
    """Losses [B] of logits [B, C], of the kind that config.problem_type names.

    Without one it is inferred as in torch, by `problem_type`.
    """
    problem = problem_type(labels, config)
    if problem == "single_label_classification":
        return class_losses(logits, labels)
    labels = ops.cast(ops.reshape(labels, ops.shape(logits)), logits.dtype)
    if problem == "regression":
        return ops.mean(ops.square(logits - labels), axis=-1)
    return keras.losses.binary_crossentropy(labels, logits, from_logits=True)


def problem_type(labels: Any, config: ModelConfig) -> str:
    """What labels mean: as the config says, or one label is regression, integers are classes.

    Others are several labels at once.
    """
    if config.problem_type:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    integer = labels.dtype in (tf.int64, tf.int32)
    return "single_label_classification" if integer else "multi_label_classification"


def class_losses(logits: Any, labels: Any) -> Any:
    """Cross-entropies [B] of logits [B, C] and classes [B] or [B, 1]; zero for a label of -100."""
    losses, _ = _cross_entropies(logits, ops.reshape(labels, (-1,)))
    return losses


def token_losses(logits: Any, labels: Any, visible: Any) -> Any:
    """The mean cross-entropy over the labelled tokens of the batch, as a tensor [1].

    Logits [B, L, C], labels [B, L]; a label of -100 counts nothing, and neither does a pad's.
    """
    labels = ops.where(visible, labels, ops.cast(IGNORED, labels.dtype))
    losses, counted = _cross_entropies(logits, labels)
    return ops.reshape(ops.sum(losses) / ops.sum(counted), (1,))


def span_losses(logits: Any, start: Any, end: Any, visible: Any) -> Any:
    """Half the cross-entropies of the starts plus half those of the ends, [B]: logits [B, L, 2].

    Pads take no part in the softmax. A position [B] of -100, beyond the input or of a pad counts
    nothing.
    """
    scores = ops.where(visible[..., None], logits, logits.dtype.min)
    losses = []
    for number, columns in enumerate((start, end)):
        places = _visible_or_ignored(ops.reshape(columns, (-1,)), visible)
        losses.append(_cross_entropies(scores[..., number], places)[0])
    return (losses[0] + losses[1]) / 2


def _cross_entropies(logits: Any, labels: Any) -> tuple[Any, Any]:
    """(cross-entropies, zero where the label is -100; ones where it is not), both as labels."""
    counted = ops.cast(labels != IGNORED, logits.dtype)
    losses = keras.losses.sparse_categorical_crossentropy(
        ops.maximum(labels, 0), logits, from_logits=True
    )
    return losses * counted, counted


def _visible_or_ignored(columns: Any, visible: Any) -> Any:
    """Columns [B], -100 in the place of those that are no visible token of their row."""
    length = ops.cast(ops.shape(visible)[1], columns.dtype)
    inside = (columns >= 0) & (columns < length)
    column = ops.clip(columns, 0, length - 1)
    seen = ops.take_along_axis(visible, column[:, None], axis=1)[:, 0]
    return ops.where(inside & seen, columns, ops.cast(IGNORED, columns.dtype))
