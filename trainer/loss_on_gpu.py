"""The next-token loss on a GPU: chunks of thousands of rows, few kernels, and no wait.

T tokens, D channels, V words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.cross_entropy import IGNORED, cross_entropy_
from trainer.models.packing import Layout, sent
from trainer.models.products import add_product_, wide_product

CHUNK = 1 << 28
"""Logits that exist at a time, unless these are fewer rows than"""
ROWS = 2048
"""that keep a GPU's matrix products busy."""
WORTH_SELECTING = 0.9
"""From this share of supervised rows on, the others are computed too: nothing is gathered."""


def supervised_rows(layout: Layout, host_labels: Tensor) -> Tensor | None:
    """The rows whose successors have a label, on the device; None: (nearly) all.

    `host_labels` [T] of a flat call lie on the CPU, where counting them waits for nothing.
    """
    following = host_labels.roll(-1)
    following[layout.lengths.cumsum(0) - 1] = IGNORED
    rows = (following != IGNORED).nonzero().squeeze(1)
    if len(rows) >= WORTH_SELECTING * len(following):
        return None
    return sent(rows, layout.device)


def loss_on_gpu(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    wanted: tuple[bool, bool],
    rows: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """hidden [T, D], weight [V, D], targets [T] -> losses [T], right [T], and two gradients.

    These are the loss sum's by hidden and by weight, if `wanted`; the weight's is added up in at
    least fp32, from operands in the type of the hidden states.
    """
    inputs, goals = hidden, targets
    if rows is not None:
        inputs, goals = hidden.index_select(0, rows), targets.index_select(0, rows)
    with torch.autocast(hidden.device.type, enabled=False):
        losses, right, grad_inputs, grad_weight = _chunks(inputs, weight, goals, smoothing, wanted)
    if rows is None:
        return losses, right, grad_inputs, grad_weight
    all_losses = losses.new_zeros(len(hidden)).index_copy_(0, rows, losses)
    all_right = right.new_zeros(len(hidden)).index_copy_(0, rows, right)
    if grad_inputs is not None:
        grad_inputs = torch.zeros_like(hidden).index_copy_(0, rows, grad_inputs)
    return all_losses, all_right, grad_inputs, grad_weight


def _chunks(
    inputs: Tensor, weight: Tensor, goals: Tensor, smoothing: float, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    narrow = weight.to(inputs.dtype)
    wide = torch.promote_types(inputs.dtype, torch.float32)
    grad_inputs = torch.empty_like(inputs) if wanted[0] else None
    grad_weight = None
    losses = [inputs.new_empty(0, dtype=wide)]
    right = [inputs.new_empty(0, dtype=torch.bool)]
    size = max(ROWS, CHUNK // len(weight))
    for start in range(0, len(inputs), size):
        here = slice(start, start + size)
        logits = F.linear(inputs[here], narrow)
        found = cross_entropy_(logits, goals[here], smoothing, any(wanted))
        losses.append(found[0])
        right.append(found[1])
        if grad_inputs is not None:  # the logits are their own gradient now
            torch.mm(logits, narrow, out=grad_inputs[here])
        if wanted[1] and grad_weight is None:
            grad_weight = wide_product(logits.T, inputs[here])
        elif grad_weight is not None:
            add_product_(grad_weight, logits.T, inputs[here])
    if wanted[1] and grad_weight is None:
        grad_weight = torch.zeros_like(weight, dtype=wide)
    return torch.cat(losses), torch.cat(right), grad_inputs, grad_weight
