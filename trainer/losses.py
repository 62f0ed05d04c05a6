"""Losses as (sum, count): whoever divides does it once, over everything that a step has seen."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.errors import InputError
from trainer.loss_on_gpu import loss_on_gpu, supervised_rows
from trainer.models.packing import Layout
from trainer.models.projection import Projection

IGNORED = -100
"""The label of what is not trained on, as everywhere in the field."""


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits [B, C] and labels [B]: (sums [B], counts [B]), in at least fp32.

    A sample's loss is the cross-entropy with its smoothed target: 1 - eps of the probability for
    its class, plus eps / C for every class (Szegedy et al. 2016, "Rethinking the Inception
    Architecture", section 7). `class_weights` [C] weigh the whole of it by the sample's own class
    (Cui et al. 2019, "Class-Balanced Loss", equation 9), so that with w = class_weights[labels]
    the sum over sums divided by the sum over counts is sum(w * loss) / sum(w). Without smoothing,
    or without weights, that is `torch.nn.functional.cross_entropy` with its mean reduction; with
    both, torch weighs the eps / C of each class by that class's weight, which makes a rare and
    heavy class the most probable one for every sample. Ignored labels (-100) count nothing.
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
    """Cross-entropy whose classes are the members of a group: the tokens of a sequence, say.

    scores [T] lie group after group, group_lengths [B] (on the CPU) say how many are of each, and
    labels [B] the right one's place in its group: (sums [B], counts [B]), as `cross_entropy`.
    """
    return cross_entropy_in_sequences(scores, Layout(group_lengths, scores.device), labels)


def cross_entropy_in_sequences(
    scores: Tensor, layout: Layout, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """`grouped_cross_entropy` whose groups are the sequences of a layout that is there."""
    grid = layout.to_grid(scores)
    if layout.visible_keys is not None:
        grid = grid.masked_fill(~layout.visible_keys.view(grid.shape), -torch.inf)
    return cross_entropy(grid, labels)


@dataclass(frozen=True)
class TokenLosses:
    """The next-token losses of a flat batch of T tokens."""

    sum: Tensor
    """Scalar, in at least fp32: the loss to differentiate, once"""
    losses: Tensor
    """[T], what each token's successor adds to the sum; 0 where none is asked for; no gradient"""
    supervised: Tensor
    """[T] bool, whether the token's successor is asked for"""
    correct: Tensor
    """[T] bool, whether it is the most probable one"""

    @property
    def count(self) -> Tensor:
        """Scalar: the tokens that are asked for; sum / count is the mean loss."""
        return self.supervised.sum()

    def by_sequence(self, lengths: Tensor) -> dict[str, Tensor]:
        """`losses`, `supervised` and `correct`, added up over each of B sequences: [B] each.

        `lengths` [B] are on the CPU; a sample of several sequences adds up theirs.
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
    """Cross-entropy of every token's successor, without the logits [T, vocab_size].

    `projection` is `outputs.projection` of a causal language model, `labels` are shaped as its
    input_ids ([T] in a flat call) and are not shifted: -100 where nothing is asked. The products
    with the output weights run in the type of the hidden states, the rest in at least fp32, in
    chunks of tokens; where gradients are wanted they are computed in the same pass, so that
    `sum.backward()` only scales them. Smoothing is as in `cross_entropy`. Asked again with the very
    same labels (an evaluation wants loss and predictions), it answers again without computing.

    `host_labels`, the same [T] on the CPU, spare a GPU the rows that have no label; without them it
    computes all rows, since to count them it would have to be waited for.
    """
    known = projection.known
    if known is not None and known[0] is labels and known[1] == label_smoothing:
        return known[2]
    following = projection.next_tokens(labels.long(), IGNORED)
    hidden, weight = projection.hidden, projection.weight
    with_grad = torch.is_grad_enabled()
    wanted = with_grad and hidden.requires_grad, with_grad and weight.requires_grad
    rows = None
    if host_labels is not None and hidden.device.type == "cuda":
        rows = supervised_rows(projection.layout, host_labels)
    loss_sum, losses, correct = _ProjectedCrossEntropy.apply(
        hidden, weight, following, label_smoothing, wanted, rows
    )
    found = TokenLosses(loss_sum, losses, following != IGNORED, correct)
    projection.known = labels, label_smoothing, found
    return found


CHUNK = 1 << 25
"""Logits that exist at a time."""
IN_CACHE = 1 << 20
"""Of these, the ones that a CPU has in fp32 at a time."""
SLICE = 4096
"""Rows of the weight's gradient that are computed at a time, before they are added in fp32."""


