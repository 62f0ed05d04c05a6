"""The heads' losses as means, and what their labels must be like."""

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.losses import (
    IGNORED,
    binary_cross_entropy,
    cross_entropy,
    cross_entropy_in_sequences,
    mean_squared_error,
    next_token_loss,
)
from trainer.models.config import ModelConfig
from trainer.models.packing import Layout
from trainer.models.projection import Projection


def classification_loss(logits: Tensor, labels: Tensor, config: ModelConfig) -> Tensor:
    """The mean loss of logits [B, C], of the kind that config.problem_type names.

    Without one it is inferred as in transformers: one label is regression, integer labels are
    classes, others are several labels at once. Raises InputError where labels do not fit.
    """
    problem = config.problem_type or infer_problem_type(labels, config.num_labels)
    if problem == "single_label_classification":
        return class_loss(logits, labels)
    _check_numbers(labels, logits)
    if problem == "regression":
        return _mean(*mean_squared_error(logits, labels.reshape(logits.shape)))
    return _mean(*binary_cross_entropy(logits, labels))


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of logits [B, C] and classes [B] or [B, 1]; -100 counts nothing."""
    _check_integers("labels", labels, ((len(logits),), (len(logits), 1)))
    _check_range("labels", labels, logits.shape[1])
    return _mean(*cross_entropy(logits, labels.reshape(-1).long()))


def token_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The mean cross-entropy over tokens: logits [T, C], labels shaped as the call's input_ids.

    A label of -100 counts nothing, and neither does that of a pad.
    """
    _check_integers("labels", labels, (layout.caller_shape,))
    _check_range("labels", labels, logits.shape[1])
    return _mean(*cross_entropy(logits, layout.pack(labels).long()))


def successor_loss(projection: Projection, labels: Tensor) -> Tensor:
    """The mean cross-entropy of every token's successor; labels shaped as the call's input_ids.

    They are not shifted. Labels of -100, of pads and of a sequence's first token count nothing.
    """
    _check_integers("labels", labels, (projection.layout.caller_shape,))
    _check_range("labels", labels, len(projection.weight))
    found = next_token_loss(projection, labels)
    return _mean(found.sum, found.count)


def span_loss(logits: Tensor, start: Tensor, end: Tensor, layout: Layout) -> Tensor:
    """Half the mean cross-entropy of the starts plus half that of the ends: logits [T, 2].

    Positions [B] are columns of the call's input_ids, or places in the sequences of a flat call.
    The softmax is over a sequence's tokens: pads take no part (they do in transformers). A position
    of -100, beyond the input (as of an answer that was cut off) or of a pad counts nothing.
    """
    batch_size = layout.num_sequences
    named = {"start_positions": start, "end_positions": end}
    losses = []
    for scores, (name, columns) in zip(logits.unbind(-1), named.items(), strict=True):
        _check_integers(name, columns, ((batch_size,), (batch_size, 1)))
        _check_range(name, columns, None)
        places = layout.places(columns.reshape(-1).long(), elsewhere=IGNORED)
        losses.append(_mean(*cross_entropy_in_sequences(scores, layout, places)))
    return (losses[0] + losses[1]) / 2


def infer_problem_type(labels: Tensor, num_labels: int) -> str:
    """What labels mean where the config does not say: transformers' rule."""
    if num_labels == 1:
        return "regression"
    integer = labels.dtype in (torch.int64, torch.int32)
    return "single_label_classification" if integer else "multi_label_classification"


def _mean(sums: Tensor, counts: Tensor) -> Tensor:
    return sums.sum() / counts.sum()


def _check_integers(name: str, labels: Tensor, shapes: tuple[tuple[int, ...], ...]) -> None:
    integer = labels.dtype in (torch.int64, torch.int32)
    if not integer or tuple(labels.shape) not in shapes:
        raise InputError(
            f"{name}: found {labels.dtype} {tuple(labels.shape)}; "
            f"accepted: int64 or int32 {shapes[0]}"
        )


def _check_range(name: str, labels: Tensor, size: int | None) -> None:
    """Labels are -100, or from 0 to below `size`; values are looked at on the CPU only."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    beyond = torch.zeros_like(labels, dtype=torch.bool) if size is None else labels >= size
    outside = labels[(labels != IGNORED) & (beyond | (labels < 0))]
    if outside.numel():
        accepted = "0 or more" if size is None else f"0 to {size - 1}"
        raise InputError(f"{name}: found {int(outside[0])}; accepted: {accepted}, or {IGNORED}")


def _check_numbers(labels: Tensor, logits: Tensor) -> None:
    shapes = [tuple(logits.shape)] + ([(len(logits),)] if logits.shape[1] == 1 else [])
    if tuple(labels.shape) not in shapes:
        accepted = " or ".join(str(shape) for shape in shapes)
        raise InputError(f"labels: found shape {tuple(labels.shape)}; accepted: {accepted}")
