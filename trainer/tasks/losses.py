"""Losses as (sum, count), so that a step divides once, by the total count of its samples.

Dimensions: B samples, C classes; T tokens of D channels, or N in a chunk; a vocabulary of V tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import InputError
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.cross_entropy import IGNORED as IGNORED
from trainer.models.blocks.softcap import cap_, slope_of
from trainer.models.heads.projection import Projection
from trainer.models.packing import Layout
from trainer.tasks.log_probs import sequence_log_probs as sequence_log_probs
from trainer.tasks.log_probs import token_log_probs as token_log_probs
from trainer.tasks.loss_on_gpu import labelled_rows, loss_on_gpu, supervised_rows


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits [B, C] and labels [B]: (sums [B], counts [B]), in at least fp32.

    With label smoothing eps, the target is a probability of 1 - eps for the sample's class, plus
    eps / C for each of the C classes (Szegedy et al. 2016, "Rethinking the Inception Architecture",
    section 7). A sample's whole loss is multiplied by the weight of its class in `class_weights`
    [C] (Cui et al. 2019, "Class-Balanced Loss", equation 9): with w = class_weights[labels], the
    total sum divided by the total count is sum(w * loss) / sum(w). Without smoothing, or without
    weights, this equals `torch.nn.functional.cross_entropy` with its mean reduction. With both,
    torch multiplies the eps / C of each class by the weight of that class, which favors rare
    classes with large weights in every sample. Ignored labels (-100) do not count.
    """
    _check_classes(logits, labels, class_weights)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    supervised = (labels != IGNORED).to(logits.dtype)
    sums = F.cross_entropy(
        logits, labels, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="none"
    )
    if class_weights is None:
        return sums, supervised
    counts = class_weights.to(logits)[labels.clamp(min=0)] * supervised
    return sums * counts, counts


def grouped_cross_entropy(
    scores: Tensor, group_lengths: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy whose classes are the members of a group, such as the tokens of a sequence.

    Scores [T] are concatenated group by group, group_lengths [B] (on the CPU) are the groups'
    sizes, and labels [B] are the index of each group's correct member. Returns (sums [B], counts
    [B]) like `cross_entropy`.
    """
    return cross_entropy_in_sequences(scores, Layout(group_lengths, scores.device), labels)


def cross_entropy_in_sequences(
    scores: Tensor, layout: Layout, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """`grouped_cross_entropy` over the sequences of an existing layout."""
    grid = layout.to_grid(scores)
    if layout.visible_keys is not None:
        grid = grid.masked_fill(~layout.visible_keys.view(grid.shape), -torch.inf)
    return cross_entropy(grid, labels)


@dataclass(frozen=True)
class TokenLosses:
    """The next-token losses of a flat batch of T tokens."""

    sum: Tensor
    """Scalar, in at least fp32: the loss, which can be differentiated once."""
    losses: Tensor
    """[T], the cross-entropy of each next token, or 0 if it has no label; without gradient."""
    supervised: Tensor
    """[T] bool, whether the next token has a label."""
    correct: Tensor
    """[T] bool, whether the next token is the most probable one."""

    @property
    def count(self) -> Tensor:
        """Scalar: the number of tokens with a label; sum / count is the mean loss."""
        return self.supervised.sum()

    def by_sequence(self, lengths: Tensor) -> dict[str, Tensor]:
        """The sums of `losses`, `supervised` and `correct` over each of B sequences: [B] each.

        `lengths` [B] are on the CPU.
        """
        sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
        sequence = sequence.to(self.losses.device, non_blocking=True)
        columns = {"losses": self.losses, "supervised": self.supervised, "correct": self.correct}
        return {
            name: self.losses.new_zeros(len(lengths)).index_add_(0, sequence, x.to(self.losses))
            for name, x in columns.items()
        }


def next_token_loss(
    projection: Projection,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    host_labels: Tensor | None = None,
) -> TokenLosses:
    """Cross-entropy of every next token, without materializing the logits [T, vocab_size].

    `projection` is `outputs.projection` of a language model. `labels` have the shape of the model's
    input_ids ([T] in a flat call) and are not shifted; -100 means no label. If `projection.shifts`
    is false, a label belongs to the token at its own position, as for masked tokens.

    Tokens are processed in chunks. The products with the output weights run in the dtype of the
    hidden states, and the rest in at least fp32. Gradients, if needed, are computed in the same
    pass, so that `sum.backward()` only scales them. Smoothing is as in `cross_entropy`. A second
    call with the same labels tensor and smoothing returns the first result, since an evaluation
    computes both the loss and the predictions from it.

    With `host_labels`, a copy of the labels on the CPU, a GPU skips the rows without a label.
    Otherwise it computes all rows, since counting labels on the GPU would synchronize.
    """
    known: tuple[Tensor, float, TokenLosses] | None = projection.last_loss
    if known is not None and known[0] is labels and known[1] == label_smoothing:
        return known[2]
    rows = None
    if host_labels is not None and projection.hidden.device.type == "cuda":
        chosen = supervised_rows if projection.shifts else labelled_rows
        rows = chosen(projection.layout, host_labels)
    following = projection.next_tokens(labels.long(), IGNORED)
    found = _losses_of(projection, following, label_smoothing, rows)
    projection.last_loss = labels, label_smoothing, found
    return found


def _losses_of(
    projection: Projection, targets: Tensor, label_smoothing: float, rows: Tensor | None
) -> TokenLosses:
    """The losses for `targets` [T], one for each token."""
    hidden, weight = _without_bias(projection)
    with_grad = torch.is_grad_enabled()
    wanted = with_grad and hidden.requires_grad, with_grad and weight.requires_grad
    loss_sum, losses, correct = _ProjectedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, label_smoothing, wanted, rows, projection.cap
    )
    supervised = targets != IGNORED
    if projection.penalty is not None:
        counts = projection.layout.to_grid(supervised.to(projection.penalty)).sum(1)
        loss_sum = loss_sum + (projection.penalty * counts).sum()
    return TokenLosses(loss_sum, losses, supervised, correct)


def _without_bias(projection: Projection) -> tuple[Tensor, Tensor]:
    """hidden [T, D'] and weight [vocab_size, D'] with the bias as an additional column.

    Zero columns pad the width to a multiple of 8, which is fastest on GPUs.
    """
    hidden, weight, bias = projection.hidden, projection.weight, projection.bias
    if bias is None:
        return hidden, weight
    zeros = -(hidden.shape[1] + 1) % 8
    ones = F.pad(hidden.new_ones(len(hidden), 1), (0, zeros))
    column = F.pad(bias.to(weight.dtype).unsqueeze(1), (0, zeros))
    return torch.cat([hidden, ones], dim=1), torch.cat([weight, column], dim=1)


CHUNK = 1 << 25
"""The maximum number of logits in memory at a time, unless 128 tokens have more."""
IN_CACHE = 1 << 20
"""The maximum number of logits that a CPU holds in fp32 at a time."""
SLICE = 4096
"""The number of rows of the weight's gradient that are computed and accumulated at a time."""


