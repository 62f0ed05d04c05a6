"""Padded batches to flat ones and back: where each token of a flat batch sits.

B sequences, L their longest (or a padded call's width), T tokens in all, D channels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.sequence_lengths import SequenceLengths, host_lengths

if TYPE_CHECKING:
    from trainer.models.cache import KeyValueCache


FULL_ENOUGH = 0.7
"""A sequence shorter than this share of the longest of a group starts a new group, but where"""
SHORT = 32
"""tokens are the longest: such a group costs more to start than its pads do."""


SETTLED = (
    "num_tokens",
    "longest",
    "first_tokens",
    "last_tokens",
    "cumulative_lengths",
    "slots",
    "visible_keys",
    "has_gaps",
)
"""What layers read of a layout."""


@dataclass(frozen=True)
class Layout:
    """B sequences laid end to end, and the grid [B, width] that the caller sees them in."""

    lengths: Tensor
    """[B], on the CPU"""
    device: torch.device
    width: int | None = None
    """Columns of the caller's grid; None: the call was flat"""
    cells: Tensor | None = None
    """[T], the cell of the caller's grid that each token came from; None: every cell, in order"""
    visible: Tensor | None = None
    """[T], False for a token that nobody may see; None: all are visible"""
    shown: Tensor | None = None
    """The rows of the visible tokens, where not all are"""
    has_gaps: bool = False
    """Whether pads of the caller's grid lay between two tokens of a sequence"""

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
        """Whether the flat batch is a full grid [B, longest] as it lies."""
        return self.num_tokens == self.num_sequences * self.longest

    @cached_property
    def first_tokens(self) -> Tensor:
        """[B], the row of each sequence's first token."""
        return self.cumulative_lengths[:-1].long()

    @cached_property
    def last_tokens(self) -> Tensor:
        """[B], the row of each sequence's last token."""
        return self.cumulative_lengths[1:].long() - 1

    @cached_property
    def cumulative_lengths(self) -> Tensor:
        """[B + 1] int32: where each sequence starts, and the end of the last."""
        ends = torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))
        return ends.to(torch.int32).to(self.device, non_blocking=True)

    @cached_property
    def device_lengths(self) -> Tensor:
        """[B], the lengths where the tokens are."""
        return self.cumulative_lengths.long().diff()

    @cached_property
    def sequence_of_tokens(self) -> Tensor:
        """[T], the sequence that each token is in."""
        sequences = torch.arange(self.num_sequences, device=self.device)
        return sequences.repeat_interleave(self.device_lengths, output_size=self.num_tokens)

    @cached_property
    def slots(self) -> Tensor:
        """[T], the cell of the grid [B, longest] that each token sits in."""
        starts = self.lengths.cumsum(0) - self.lengths
        gaps = torch.arange(self.num_sequences) * self.longest - starts
        slots = torch.arange(self.num_tokens) + gaps.repeat_interleave(self.lengths)
        return sent(slots, self.device)

    @cached_property
    def visible_keys(self) -> Tensor | None:
        """[B, 1, 1, longest] bool, True where a key may be seen; None: everywhere."""
        if self.equal_lengths and self.visible is None:
            return None
        keys = torch.zeros(self._num_slots, dtype=torch.bool, device=self.device)
        keys[self.slots] = True if self.visible is None else self.visible
        return keys.view(self.num_sequences, 1, 1, self.longest)

    def settle(self) -> None:
        """Compute now what a compiled model reads: it can neither wait nor branch on lengths.

        Sequences of equal lengths are laid out as all others, so that one graph serves all.
        """
        self.__dict__["equal_lengths"] = False
        for name in SETTLED:
            getattr(self, name)

    def visible_pairs(self, window: int | None = None) -> Tensor | None:
        """[B, 1, longest, longest], or 1 for an axis: whether a query sees a key; None: always.

        With `window` the key is at most so many of the caller's columns away, and each slot sees
        itself, so that no row is empty.
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
        """[B or 1, 1, longest, longest], whether a query sees a key: itself and those before it.

        With `window` those at most so many of the caller's columns before it. The slots behind a
        sequence's end see, but none of its tokens sees them.
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
            x = _Scatter.apply(x, self.slots, self._num_slots)
        return x.view(self.num_sequences, self.longest, *x.shape[1:])

    def from_grid(self, x: Tensor) -> Tensor:
        """x [B, longest, ...] -> [T, ...]."""
        x = x.reshape(self._num_slots, *x.shape[2:])
        return x if self.equal_lengths else _Gather.apply(x, self.slots)

    @cached_property
    def length_groups(self) -> "list[Group]":
        """The sequences in groups of similar lengths: no grid is much larger than what it holds."""
        if self.equal_lengths:
            return [Group((self.num_sequences, self.longest), slice(None))]
        return [self._group(sequences) for sequences in self._similar_lengths()]

    @cached_property
    def by_length(self) -> "LengthParts":
        """The batch as layouts of similar lengths, for grids that autograd differentiates.

        As with `length_groups`, no grid is much larger than what it holds.
        """
        groups = self._similar_lengths()
        sequences = torch.cat(groups)
        lengths = self.lengths[sequences]
        starts = (self.lengths.cumsum(0) - self.lengths)[sequences]
        moves = starts - (lengths.cumsum(0) - lengths)
        rows = torch.arange(self.num_tokens) + moves.repeat_interleave(lengths)
        order = rows.to(self.device, non_blocking=True)
        back = rows.argsort().to(self.device, non_blocking=True)
        sizes = [int(self.lengths[group].sum()) for group in groups]
        cells, visible = (
            [None] * len(sizes) if x is None else x.index_select(0, order).split(sizes)
            for x in (self.cells, self.visible)
        )
        layouts = [
            Layout(self.lengths[group], self.device, self.width, cell, seen, None, self.has_gaps)
            for group, cell, seen in zip(groups, cells, visible, strict=True)
        ]
        return LengthParts(layouts, order, back)

    def _similar_lengths(self) -> list[Tensor]:
        """The sequences' numbers, on the CPU, in groups of similar lengths; the longest first."""
        lengths, order = self.lengths.sort(descending=True, stable=True)
        cuts, longest = [0], int(lengths[0])
        for place, length in enumerate(lengths.tolist()):
            if length < longest * FULL_ENOUGH and longest > SHORT:
                cuts.append(place)
                longest = length
        ends = [*cuts[1:], len(order)]
        return [order[start:end] for start, end in zip(cuts, ends, strict=True)]

    def _group(self, sequences: Tensor) -> "Group":
        lengths = self.lengths[sequences].unsqueeze(1)
        place = torch.arange(int(lengths.max()))
        starts = (self.lengths.cumsum(0) - self.lengths)[sequences].unsqueeze(1)
        if len(sequences) == 1:
            start, length = int(starts), len(place)
            return Group((1, length), slice(start, start + length))
        kept = (place < lengths).to(self.device, non_blocking=True)
        rows = (starts + place.minimum(lengths - 1)).to(self.device, non_blocking=True)
        return Group(tuple(rows.shape), rows, kept)

    @property
    def caller_shape(self) -> tuple[int, ...]:
        """The shape of the call's input_ids: (B, width), or (T,) if flat."""
        return (self.num_tokens,) if self.width is None else (self.num_sequences, self.width)

    def pack(self, x: Tensor) -> Tensor:
        """What the caller sees, [B, width], to [T]; itself if flat."""
        flat = x.reshape(-1)
        return flat if self.cells is None else flat[self.cells]

    def places(self, columns: Tensor, elsewhere: int) -> Tensor:
        """Where in its sequence the token of each column [B] is; `elsewhere` if there is none.

        A flat call's columns are such places already, unless they are beyond the sequence.
        """
        ones = torch.ones(self.num_tokens, dtype=torch.bool, device=self.device)
        seen = self.to_grid(ones) if self.width is None else self.unpack(ones)
        column = columns.clamp(0, seen.shape[1] - 1).unsqueeze(1)
        place = seen.cumsum(1).gather(1, column) - 1
        there = seen.gather(1, column) & (column == columns.unsqueeze(1))
        return place.masked_fill(~there, elsewhere).squeeze(1)

    def unpack(self, x: Tensor) -> Tensor:
        """x [T, ...] -> what the caller sees: [B, width, ...], zeros at pads; itself if flat."""
        if self.width is None:
            return x
        if self.cells is not None:
            cells = self.cells
            if self.shown is not None:
                cells, x = cells.index_select(0, self.shown), x.index_select(0, self.shown)
            x = _Scatter.apply(x, cells, self.num_sequences * self.width)
        return x.view(self.num_sequences, self.width, *x.shape[1:])

    def unpack_attentions(self, weights: Tensor) -> Tensor:
        """[B, heads, longest, longest] -> [B, heads, width, width], zeros at pads."""
        if self.cells is None and self.equal_lengths:
            return weights
        width = self.longest if self.width is None else self.width
        columns = self._caller_columns(width)
        grid = weights.new_zeros(self.num_sequences, width + 1, width + 1, weights.shape[1])
        sequence = torch.arange(self.num_sequences, device=self.device).view(-1, 1, 1)
        places = (sequence, columns.unsqueeze(2), columns.unsqueeze(1))
        grid = grid.index_put(places, weights.permute(0, 2, 3, 1))
        return grid[:, :width, :width].permute(0, 3, 1, 2)

    def _caller_columns(self, width: int) -> Tensor:
        """[B, longest], the caller's column of each slot; `width`, one too many, where none is."""
        cells = self.slots % self.longest if self.cells is None else self.cells % width
        if self.visible is not None:
            cells = cells.masked_fill(~self.visible, width)
        columns = torch.full((self._num_slots,), width, device=self.device)
        columns[self.slots] = cells
        return columns.view(self.num_sequences, self.longest)

    @property
    def _num_slots(self) -> int:
        return self.num_sequences * self.longest


