"""Cross-entropy of rows of logits on a GPU; the gradients overwrite the logits.

Dimensions: N rows, a vocabulary of V tokens.
"""

from functools import lru_cache

import torch
from torch import Tensor

from trainer.models.attention.triton_device import triton_runs_on
from trainer.models.blocks.trials import passes

IGNORED = -100
BLOCK = 4096


def cross_entropy_(
    logits: Tensor, targets: Tensor, smoothing: float, differentiate: bool
) -> tuple[Tensor, Tensor]:
    """logits [N, V], targets [N] -> losses fp32 [N], and whether each target has the best score.

    With `differentiate`, the gradients of the losses overwrite the logits. A target of -100 has
    no loss and no gradient. A target outside the vocabulary gives a loss of NaN or a CUDA error.
    Of equal scores, the first is the best. The host does not wait for the device.
    """
    if fits_kernel(logits.device, logits.dtype):
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        right = torch.empty(len(logits), dtype=torch.uint8, device=logits.device)
        _kernel(logits, losses, right, targets, smoothing, differentiate)
        return losses, right.bool()
    return plain_cross_entropy_(logits, targets, smoothing, differentiate)


def plain_cross_entropy_(
    logits: Tensor, targets: Tensor, smoothing: float, differentiate: bool
) -> tuple[Tensor, Tensor]:
    """`cross_entropy_` with torch's functions, as a reference for the kernel."""
    counts = targets != IGNORED
    indices = (targets * counts).unsqueeze(1)
    scores = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    losses = -scores.gather(1, indices).squeeze(1)
    if smoothing:
        losses = losses.lerp(-scores.mean(1), smoothing)
    right = scores.argmax(1) == targets
    if differentiate:
        gradient = scores.exp_()
        if smoothing:
            gradient -= smoothing / gradient.shape[1]
        ones = gradient.new_full(indices.shape, smoothing - 1)
        logits.copy_(gradient.scatter_add_(1, indices, ones).mul_(counts.unsqueeze(1)))
    return losses.where(counts, 0), right


def fits_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernel runs on this device and agrees with torch's functions."""
    known = dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and triton_runs_on(device) and _agrees(device, dtype)


@lru_cache(maxsize=16)
def _agrees(device: torch.device, dtype: torch.dtype) -> bool:
    return passes("loss", device, lambda: worst_error(device, dtype), 0.02)


def worst_error(device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative error of losses and gradients on a few rows, one without a label.

    The number of wrong values in `right` also counts as an error.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 2 * BLOCK + 3, generator=generator).mul_(3).to(device, dtype)
    targets = torch.tensor([0, IGNORED, BLOCK, 7, 2 * BLOCK + 2], device=device)
    errors = []
    for smoothing in (0.0, 0.1):
        ours, theirs = logits.clone(), logits.clone()
        losses = torch.empty(5, dtype=torch.float32, device=device)
        right = torch.empty(5, dtype=torch.uint8, device=device)
        _kernel(ours, losses, right, targets, smoothing, True)
        wanted, wanted_right = plain_cross_entropy_(theirs, targets, smoothing, True)
        errors += [(losses - wanted).norm() / wanted.norm()]
        errors += [(ours.float() - theirs.float()).norm() / theirs.float().norm()]
        errors += [(right.bool() != wanted_right).float().sum()]
    return max(float(error) for error in errors)


@torch.library.custom_op("tempering::cross_entropy_", mutates_args=("logits", "losses", "right"))
def _kernel(
    logits: Tensor,
    losses: Tensor,
    right: Tensor,
    targets: Tensor,
    smoothing: float,
    differentiate: bool,
) -> None:
    from trainer.models.blocks import cross_entropy_kernel

    with torch.cuda.device_of(logits):  # Triton launches kernels on the current device
        cross_entropy_kernel.cross_entropy[(len(logits),)](
            logits,
            targets,
            losses,
            right,
            logits.stride(0),
            logits.shape[1],
            smoothing,
            IGNORED=IGNORED,
            BLOCK=BLOCK,
            DIFFERENTIATE=differentiate,
            num_warps=8,
        )


@_kernel.register_fake
def _(
    logits: Tensor,
    losses: Tensor,
    right: Tensor,
    targets: Tensor,
    smoothing: float,
    differentiate: bool,
) -> None:
    return None