class _ProjectedCrossEntropy(torch.autograd.Function):
    """hidden [T, D], weight [V, D], targets [T] -> (sum, each loss [T], whether each is right [T]).

    The forward pass computes the gradients that are `wanted`, the backward pass scales them in
    place: once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        wanted: tuple[bool, bool],
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if hidden.device.type == "cuda":
            found = loss_on_gpu(hidden, weight, targets, smoothing, wanted, rows)
        else:
            found = _on_cpu(hidden, weight, targets, smoothing, wanted)
        losses, correct, grad_hidden, grad_weight = found
        ctx.gradients = grad_hidden, grad_weight, weight.dtype
        ctx.mark_non_differentiable(losses, correct)
        return losses.sum(), losses, correct

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("next_token_loss: its sum was differentiated twice")
        grad_hidden, grad_weight, weight_dtype = ctx.gradients
        ctx.gradients = None
        if grad_hidden is not None:
            grad_hidden.mul_(grad)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad).to(weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _on_cpu(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Each loss [T], whether each is right [T], and the gradients that are wanted."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    narrow_weight = weight.to(hidden.dtype)
    grad_hidden = torch.zeros_like(hidden) if wanted[0] else None
    grad_weight = torch.empty_like(weight, dtype=wide) if wanted[1] else None
    losses = hidden.new_zeros(len(hidden), dtype=wide)
    correct = torch.zeros_like(targets, dtype=torch.bool)
    supervised = (targets != IGNORED).nonzero().squeeze(1)
    for number, rows in enumerate(supervised.split(max(128, CHUNK // len(weight)))):
        inputs = hidden[rows]
        losses[rows], correct[rows], grad_scores = _of_chunk(
            inputs, narrow_weight, targets[rows], smoothing, any(wanted)
        )
        if grad_hidden is not None:
            grad_hidden[rows] = grad_scores @ narrow_weight
        if grad_weight is not None:
            words = zip(grad_scores.split(SLICE, 1), grad_weight.split(SLICE), strict=True)
            for scores, gradient in words:
                (gradient.add_ if number else gradient.copy_)(scores.T @ inputs)
    if grad_weight is not None and not len(supervised):
        grad_weight.zero_()
    return losses, correct, grad_hidden, grad_weight


def _of_chunk(
    inputs: Tensor, weight: Tensor, targets: Tensor, smoothing: float, differentiate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """inputs [N, D], weight [V, D], targets [N] -> losses [N], right [N], their gradient [N, V].

    The gradient is the losses' by the logits, in the type of the inputs and in the place of the
    logits; there is none if not asked for.
    """
    wide = torch.promote_types(inputs.dtype, torch.float32)
    logits = F.linear(inputs, weight)
    losses, right = logits.new_empty(len(logits), dtype=wide), torch.empty_like(targets).bool()
    size = max(1, (IN_CACHE if logits.device.type == "cpu" else CHUNK) // len(weight))
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        scores = logits[rows].log_softmax(-1, dtype=wide)
        losses[rows] = _smoothed_losses(scores, targets[rows], smoothing)
        right[rows] = _right(scores, targets[rows])
        if differentiate:
            logits[rows] = _gradient(scores, targets[rows], smoothing)
    return losses, right, logits


def _smoothed_losses(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Log-probabilities [N, V], targets [N] -> [N]"""
    losses = -scores.gather(1, targets.unsqueeze(1)).squeeze(1)
    return losses.lerp(-scores.mean(1), smoothing) if smoothing else losses


def _right(scores: Tensor, targets: Tensor) -> Tensor:
    """[N] bool, whether a target is the first of the greatest scores [N, V], as argmax says."""
    right = scores.gather(1, targets.unsqueeze(1)).squeeze(1) == scores.amax(1)
    rows = right.nonzero().squeeze(1)
    right[rows] = scores[rows].argmax(1) == targets[rows]
    return right


def _gradient(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """That of the losses by the logits [N, V], in the place of the log-probabilities."""
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
    """Independent yes/no cross-entropies of logits [B, C] and labels [B, C]: sums [B], counts [B].

    `class_weights` [C] weigh each class's column, as the `weight` of
    `binary_cross_entropy_with_logits` does; each sample counts C entries.
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
    """Squared errors of predictions and labels, both [B] or [B, C]: sums [B], counts [B]."""
    _check_same_shape(predictions, labels)
    predictions = predictions if predictions.dtype == torch.float64 else predictions.float()
    errors = (predictions - labels.to(predictions.dtype)).square().reshape(len(predictions), -1)
    return errors.sum(-1), torch.full_like(errors[:, 0], errors.shape[1])


def _check_same_shape(outputs: Tensor, labels: Tensor) -> None:
    """Raise InputError where a head has another width than its labels: they would be broadcast."""
    if outputs.shape != labels.shape:
        raise InputError(
            f"labels: found shape {tuple(labels.shape)}; accepted: {tuple(outputs.shape)}, as the "
            "head's outputs have (a head of another width?)"
        )


def _check_classes(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> None:
    """Raise InputError where classes do not fit a head; values are looked at on the CPU only."""
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
        most = int(labels.max())
        if most >= classes:
            raise InputError(
                f"labels: found {most}; accepted: 0 to {classes - 1}, as the head has {classes} "
                "outputs"
            )