def sent(x: Tensor, device: torch.device) -> Tensor:
    """x [T], on the CPU, copied to a device without waiting for what the device has to do.

    From memory that is not pinned CUDA copies more than 64 KB only when it has done all before.
    """
    pinned = x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x
    return pinned.to(device, non_blocking=True)


@dataclass(frozen=True)
class Group:
    """Some sequences of a flat batch as a grid [b, l]; where one has ended it goes on in pads."""

    shape: tuple[int, ...]
    rows: Tensor | slice
    """[b, l], each cell's row; a slice: the grid as it lies"""
    kept: Tensor | None = None
    """[b, l] bool, False at pads, whose row is their sequence's last; None: there are none"""

    def take(self, x: Tensor, pads: float | None = None) -> Tensor:
        """x [T, ...] -> [b, l, ...]; pads repeat a row, or are filled."""
        if self.kept is None:
            return x[self.rows].view(*self.shape, *x.shape[1:])
        grid = x[self.rows]
        if pads is not None:
            grid[~self.kept] = pads
        return grid

    def put(self, x: Tensor, grid: Tensor) -> None:
        """grid [b, l, ...] into x [T, ...], without the pads."""
        if self.kept is None:
            x[self.rows].view_as(grid).copy_(grid)
        else:
            assert isinstance(self.rows, Tensor), "only gathered rows have pads"
            x[self.rows[self.kept]] = grid[self.kept]


