"""Layout: the positions of a flat batch's tokens, with conversion to padded grids and back.

Dimensions: B sequences, T tokens in total, D channels; L is the length of the longest sequence, or
the width of a padded call.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from trainer.models.flat_rows import GatherRows, Group, ScatterRows

FULL_ENOUGH = 0.7
"""A sequence starts a new group if it is shorter than this share of the group's longest one."""
SHORT = 32
"""If a group's longest sequence has at most this many tokens, the group takes all shorter
sequences, since their pads cost less than another group.
"""


IGNORED = -100
"""The label of a token that is left out of the loss."""

PRECOMPUTED = (
    "num_tokens",
    "longest",
    "first_tokens",
    "last_tokens",
    "cumulative_lengths",
    "slots",
    "visible_keys",
    "has_gaps",
)
"""The properties of `Layout` that layers read, and that `precompute` therefore computes."""


@dataclass(frozen=True)
class Layout:
    """B concatenated sequences, and their cells in the caller's grid [B, width]."""

    lengths: Tensor
    """[B], on the CPU"""
    device: torch.device
    width: int | None = None
    """The number of columns of the caller's grid; None: the call was flat"""
    cells: Tensor | None = None
    """[T], each token's cell in the flattened grid of the caller; None: every cell has a token"""
    visible: Tensor | None = None
    """[T], False for a token that no other token may attend to; None: all are visible"""
    shown: Tensor | None = None
    """The indices (0 to T - 1) of the visible tokens; None: all tokens are visible"""
    has_gaps: bool = False
    """Whether the caller's grid had pads between two tokens of a sequence"""
    needs_mask: ClassVar[bool] = False
    """Whether attention needs a mask that no variable-length kernel supports"""
    trains_mask: ClassVar[bool] = False
    """Whether the caller's mask gets gradients"""
    masks_heads: ClassVar[bool] = False
    """Whether each head has a mask of its own, which torch's kernels would copy for every layer"""

    @property
    def num_sequences(self) -> int:
        return self.lengths.shape[0]

    @cached_property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def equal_lengths(self) -> bool:
        """Whether all lengths are equal, so that [T] is a full grid [B, longest] in memory."""
        return self.num_tokens == self.num_sequences * self.longest

    @cached_property
    def first_tokens(self) -> Tensor:
        """[B], the index of each sequence's first token, 0 to T - 1."""
        return self.cumulative_lengths[:-1].long()

    @cached_property
    def last_tokens(self) -> Tensor:
        """[B], the index of each sequence's last token, 0 to T - 1."""
        return self.cumulative_lengths[1:].long() - 1

    @cached_property
    def cumulative_lengths(self) -> Tensor:
        """[B + 1] int32, the start of each sequence and the end of the last one."""
        ends = torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))
        return ends.to(torch.int32).to(self.device, non_blocking=True)

    @cached_property
    def device_lengths(self) -> Tensor:
        """[B], the lengths on the tokens' device."""
        return self.cumulative_lengths.long().diff()

    @cached_property
    def sequence_of_tokens(self) -> Tensor:
        """[T], the index of each token's sequence."""
        sequences = torch.arange(self.num_sequences, device=self.device)
        return sequences.repeat_interleave(self.device_lengths, output_size=self.num_tokens)

    @cached_property
    def slots(self) -> Tensor:
        """[T], each token's slot: its cell in the flattened grid [B, longest]."""
        starts = self.lengths.cumsum(0) - self.lengths
        gaps = torch.arange(self.num_sequences) * self.longest - starts
        slots = torch.arange(self.num_tokens) + gaps.repeat_interleave(self.lengths)
        return to_device(slots, self.device)

    @property
    def counted(self) -> Tensor | None:
        """[T], False for a token that is treated as a pad; None: no token is."""
        return self.visible

    @cached_property
    def visible_keys(self) -> Tensor | None:
        """[B, 1, 1, longest] bool, True for visible keys; None: all keys are visible."""
        if self.equal_lengths and self.visible is None:
            return None
        keys = torch.zeros(self._num_slots, dtype=torch.bool, device=self.device)
        keys[self.slots] = True if self.visible is None else self.visible
        return keys.view(self.num_sequences, 1, 1, self.longest)

    def precompute(self) -> None:
        """Compute the properties that a compiled model reads, as a graph cannot branch on lengths.

        Batches of equal lengths are not treated specially, so that one graph serves all batches.
        """
        self.__dict__["equal_lengths"] = False
        for name in PRECOMPUTED:
            getattr(self, name)

    def visible_pairs(self, window: int | None = None) -> Tensor | None:
        """Whether a query sees a key, broadcastable to [B, 1, longest, longest]; None: always.

        `window` is the largest distance between a query's and a key's column in the caller's grid.
        Each slot sees itself, so that every query has a key.
        """
        keys = self.visible_keys
        if window is None or window >= (self.width or self.longest) - 1:
            return keys
        columns = self._columns()
        near = (columns.unsqueeze(1) - columns.unsqueeze(2)).abs().unsqueeze(1) <= window
        if keys is None:
            return near
        itself = torch.eye(self.longest, dtype=torch.bool, device=self.device)
        return (near & keys) | itself

    def causal_pairs(self, window: int | None = None) -> Tensor:
        """[B or 1, 1, longest, longest], whether a query sees a key: never a key after its own.

        `window` is the largest distance between the two columns in the caller's grid. Slots after
        the end of a sequence see keys too, but no token sees these slots.
        """
        columns = self._columns()
        before = columns.unsqueeze(2) - columns.unsqueeze(1)
        order = torch.arange(self.longest, device=self.device)
        pairs = order.unsqueeze(1) >= order
        return (pairs if window is None else pairs & (before <= window)).unsqueeze(-3)

    def _columns(self) -> Tensor:
        """[B or 1, longest], the caller's column of each slot."""
        if self.cells is None or self.width is None:
            return torch.arange(self.longest, device=self.device).unsqueeze(0)
        return self.to_grid(self.cells % self.width)

    def to_grid(self, x: Tensor) -> Tensor:
        """x [T, ...] -> [B, longest, ...], zeros where a sequence has ended."""
        if not self.equal_lengths:
            x = ScatterRows.apply(x, self.slots, self._num_slots)
        return x.view(self.num_sequences, self.longest, *x.shape[1:])

    def from_grid(self, x: Tensor) -> Tensor:
        """x [B, longest, ...] -> [T, ...]."""
        x = x.reshape(self._num_slots, *x.shape[2:])
        return x if self.equal_lengths else GatherRows.apply(x, self.slots)

    @cached_property
    def length_groups(self) -> list[Group]:
        """The sequences in groups of similar lengths, so that no group's grid is mostly pads."""
        if self.equal_lengths:
            return [Group((self.num_sequences, self.longest), slice(None))]
        return [self.group(sequences) for sequences in self._similar_lengths()]

    def _similar_lengths(self) -> list[Tensor]:
        """The sequences' indices, on the CPU, in groups of similar lengths, longest first."""
        lengths, order = self.lengths.sort(descending=True, stable=True)
        cuts, longest = [0], int(lengths[0])
        for index, length in enumerate(lengths.tolist()):
            if length < longest * FULL_ENOUGH and longest > SHORT:
                cuts.append(index)
                longest = length
        ends = [*cuts[1:], len(order)]
        return [order[start:end] for start, end in zip(cuts, ends, strict=True)]

    def group(self, sequences: Tensor) -> Group:
        """A grid of these sequences (indices on the CPU), as wide as the longest of them."""
        lengths = self.lengths[sequences].unsqueeze(1)
        place = torch.arange(int(lengths.max()))
        starts = (self.lengths.cumsum(0) - self.lengths)[sequences].unsqueeze(1)
        if len(sequences) == 1:
            start, length = int(starts), len(place)
            return Group((1, length), slice(start, start + length))
        kept = place < lengths
        rows = starts + place.minimum(lengths - 1)
        cells = kept.flatten().nonzero().squeeze(1)
        sources = rows, kept, cells, rows.flatten()[cells]
        return Group(tuple(rows.shape), *(x.to(self.device, non_blocking=True) for x in sources))

    @property
    def caller_shape(self) -> tuple[int, ...]:
        """The shape of the call's input_ids: (B, width), or (T,) if flat."""
        return (self.num_tokens,) if self.width is None else (self.num_sequences, self.width)

    def pack(self, x: Tensor) -> Tensor:
        """The caller's [B, width] -> [T]; unchanged if flat."""
        flat = x.reshape(-1)
        return flat if self.cells is None else flat[self.cells]

    def places(self, columns: Tensor, elsewhere: int) -> Tensor:
        """[B], the index, within sequence b, of the token at the caller's column columns[b].

        The index is `elsewhere` if that column holds no visible token. In a flat call, columns are
        themselves indices within the sequences.
        """
        ones = torch.ones(self.num_tokens, dtype=torch.bool, device=self.device)
        seen = self.to_grid(ones) if self.width is None else self.unpack(ones)
        kept = seen
        if self.width is not None:
            kept = torch.ones_like(seen)
            if self.cells is not None:
                kept = torch.zeros_like(seen.flatten()).index_fill_(0, self.cells, True)
                kept = kept.view_as(seen)
        column = columns.clamp(0, seen.shape[1] - 1).unsqueeze(1)
        place = kept.cumsum(1).gather(1, column) - 1
        is_token = seen.gather(1, column) & (column == columns.unsqueeze(1))
        return place.masked_fill(~is_token, elsewhere).squeeze(1)

    def unpack(self, x: Tensor) -> Tensor:
        """x [T, ...] -> the caller's [B, width, ...], zeros at pads; unchanged if flat."""
        if self.width is None:
            return x
        if self.cells is not None:
            cells = self.cells
            if self.shown is not None:
                cells, x = cells.index_select(0, self.shown), x.index_select(0, self.shown)
            x = ScatterRows.apply(x, cells, self.num_sequences * self.width)
        return x.view(self.num_sequences, self.width, *x.shape[1:])

    def through_caller(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, ...] -> the caller's tensor, and x read back from that tensor.

        Layers that continue with the second result give gradients to the first.
        """
        shown = self.unpack(x)
        if self.width is None or self.cells is None:
            return shown, shown.view_as(x)
        back: Tensor = GatherRows.apply(shown.flatten(0, 1), self.cells)
        if self.visible is not None:
            back = torch.where(self.visible.view(-1, *[1] * (x.dim() - 1)), back, x)
        return shown, back

    def attentions_through_caller(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Like `through_caller`, for probabilities [B, heads, longest, longest]."""
        shown = self.unpack_attentions(weights)
        if shown is weights:
            return weights, weights
        width = self.longest if self.width is None else self.width
        columns = self._caller_columns(width)
        in_grid = columns < width
        kept = (in_grid.unsqueeze(2) & in_grid.unsqueeze(1)).unsqueeze(1)
        columns = columns.clamp(max=width - 1)
        sequence = torch.arange(self.num_sequences, device=self.device).view(-1, 1, 1)
        places = (sequence, columns.unsqueeze(2), columns.unsqueeze(1))
        back = shown.permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2)
        return shown, torch.where(kept, back, weights)

    def pooled_sum(self, x: Tensor) -> Tensor:
        """x [T, D] -> [B, D], the sum over each sequence."""
        return self.to_grid(x).sum(1)

    def successors(self, labels: Tensor, nothing: int) -> Tensor:
        """[T], the label of each token's successor; `nothing` for each sequence's last token.

        `labels` have the shape of the caller's input_ids. Labels of pads and of first tokens are
        not used.
        """
        following = self.pack(labels).roll(-1)
        following[self.last_tokens] = nothing
        return following

    def pack_labels(self, labels: Tensor) -> Tensor:
        """The caller's labels [B, width] of tokens -> [T]; labels of pads become IGNORED."""
        flat = self.pack(labels)
        return flat if self.visible is None else flat.masked_fill(~self.visible, IGNORED)

    def unpack_attentions(self, weights: Tensor, keys: "Layout | None" = None) -> Tensor:
        """[B, heads, longest, longest] -> [B, heads, width, width], zeros at pads.

        In cross-attention, `keys` is the layout of the keys: the encoder's tokens.
        """
        layouts = self, self if keys is None else keys
        if all(layout.cells is None and layout.equal_lengths for layout in layouts):
            return weights
        rows, width = (each.longest if each.width is None else each.width for each in layouts)
        grid = weights.new_zeros(self.num_sequences, rows + 1, width + 1, weights.shape[1])
        sequence = torch.arange(self.num_sequences, device=self.device).view(-1, 1, 1)
        row, column = (
            layout._caller_columns(size)
            for layout, size in zip(layouts, (rows, width), strict=True)
        )
        places = (sequence, row.unsqueeze(2), column.unsqueeze(1))
        grid = grid.index_put(places, weights.permute(0, 2, 3, 1))
        return grid[:, :rows, :width].permute(0, 3, 1, 2)

    def _caller_columns(self, width: int) -> Tensor:
        """[B, longest], the caller's column of each slot; `width` (out of range) for empty ones."""
        cells = self.slots % self.longest if self.cells is None else self.cells % width
        if self.visible is not None:
            cells = cells.masked_fill(~self.visible, width)
        columns = torch.full((self._num_slots,), width, device=self.device)
        columns[self.slots] = cells
        return columns.view(self.num_sequences, self.longest)

    @property
    def _num_slots(self) -> int:
        return self.num_sequences * self.longest


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy x [T] from the CPU to a device without waiting for the device's queued work.

    The copy uses pinned memory: CUDA copies more than 64 KB of pageable memory only after all
    earlier work is done.
    """
    pinned = x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x
    return pinned.to(device, non_blocking=True)
