"""A small batch through the Triton attention and through plain products, forward and backward."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainer.models.dropout import Dropout, head_keys
from trainer.models.flash_attention import flash_attention
from trainer.models.packing import Layout

LENGTHS = 70, 3, 129
HEADS = 2


def worst_error(device: torch.device, dtype: torch.dtype, channels: int) -> float:
    """The largest relative error of context and gradients, as norms; of a wrong mask about 0.5."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, sum(LENGTHS), HEADS, channels)
    inputs = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
    layout = Layout(torch.tensor(LENGTHS), device)
    keys = torch.arange(sum(LENGTHS), dtype=torch.int32, device=device) * 7919
    dropout = Dropout(0.3)
    with _own_graph(), torch.autocast(device.type, enabled=False):
        query, key, value = inputs
        found = flash_attention(query, key, value, layout, dropout=dropout, keys=keys)
        wide = inputs.detach().double().requires_grad_()
        query, key, value = wide
        wanted = plain(query, key, value, layout, dropout, keys)
        upstream = torch.randn(wanted.shape, generator=generator).to(device, dtype)
        (found_grad,) = torch.autograd.grad(found, inputs, upstream)
        (wanted_grad,) = torch.autograd.grad(wanted, wide, upstream.double())
    pairs = ((found.detach(), wanted.detach()), *zip(found_grad, wanted_grad, strict=True))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@contextmanager
def _own_graph() -> Iterator[None]:
    """Within it gradients are computed as anywhere, though a checkpointed layer may be running.

    Checkpointing keeps no tensor that is saved in a layer: it computes the layer once more, which
    would try the kernel again.
    """
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_same, _same):
        yield


def _same(x: Tensor) -> Tensor:
    return x


def plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    dropout: Dropout,
    keys: Tensor | None,
    sides: tuple[int | None, int | None] = (None, None),
) -> Tensor:
    """`flash_attention` by products over the grid [B, L], which is what it must agree with."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    q, k, v = (layout.to_grid(x).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) * query.shape[2] ** -0.5
    place = torch.arange(layout.longest, device=query.device)
    distance = place - place.unsqueeze(1)
    seen = torch.ones_like(distance, dtype=torch.bool)
    left, right = (layout.longest if side is None else side for side in sides)
    seen &= (distance >= -left) & (distance <= right)
    if layout.visible_keys is not None:
        seen = seen & layout.visible_keys | (distance == 0)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    if dropout.active and keys is not None:
        grid = head_keys(layout.to_grid(keys), query.shape[1])
        weights = weights * dropout.mask(weights, grid) * dropout.scale
    return layout.from_grid((weights @ v).transpose(1, 2))