@dataclass(frozen=True)
class LengthParts:
    """A flat batch as several smaller ones, each of sequences of similar lengths."""

    layouts: list[Layout]
    order: Tensor
    """[T], the row of the batch that each token of the parts has, part after part"""
    back: Tensor
    """[T], where among the tokens of the parts each row of the batch is"""

    def split(self, x: Tensor) -> list[Tensor]:
        """x [T, ...] -> the rows of each part."""
        sizes = [layout.num_tokens for layout in self.layouts]
        return list(_Gather.apply(x, self.order).split(sizes))

    def join(self, parts: list[Tensor]) -> Tensor:
        """The rows of each part -> [T, ...]."""
        joined: Tensor = _Gather.apply(torch.cat(parts), self.back)
        return joined


@dataclass(frozen=True)
class FlatInputs:
    """The inputs of a model after packing: every tensor is [T]."""

    input_ids: Tensor
    position_ids: Tensor
    layout: Layout
    token_type_ids: Tensor | None = None
    dropout_keys: Tensor | None = None
    cache: "KeyValueCache | None" = None
    """What a decoder holds of the tokens before these; it is written to"""


def flat_inputs(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    sequence_lengths: Tensor | SequenceLengths | None,
    dropout_keys: Tensor | None,
    *,
    keep_first: bool,
    pad_token_id: int | None = None,
    cache: "KeyValueCache | None" = None,
) -> FlatInputs:
    """What a model was called with, checked, as flat tensors.

    With `keep_first`, the first column of a padded call stays even where it is masked, as a token
    that nobody sees: transformers pools it there. With `pad_token_id`, positions count from the
    number after it, and tokens that are pads do not count; with `cache`, which takes flat calls
    alone, from where its sequences stand. Raises InputError, naming the argument.
    """
    per_token = {"token_type_ids": token_type_ids, "dropout_keys": dropout_keys}
    if sequence_lengths is not None:
        lengths = host_lengths(sequence_lengths)
        _check_flat(input_ids, lengths, {**per_token, "position_ids": position_ids})
        if attention_mask is not None:
            raise InputError("attention_mask: found one beside sequence_lengths; accepted: one")
        layout = Layout(lengths, input_ids.device)
        if position_ids is None:
            places = layout.slots % layout.longest
            position_ids = places if cache is None else cache.columns(layout)
        if pad_token_id is not None:
            skipped = layout.from_grid(layout.to_grid(input_ids == pad_token_id).cumsum(1))
            position_ids = _after_pad(position_ids - skipped, input_ids, pad_token_id)
        return FlatInputs(input_ids, position_ids, layout, token_type_ids, dropout_keys, cache)
    if cache is not None:
        raise InputError("cache: found one in a padded call; accepted: with sequence_lengths")
    _check_padded(input_ids, {**per_token, "attention_mask": attention_mask})
    layout = _layout_of_mask(input_ids, attention_mask, keep_first)
    tensors: dict[str, Any] = {
        name: None if grid is None else layout.pack(grid) for name, grid in per_token.items()
    }
    positions = _position_grid(input_ids, position_ids, pad_token_id)
    return FlatInputs(layout.pack(input_ids), layout.pack(positions), layout, **tensors)