class _ProjectedCrossEntropy(torch.autograd.Function):
    """The loss (sum, losses [T], correct [T]) of hidden [T, D], weight [V, D] and targets [T].

    The forward pass computes the `wanted` gradients. The backward pass scales them in place, so it
    can run only once.
    """

    @staticmethod
    def forward(
        ctx: AutogradContext,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        wanted: tuple[bool, bool],
        rows: Tensor | None,
        cap: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if hidden.device.type == "cuda":
            found = loss_on_gpu(hidden, weight, targets, smoothing, wanted, rows, cap)
        else:
            found = _on_cpu(hidden, weight, targets, smoothing, wanted, cap)
        losses, correct, grad_hidden, grad_weight = found
        ctx.gradients = grad_hidden, grad_weight, weight.dtype
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    def backward(ctx: AutogradContext, grad: Tensor, *_: object) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("next_token_loss: its sum was differentiated twice")
        grad_hidden, grad_weight, weight_dtype = ctx.gradients
        ctx.gradients = None
        if grad_hidden is not None:
            grad_hidden.mul_(grad)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad).to(weight_dtype)
        return grad_hidden, grad_weight, *(None,) * 5


def _on_cpu(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    wanted: tuple[bool, bool],
    cap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Losses [T], correct [T], and the gradients of hidden and weight; None for unwanted ones."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    narrow_weight = weight.to(hidden.dtype)
    grad_hidden = torch.zeros_like(hidden) if wanted[0] else None
    grad_weight = torch.empty_like(weight, dtype=wide) if wanted[1] else None
    losses = hidden.new_zeros(len(hidden), dtype=wide)
    correct = torch.zeros_like(targets, dtype=torch.bool)
    supervised = (targets != IGNORED).nonzero().squeeze(1)
    for number, rows in enumerate(torch.split(supervised, max(128, CHUNK // len(weight)))):
        inputs = hidden[rows]
        losses[rows], correct[rows], grad_scores = _of_chunk(
            inputs, narrow_weight, targets[rows], smoothing, any(wanted), cap
        )
        if grad_hidden is not None:
            grad_hidden[rows] = grad_scores @ narrow_weight
        if grad_weight is not None:
            slices = torch.split(grad_scores, SLICE, 1), torch.split(grad_weight, SLICE)
            for scores, gradient in zip(*slices, strict=True):
                (gradient.add_ if number else gradient.copy_)(scores.T @ inputs)
    if grad_weight is not None and not len(supervised):
        grad_weight.zero_()
    return losses, correct, grad_hidden, grad_weight


def _of_chunk(
    inputs: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    differentiate: bool,
    cap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [N], correct [N] and the gradient [N, V], from inputs [N, D] and weight [V, D].

    The gradient of the losses with respect to the logits (before the cap) has the dtype of the
    inputs and overwrites the logits. Without `differentiate` the third result is undefined.
    """
    wide = torch.promote_types(inputs.dtype, torch.float32)
    logits = cap_(F.linear(inputs, weight), cap)
    losses, right = logits.new_empty(len(logits), dtype=wide), torch.empty_like(targets).bool()
    size = max(1, (IN_CACHE if logits.device.type == "cpu" else CHUNK) // len(weight))
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        scores = logits[rows].log_softmax(-1, dtype=wide)
        losses[rows] = _smoothed_losses(scores, targets[rows], smoothing)
        right[rows] = _right(scores, targets[rows])
        if differentiate:
            slope = None if cap is None else slope_of(logits[rows], cap)
            gradient = _gradient(scores, targets[rows], smoothing)
            logits[rows] = gradient if slope is None else gradient * slope
    return losses, right, logits


def _smoothed_losses(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """[N], the smoothed losses from log-probabilities [N, V] and targets [N]."""
    losses = -scores.gather(1, targets.unsqueeze(1)).squeeze(1)
    return losses.lerp(-scores.mean(1), smoothing) if smoothing else losses


def _right(scores: Tensor, targets: Tensor) -> Tensor:
    """[N] bool, whether a target is the argmax of its scores [N, V]."""
    right = scores.gather(1, targets.unsqueeze(1)).squeeze(1) == scores.amax(1)
    rows = right.nonzero().squeeze(1)
    right[rows] = scores[rows].argmax(1) == targets[rows]
    return right


def _gradient(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The gradient of the losses with respect to the logits [N, V]; overwrites `scores`."""
    gradient = scores.exp_()
    if smoothing:
        gradient -= smoothing / gradient.shape[1]
    ones = gradient.new_full((len(targets), 1), smoothing - 1)
    return gradient.scatter_add_(1, targets.unsqueeze(1), ones)


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Independent binary cross-entropies of logits [B, C] and labels [B, C]: sums [B], counts [B].

    `class_weights` [C] multiply the columns of the classes, like `weight` in torch's
    `binary_cross_entropy_with_logits`. The count of every sample is C.
    """
    _check_same_shape(logits, labels)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(
        logits,
        targets,
        weight=None if class_weights is None else class_weights.to(logits),
        reduction="none",
    )
    return losses.sum(-1), torch.full_like(losses[:, 0], losses.shape[1])


def mean_squared_error(predictions: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors between predictions and labels, both [B] or [B, C]: sums [B], counts [B]."""
    _check_same_shape(predictions, labels)
    predictions = predictions if predictions.dtype == torch.float64 else predictions.float()
    errors = (predictions - labels.to(predictions.dtype)).square().reshape(len(predictions), -1)
    return errors.sum(-1), torch.full_like(errors[:, 0], errors.shape[1])


def _check_same_shape(outputs: Tensor, labels: Tensor) -> None:
    """Raise InputError if outputs and labels differ in shape; torch would broadcast them."""
    if outputs.shape != labels.shape:
        raise InputError(
            f"labels: found shape {tuple(labels.shape)}; accepted: {tuple(outputs.shape)}, as the "
            "head's outputs have (does the head have a different width?)"
        )


def _check_classes(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> None:
    """Raise InputError for a wrong shape or, on the CPU, a label that is no class of the head."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            f"labels: found shape {tuple(labels.shape)} for logits {tuple(logits.shape)}; "
            "accepted: [B] for [B, classes]"
        )
    classes = logits.shape[1]
    if class_weights is not None and class_weights.shape != (classes,):
        found = tuple(class_weights.shape)
        raise InputError(f"class_weights: found shape {found}; accepted: ({classes},)")
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
        wrong = labels[(labels >= classes) | ((labels < 0) & (labels != IGNORED))]
        if len(wrong):
            raise InputError(
                f"labels: found {int(wrong[0])}; accepted: 0 to {classes - 1}, as the head has "
                f"{classes} outputs, and {IGNORED} for no label"
            )
