"""A comparison of the Triton attention with plain products, forward and backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.packing import Layout

LENGTHS = 70, 3, 129
HEADS = 2
Sides = tuple[int | None, int | None]
VARIANTS: tuple[tuple[int, Sides], ...] = ((HEADS, (None, None)), (1, (40, 0)))
"""The number of key heads, and how far a token sees to the left and right. The first variant is an
encoder, the second a decoder with shared key heads and a window.
"""

CAP = 1.0
"""A cap that is low enough to affect most scores."""


class Attend(Protocol):
    """The signature of the tested attention."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        *,
        dropout: Dropout,
        keys: Tensor | None,
        sides: Sides,
        softcap: float | None,
    ) -> Tensor: ...


def worst_error(
    attend: Attend, device: torch.device, dtype: torch.dtype, channels: int, capped: bool = False
) -> float:
    """The largest relative error (by norm) of context and gradients; a wrong mask gives 0.5."""
    softcap = CAP if capped else None
    return max(_error(attend, device, dtype, channels, softcap, *variant) for variant in VARIANTS)


def _error(
    attend: Attend,
    device: torch.device,
    dtype: torch.dtype,
    channels: int,
    softcap: float | None,
    key_heads: int,
    sides: Sides,
) -> float:
    generator = torch.Generator().manual_seed(0)
    shape = (sum(LENGTHS), HEADS + 2 * key_heads, channels)
    inputs = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
    layout = Layout(torch.tensor(LENGTHS), device)
    keys = torch.arange(sum(LENGTHS), dtype=torch.int32, device=device) * 7919
    dropout = Dropout(0.3)
    with _own_graph(), torch.autocast(device.type, enabled=False):
        heads = (HEADS, key_heads, key_heads)
        query, key, value = inputs.split(heads, dim=1)
        found = attend(
            query, key, value, layout, dropout=dropout, keys=keys, sides=sides, softcap=softcap
        )
        wide = inputs.detach().double().requires_grad_()
        query, key, value = wide.split(heads, dim=1)
        wanted = plain(query, key, value, layout, dropout, keys, sides, softcap)
        upstream = torch.randn(wanted.shape, generator=generator).to(device, dtype)
        (found_grad,) = torch.autograd.grad(found, inputs, upstream)
        (wanted_grad,) = torch.autograd.grad(wanted, wide, upstream.double())
    parts = (grad.split(heads, dim=1) for grad in (found_grad, wanted_grad))
    pairs = ((found.detach(), wanted.detach()), *zip(*parts, strict=True))
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@contextmanager
def _own_graph() -> Iterator[None]:
    """A context in which gradients work normally even inside a checkpointed layer.

    Checkpointing discards tensors saved in a layer and recomputes the layer, which would repeat
    the trial.
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
    softcap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """The reference for `flash_attention`: products over the grid [B, L]."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    q, k, v = (layout.to_grid(x).transpose(1, 2) for x in (query, key, value))
    scores = q @ k.transpose(-1, -2) * (query.shape[2] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
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