def _layout_of_mask(input_ids: Tensor, attention_mask: Tensor | None, keep_first: bool) -> Layout:
    batch_size, width = input_ids.shape
    device = input_ids.device
    mask = None if attention_mask is None else attention_mask.cpu()  # a device is read once
    visible = None if mask is None else mask != 0
    if visible is None or bool(visible.all()):
        return Layout(torch.full((batch_size,), width), device, width)
    kept = visible.clone()
    if keep_first:
        kept[:, 0] = True
    _check_rows_seen(visible)
    cells, lengths = kept.flatten().nonzero().squeeze(1), kept.sum(1)
    ends = lengths.cumsum(0)
    spans = cells[ends - 1] - cells[ends - lengths] + 1
    seen = shown = None
    if not torch.equal(kept, visible):
        seen = visible.flatten()[cells]
        shown = seen.nonzero().squeeze(1).to(device, non_blocking=True)
        seen = seen.to(device, non_blocking=True)
    cells = cells.to(device, non_blocking=True)
    gaps = not torch.equal(spans, lengths)
    return Layout(lengths, device, width, cells, seen, shown, gaps)


def _position_grid(
    input_ids: Tensor, position_ids: Tensor | None, pad_token_id: int | None
) -> Tensor:
    """[B, L], by default the column index, also where a row starts with pads."""
    if position_ids is None:
        position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
        if pad_token_id is not None:
            skipped = (input_ids == pad_token_id).cumsum(1)
            return _after_pad(position_ids - skipped, input_ids, pad_token_id)
    try:
        return position_ids.expand_as(input_ids)
    except RuntimeError:
        found, wanted = tuple(position_ids.shape), tuple(input_ids.shape)
        raise InputError(f"position_ids: found shape {found}; accepted: {wanted}") from None


def _after_pad(real_places: Tensor, input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Places that count real tokens from 0 -> positions that start after the pad token's id."""
    positions = real_places + (pad_token_id + 1)
    return positions.masked_fill(input_ids == pad_token_id, pad_token_id)


def _check_rows_seen(visible: Tensor) -> None:
    empty = (~visible.any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"attention_mask: row {empty[0]} masks every token; accepted: at least one token a row"
        )


def _check_flat(input_ids: Tensor, lengths: Tensor, per_token: dict[str, Tensor | None]) -> None:
    _check_ids(input_ids, "[T], with sequence_lengths", dimensions=1)
    if lengths.device.type != "cpu" or lengths.dim() != 1 or lengths.is_floating_point():
        raise InputError(
            f"sequence_lengths: found {lengths.dtype} {tuple(lengths.shape)} on {lengths.device}; "
            "accepted: integers [B] on the CPU, as SequenceLengths where a wrapper moves tensors"
        )
    if lengths.numel() == 0 or int(lengths.min()) < 1 or int(lengths.sum()) != len(input_ids):
        raise InputError(
            f"sequence_lengths: found {lengths.numel()} lengths that sum to {int(lengths.sum())}; "
            f"accepted: lengths of 1 or more that sum to the {len(input_ids)} tokens of input_ids"
        )
    _check_same_shape(input_ids, per_token)


def _check_padded(input_ids: Tensor, per_token: dict[str, Tensor | None]) -> None:
    _check_ids(input_ids, "[batch, length]", dimensions=2)
    _check_same_shape(input_ids, per_token)


def _check_ids(input_ids: Tensor, shape: str, dimensions: int) -> None:
    integer = input_ids.dtype in (torch.int64, torch.int32)
    if input_ids.dim() != dimensions or not integer or input_ids.numel() == 0:
        raise InputError(
            f"input_ids: found {input_ids.dtype} {tuple(input_ids.shape)}; "
            f"accepted: int64 or int32 {shape}, at least one token"
        )


def _check_same_shape(input_ids: Tensor, per_token: dict[str, Tensor | None]) -> None:
    for name, tensor in per_token.items():
        if tensor is not None and tensor.shape != input_ids.shape:
            raise InputError(
                f"{name}: found shape {tuple(tensor.shape)}; "
                f"accepted: that of input_ids, {tuple(input_ids.shape)}"
            )


class _Scatter(torch.autograd.Function):
    """Rows of x [T, ...] to distinct rows of zeros; its gradient only reads them back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(num_rows, *x.shape[1:]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return grad.index_select(0, rows), None, None


class _Gather(torch.autograd.Function):
    """Distinct rows of x; its gradient writes each once, where index_select would add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = x.shape[0]
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_rows, *grad.shape[1:]).index_copy_(0, rows, grad), None
