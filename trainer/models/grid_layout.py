"""GridLayout: a padded call computed without packing, for masks that packing cannot express.

Dimensions: B sequences, L is the width of the call, T = B x L.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.packing import IGNORED, Layout


@dataclass(frozen=True)
class GridLayout(Layout):
    """The layout of a call in which every cell of the caller's grid is computed, pads included.

    It is used for 4-D masks and while graphs are traced: no shape depends on the mask's values.
    """

    seen: Tensor | None = None
    """[B, L] bool, False at pads, which are zeros in the outputs; None: no pads"""
    pairs: Tensor | None = None
    """[B or 1, heads or 1, L, L], True where a query sees a key, or floats added to the scores;
    it replaces every mask that the model would apply itself"""
    keep_first: bool = False
    """Whether the first column is pooled even if it is a pad"""
    needs_mask = True

    @property
    def trains_mask(self) -> bool:  # type: ignore[override]
        return self.pairs is not None and self.pairs.requires_grad

    @property
    def masks_heads(self) -> bool:  # type: ignore[override]
        return self.pairs is not None and self.pairs.shape[1] > 1

    @property
    def num_tokens(self) -> int:  # type: ignore[override]
        return self.num_sequences * self.longest

    @property
    def longest(self) -> int:  # type: ignore[override]
        assert self.width is not None
        return self.width

    @property
    def equal_lengths(self) -> bool:  # type: ignore[override]
        return True

    @property
    def first_tokens(self) -> Tensor:  # type: ignore[override]
        if self.seen is None or self.keep_first:
            return self._starts
        return self._starts + self.seen.int().argmax(1)

    @property
    def last_tokens(self) -> Tensor:  # type: ignore[override]
        last = self._starts + (self.longest - 1)
        return last if self.seen is None else last - self.seen.flip(1).int().argmax(1)

    @property
    def cumulative_lengths(self) -> Tensor:  # type: ignore[override]
        starts = torch.arange(self.num_sequences + 1, device=self.device)
        return (starts * self.longest).to(torch.int32)

    @property
    def slots(self) -> Tensor:  # type: ignore[override]
        return torch.arange(self.num_tokens, device=self.device)

    @property
    def counted(self) -> Tensor | None:
        return None if self.seen is None else self.seen.flatten()

    @property
    def visible_keys(self) -> Tensor | None:  # type: ignore[override]
        return None if self.seen is None else self.seen[:, None, None]

    def visible_pairs(self, window: int | None = None) -> Tensor | None:
        if self.pairs is not None:
            return self.pairs
        if window is None:
            return self.visible_keys
        columns = torch.arange(self.longest, device=self.device)
        near = ((columns.unsqueeze(1) - columns).abs() <= window)[None, None]
        return near if self.seen is None else _never_empty(near & self.seen[:, None, None])

    def causal_pairs(self, window: int | None = None) -> Tensor:
        if self.pairs is not None:
            return self.pairs
        columns = torch.arange(self.longest, device=self.device)
        before = columns.unsqueeze(1) - columns
        pairs = before >= 0
        pairs = (pairs if window is None else pairs & (before <= window))[None, None]
        return pairs if self.seen is None else _never_empty(pairs & self.seen[:, None, None])

    def pooled_sum(self, x: Tensor) -> Tensor:
        return self.unpack(x).sum(1)

    @property
    def device_lengths(self) -> Tensor:  # type: ignore[override]
        if self.seen is not None:
            return self.seen.sum(1)
        return torch.full((self.num_sequences,), self.longest, device=self.device)

    def unpack(self, x: Tensor) -> Tensor:
        grid = x.view(self.num_sequences, self.longest, *x.shape[1:])
        if self.seen is None:
            return grid
        return grid.masked_fill(~self.seen.view(*self.seen.shape, *[1] * (x.dim() - 1)), 0)

    def through_caller(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shown = self.unpack(x)
        return shown, shown.flatten(0, 1)

    def attentions_through_caller(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        if self.seen is None:
            return weights, weights
        shown = weights.masked_fill(~self.seen[:, None, :, None], 0)
        return shown, shown

    def successors(self, labels: Tensor, nothing: int) -> Tensor:
        grid = labels.reshape(self.num_sequences, self.longest)
        following = torch.nn.functional.pad(grid[:, 1:], (0, 1), value=nothing)
        if self.seen is not None:
            both = self.seen & torch.nn.functional.pad(self.seen[:, 1:], (0, 1))
            following = following.masked_fill(~both, nothing)
        return following.flatten()

    def pack_labels(self, labels: Tensor) -> Tensor:
        flat = labels.reshape(-1)
        return flat if self.seen is None else flat.masked_fill(~self.seen.flatten(), IGNORED)

    @property
    def _starts(self) -> Tensor:
        return torch.arange(self.num_sequences, device=self.device) * self.longest


def layout_of_pairs(shape: torch.Size, device: torch.device, mask: Tensor) -> GridLayout:
    """The layout of a call [B, L] with a 4-D mask. Raises InputError if the mask does not fit."""
    batch_size, width = shape
    fits = mask.shape[0] in (1, batch_size) and tuple(mask.shape[2:]) == (width, width)
    if not fits or not (mask.dtype == torch.bool or mask.is_floating_point()):
        found = f"{mask.dtype} {tuple(mask.shape)}"
        accepted = (
            f"bool (True: seen) or numbers to add, [{batch_size}, 1 or heads, {width}, {width}]"
        )
        raise InputError(f"attention_mask: found {found}; accepted: {accepted}")
    pairs = _never_empty(mask) if mask.dtype == torch.bool else mask
    return GridLayout(torch.full((batch_size,), width), device, width, pairs=pairs)


def _never_empty(pairs: Tensor) -> Tensor:
    """Make a row without visible keys see all keys, as in transformers, to avoid NaN."""
    return pairs | ~pairs.any(-1, keepdim=True)
