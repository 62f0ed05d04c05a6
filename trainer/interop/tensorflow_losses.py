"""The losses of the heads in TensorFlow, with the same shapes as in transformers' Keras models.

Dimensions: B examples of L tokens, C labels.
"""

import keras
import tensorflow as tf
from keras import ops

from trainer.interop.tensorflow_types import TfTensor
from trainer.models.config import ModelConfig
from trainer.tasks.losses import IGNORED


def classification_losses(logits: TfTensor, labels: TfTensor, config: ModelConfig) -> TfTensor:
    """The losses [B] of logits [B, C]; `problem_type` selects the kind of loss."""
    problem = problem_type(labels, config)
    if problem == "single_label_classification":
        return class_losses(logits, labels)
    labels = ops.cast(ops.reshape(labels, ops.shape(logits)), logits.dtype)
    if problem == "regression":
        return ops.mean(ops.square(logits - labels), axis=-1)
    return keras.losses.binary_crossentropy(labels, logits, from_logits=True)


def problem_type(labels: TfTensor, config: ModelConfig) -> str:
    """The problem type from the config or, if it is not set there, inferred from the labels.

    As in the PyTorch models, the type is regression if num_labels is 1, classification if the
    labels are integers, and multi-label classification otherwise.
    """
    if config.problem_type:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    integer = labels.dtype in (tf.int64, tf.int32)
    return "single_label_classification" if integer else "multi_label_classification"


def class_losses(logits: TfTensor, labels: TfTensor) -> TfTensor:
    """The cross-entropies [B] of logits [B, C] and labels [B] or [B, 1]; 0 for a label of -100."""
    losses, _ = _cross_entropies(logits, ops.reshape(labels, (-1,)))
    return losses


def token_losses(logits: TfTensor, labels: TfTensor, visible: TfTensor) -> TfTensor:
    """The mean cross-entropy of the labeled tokens in the batch, as a tensor [1].

    Logits are [B, L, C], and labels are [B, L]. Labels that are -100 or belong to pads are ignored.
    """
    labels = ops.where(visible, labels, ops.cast(IGNORED, labels.dtype))
    losses, counted = _cross_entropies(logits, labels)
    return ops.reshape(ops.sum(losses) / ops.sum(counted), (1,))


def span_losses(logits: TfTensor, start: TfTensor, end: TfTensor, visible: TfTensor) -> TfTensor:
    """The means [B] of the cross-entropies of the start and of the end of each answer.

    Logits are [B, L, 2]. The softmax excludes pads. Positions [B] that are -100, beyond the input
    or at a pad are ignored.
    """
    scores = ops.where(visible[..., None], logits, logits.dtype.min)
    losses = []
    for number, columns in enumerate((start, end)):
        positions = _visible_or_ignored(ops.reshape(columns, (-1,)), visible)
        losses.append(_cross_entropies(scores[..., number], positions)[0])
    return (losses[0] + losses[1]) / 2


def _cross_entropies(logits: TfTensor, labels: TfTensor) -> tuple[TfTensor, TfTensor]:
    """The cross-entropies, and the mask of counted labels; both have the shape of the labels.

    Labels of -100 are not counted, and their cross-entropies are 0.
    """
    counted = ops.cast(labels != IGNORED, logits.dtype)
    losses = keras.losses.sparse_categorical_crossentropy(
        ops.maximum(labels, 0), logits, from_logits=True
    )
    return losses * counted, counted


def _visible_or_ignored(columns: TfTensor, visible: TfTensor) -> TfTensor:
    """Replace positions [B] by -100 unless the example has a visible token there."""
    length = ops.cast(ops.shape(visible)[1], columns.dtype)
    inside = (columns >= 0) & (columns < length)
    column = ops.clip(columns, 0, length - 1)
    seen = ops.take_along_axis(visible, column[:, None], axis=1)[:, 0]
    return ops.where(inside & seen, columns, ops.cast(IGNORED, columns.dtype))
