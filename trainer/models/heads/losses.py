"""The mean losses of the heads, and checks of their labels."""

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.config import ModelConfig
from trainer.models.heads.projection import Projection
from trainer.models.packing import Layout
from trainer.tasks.crf import crf_loss
from trainer.tasks.losses import (
    IGNORED,
    binary_cross_entropy,
    cross_entropy,
    cross_entropy_in_sequences,
    mean_squared_error,
    next_token_loss,
)


def classification_loss(logits: Tensor, labels: Tensor, config: ModelConfig) -> Tensor:
    """The mean loss of logits [B, C], of the kind given by config.problem_type.

    If it is not set, it is inferred as in transformers: one label means regression, integer labels
    mean classes, anything else is multi-label classification. Raises InputError for labels of the
    wrong shape or values.
    """
    problem = config.problem_type or infer_problem_type(labels, config.num_labels)
    if problem == "single_label_classification":
        return class_loss(logits, labels)
    _check_numbers(labels, logits)
    if problem == "regression":
        return _mean(*mean_squared_error(logits, labels.reshape(logits.shape)))
    return _mean(*binary_cross_entropy(logits, labels))


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of logits [B, C] and classes [B] or [B, 1]; -100 is ignored."""
    _check_integers("labels", labels, ((len(logits),), (len(logits), 1)))
    _check_range("labels", labels, logits.shape[1])
    return _mean(*cross_entropy(logits, labels.reshape(-1).long()))


def token_loss(
    logits: Tensor, labels: Tensor, layout: Layout, num_items: Tensor | int | None = None
) -> Tensor:
    """The mean cross-entropy over tokens: logits [T, C], labels in the shape of input_ids.

    Labels of -100 and of pads are ignored. With `num_items` the sum is divided by it, as
    transformers' Trainer does with the count of a global batch.
    """
    _check_integers("labels", labels, (layout.caller_shape,))
    _check_range("labels", labels, logits.shape[1])
    sums, counts = cross_entropy(logits, layout.pack_labels(labels).long())
    return _mean(sums, counts) if num_items is None else sums.sum() / num_items


def token_flag_loss(logits: Tensor, labels: Tensor, layout: Layout) -> Tensor:
    """The mean binary cross-entropy over tokens: logits [T], labels in the shape of input_ids.

    Labels are 0 or 1. Labels of -100 and of pads are ignored.
    """
    _check_integers("labels", labels, (layout.caller_shape,))
    _check_range("labels", labels, 2)
    packed = layout.pack_labels(labels)
    counted = packed != IGNORED
    targets = packed.masked_fill(~counted, 0).unsqueeze(1)
    sums, _ = binary_cross_entropy(logits.unsqueeze(1), targets)
    return _mean(sums * counted, counted)


def chain_loss(logits: Tensor, labels: Tensor, transitions: Tensor, layout: Layout) -> Tensor:
    """The mean negative log-likelihood of a CRF over the labeled tokens: logits [T, C].

    The labeled tokens of each sequence form a chain; labels of -100 and of pads are skipped.
    """
    _check_integers("labels", labels, (layout.caller_shape,))
    _check_range("labels", labels, logits.shape[1])
    packed = layout.pack_labels(labels).long()
    places = (packed != IGNORED).nonzero().squeeze(1)
    owner = torch.arange(layout.num_sequences).repeat_interleave(layout.lengths)
    owner = owner.to(places.device)[places]
    lengths = torch.zeros(layout.num_sequences, dtype=torch.long, device=places.device)
    lengths.index_add_(0, owner, torch.ones_like(owner))
    return _mean(*crf_loss(logits[places], packed[places], lengths, transitions))


def successor_loss(
    projection: Projection, labels: Tensor, num_items: Tensor | int | None = None
) -> Tensor:
    """The mean cross-entropy of next-token predictions; labels have the shape of input_ids.

    Labels are not shifted. Labels of -100, of pads and of each sequence's first token are ignored.
    `num_items` is as in `token_loss`.
    """
    _check_integers("labels", labels, (projection.layout.caller_shape,))
    _check_range("labels", labels, len(projection.weight))
    return _projected_loss(projection, labels, num_items)


def aligned_loss(
    projection: Projection,
    labels: Tensor,
    num_items: Tensor | int | None = None,
    name: str = "labels",
) -> Tensor:
    """The mean cross-entropy of labels that are aligned with the logits.

    Labels of -100 and of pads are ignored. `name` is the name of the labels in errors.
    """
    _check_integers(name, labels, (projection.layout.caller_shape,))
    _check_range(name, labels, len(projection.weight))
    return _projected_loss(projection, labels, num_items)


def _projected_loss(
    projection: Projection, labels: Tensor, num_items: Tensor | int | None
) -> Tensor:
    """The mean loss; the logits are not materialized, except while a graph is traced."""
    if not torch.compiler.is_compiling():
        found = next_token_loss(projection, labels)
        return _mean(found.sum, found.count if num_items is None else num_items)
    following = projection.next_tokens(labels.long(), IGNORED)
    sums, counts = cross_entropy(projection.rows(), following)
    return _mean(sums, counts if num_items is None else num_items)


def span_loss(logits: Tensor, start: Tensor, end: Tensor, layout: Layout) -> Tensor:
    """Half the mean cross-entropy of the starts plus half that of the ends: logits [T, 2].

    Positions [B] are columns of the call's input_ids, or offsets in the sequences of a flat call.
    The softmax is over a sequence's tokens, without pads (unlike in transformers). Positions that
    are -100, beyond the input (a truncated answer) or at a pad are ignored.
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
    """The problem type if the config does not set it, by transformers' rule."""
    if num_labels == 1:
        return "regression"
    integer = labels.dtype in (torch.int64, torch.int32)
    return "single_label_classification" if integer else "multi_label_classification"


def _mean(sums: Tensor, counts: Tensor | int) -> Tensor:
    return sums.sum() / (counts.sum() if isinstance(counts, Tensor) else counts)


def _check_integers(name: str, labels: Tensor, shapes: tuple[tuple[int, ...], ...]) -> None:
    integer = labels.dtype in (torch.int64, torch.int32)
    if not integer or tuple(labels.shape) not in shapes:
        raise InputError(
            f"{name}: found {labels.dtype} {tuple(labels.shape)}; "
            f"accepted: int64 or int32 {shapes[0]}"
        )


def _check_range(name: str, labels: Tensor, size: int | None) -> None:
    """Check that labels are -100 or in [0, size); values are checked only on the CPU."""
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
