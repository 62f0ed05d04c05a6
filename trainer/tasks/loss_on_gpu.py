"""The next-token loss on a GPU: chunks of thousands of rows, few kernels, no synchronization.

A row is the hidden state or the logits of a token. Dimensions: T tokens, D channels, a vocabulary
of V tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.blocks.cross_entropy import IGNORED, cross_entropy_
from trainer.models.blocks.products import add_product_, wide_product
from trainer.models.blocks.softcap import cap_, slope_of
from trainer.models.packing import Layout, to_device

CHUNK = 1 << 28
"""The maximum number of logits in memory at a time, unless ROWS requires more."""
ROWS = 2048
"""The minimum number of rows in a chunk, so that a GPU's matrix products are efficient."""
MAX_SELECTED_SHARE = 0.9
"""If more than this share of the rows has a label, all rows are computed instead of a selection."""


def supervised_rows(layout: Layout, host_labels: Tensor) -> Tensor | None:
    """The rows whose next tokens have a label, on the device; None if (nearly) all have one.

    `host_labels` [T] are on the CPU, so that counting them does not wait for the device.
    """
    return labelled_rows(layout, labels_of_successors(layout, host_labels))


def labels_of_successors(layout: Layout, labels: Tensor) -> Tensor:
    """[T], the label of each token's next token, on the CPU; IGNORED at the end of a sequence."""
    following = labels.roll(-1)
    following[layout.lengths.cumsum(0) - 1] = IGNORED
    return following


def labelled_rows(layout: Layout, host_labels: Tensor) -> Tensor | None:
    """The rows whose own token has a label, on the device; None if (nearly) all have one."""
    rows = (host_labels != IGNORED).nonzero().squeeze(1)
    if len(rows) >= MAX_SELECTED_SHARE * len(host_labels):
        return None
    return to_device(rows, layout.device)


def loss_on_gpu(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    wanted: tuple[bool, bool],
    rows: Tensor | None,
    cap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Compute losses [T], whether predictions are right [T], and two gradients.

    The arguments are hidden [T, D], weight [V, D] and targets [T]. The gradients are those of the
    loss sum with respect to hidden and to weight; `wanted` says which of the two to compute. The
    weight's gradient is accumulated in at least fp32, from operands in the dtype of the hidden
    states. With `cap`, logits x become cap * tanh(x / cap).
    """
    inputs, labels_of_rows = hidden, targets
    if rows is not None:
        inputs, labels_of_rows = hidden.index_select(0, rows), targets.index_select(0, rows)
    with torch.autocast(hidden.device.type, enabled=False):
        losses, right, grad_inputs, grad_weight = _chunks(
            inputs, weight, labels_of_rows, smoothing, wanted, cap
        )
    if rows is None:
        return losses, right, grad_inputs, grad_weight
    all_losses = losses.new_zeros(len(hidden)).index_copy_(0, rows, losses)
    all_right = right.new_zeros(len(hidden)).index_copy_(0, rows, right)
    if grad_inputs is not None:
        grad_inputs = torch.zeros_like(hidden).index_copy_(0, rows, grad_inputs)
    return all_losses, all_right, grad_inputs, grad_weight


def _chunks(
    inputs: Tensor,
    weight: Tensor,
    labels_of_rows: Tensor,
    smoothing: float,
    wanted: tuple[bool, bool],
    cap: float | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    narrow = weight.to(inputs.dtype)
    wide = torch.promote_types(inputs.dtype, torch.float32)
    grad_inputs = torch.empty_like(inputs) if wanted[0] else None
    grad_weight = None
    losses = [inputs.new_empty(0, dtype=wide)]
    right = [inputs.new_empty(0, dtype=torch.bool)]
    size = max(ROWS, CHUNK // len(weight))
    for start in range(0, len(inputs), size):
        chunk = slice(start, start + size)
        logits = cap_(F.linear(inputs[chunk], narrow), cap)
        slope = slope_of(logits, cap) if cap is not None and any(wanted) else None
        found = cross_entropy_(logits, labels_of_rows[chunk], smoothing, any(wanted))
        losses.append(found[0])
        right.append(found[1])
        if slope is not None:
            logits.mul_(slope)
        if grad_inputs is not None:  # the tensor of logits now holds their gradient
            torch.mm(logits, narrow, out=grad_inputs[chunk])
        if wanted[1] and grad_weight is None:
            grad_weight = wide_product(logits.T, inputs[chunk])
        elif grad_weight is not None:
            add_product_(grad_weight, logits.T, inputs[chunk])
    if wanted[1] and grad_weight is None:
        grad_weight = torch.zeros_like(weight, dtype=wide)
    return torch.cat(losses), torch.cat(right), grad_inputs, grad_weight
