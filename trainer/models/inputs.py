"""The inputs of a model call, checked and packed into flat tensors.

Dimensions: B sequences, T tokens in total; L is the width of a padded call.
"""

from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.models.cache import KeyValueCache
from trainer.models.grid_layout import GridLayout, layout_of_pairs
from trainer.models.packing import Layout
from trainer.models.sequence_lengths import SequenceLengths, host_lengths, step_key

INTEGERS = (torch.int64, torch.int32)


class Arguments(TypedDict, total=False):
    """The optional arguments that every model accepts; heads add more."""

    token_type_ids: Tensor | None
    """[B, L] or [T], for families that have token types"""
    position_ids: Tensor | None
    """[B, L] or [T]; by default they count from 0"""
    output_hidden_states: bool | None
    """Whether to return the embeddings and every layer's output; None: the config decides"""
    output_attentions: bool | None
    """Whether to return every layer's attention probabilities; None: the config decides, but a call
    with a cache never returns them"""
    return_dict: bool
    """False: the call returns a tuple of the outputs that are not None"""
    sequence_lengths: Tensor | SequenceLengths | None
    """[B] on the CPU; if given, the call is flat: input_ids [T]"""
    inputs_embeds: Tensor | None
    """[B, L, D] or [T, D], the tokens' embeddings in place of input_ids"""
    past_key_values: KeyValueCache | None
    """The cache that an earlier call with use_cache returned; for padded calls to a decoder"""
    use_cache: bool | None
    """Whether a decoder returns past_key_values. None: config.use_cache decides, but a call in
    training mode, with gradients, under torch.compile, with attention probabilities or with a 4-D
    mask creates none"""
    dropout_keys: Tensor | None
    """[B, L] or [T], the keys from which each token's dropout masks are derived"""


@dataclass(frozen=True)
class Call:
    """The inputs of one call to a model, as the caller gave them."""

    input_ids: Tensor | None
    """[B, L], or [T] in a flat call"""
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    sequence_lengths: Tensor | SequenceLengths | None = None
    """[B] on the CPU; None: the call is padded"""
    dropout_keys: Tensor | None = None
    cache: KeyValueCache | None = None
    """The decoder's cache of earlier tokens, which the call extends"""
    decoder: "Call | None" = None
    """The decoder's inputs in an encoder-decoder, with the same number of sequences"""
    inputs_embeds: Tensor | None = None
    """[B, L, D] or [T, D], in place of input_ids"""

    @property
    def is_flat(self) -> bool:
        return self.sequence_lengths is not None

    @property
    def tokens(self) -> Tensor:
        """input_ids, or zeros of their shape if embeddings were given."""
        if self.input_ids is not None:
            return self.input_ids
        assert self.inputs_embeds is not None
        shape, device = self.inputs_embeds.shape[:-1], self.inputs_embeds.device
        return torch.zeros(shape, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class FlatInputs:
    """The inputs of a model after packing. Tensors are [T] unless another shape is given."""

    input_ids: Tensor
    """Zeros if `inputs_embeds` was given"""
    position_ids: Tensor
    layout: Layout
    token_type_ids: Tensor | None = None
    dropout_keys: Tensor | None = None
    cache: KeyValueCache | None = None
    """The decoder's cache of earlier tokens, which the call extends"""
    decoder: "FlatInputs | None" = None
    """The decoder's inputs in an encoder-decoder, with the same number of sequences"""
    inputs_embeds: Tensor | None = None
    """[T, D]"""
    step_key: Tensor | None = None
    """[1] int32 on the CPU: the dropout key for masks that all samples of a step share"""

    def embedded(self, table: nn.Module) -> Tensor:
        """[T, D], the tokens' embeddings: the caller's, or looked up in a table."""
        found: Tensor = table(self.input_ids) if self.inputs_embeds is None else self.inputs_embeds
        return found


def flat_inputs(
    call: Call,
    *,
    keep_first: bool,
    keep_gaps: bool = False,
    pad_token_id: int | None = None,
    only_ids: bool = False,
) -> FlatInputs:
    """Check the inputs of a call and return them as flat tensors.

    With `keep_first`, the first column of a padded call is kept even if it is masked, as a token
    that no other token sees, since transformers pools it. With `keep_gaps`, masked columns between
    two tokens of a row are kept too, so that distances between tokens equal those between their
    columns. With `pad_token_id`, positions start at pad_token_id + 1 and skip pads. With a cache,
    the positions of a flat call continue where each cached sequence ends, and those of a padded
    call continue after the cached columns. With `only_ids`, embeddings and 4-D masks are refused.
    Raises InputError, naming the argument.
    """
    if only_ids and call.inputs_embeds is not None:
        raise InputError("inputs_embeds: found some; accepted: input_ids, for this family")
    if call.sequence_lengths is not None:
        lengths = host_lengths(call.sequence_lengths)
        return _inputs_of_flat_call(call, lengths, pad_token_id)
    ids = call.tokens
    per_token = {"token_type_ids": call.token_type_ids, "dropout_keys": call.dropout_keys}
    mask = _mask_of_new_tokens(call, ids)
    flat_mask = None if mask is None or mask.dim() == 4 else mask
    _check_padded(ids, {**per_token, "attention_mask": flat_mask})
    _check_cache(call.cache, ids)
    layout = _padded_layout(ids, mask, keep_first, keep_gaps, only_ids, call.cache)
    types, keys = (None if grid is None else layout.pack(grid) for grid in per_token.values())
    before = 0 if call.cache is None else call.cache.width
    positions = _position_grid(ids, call.position_ids, pad_token_id, before, call.input_ids is None)
    embeds = None if call.inputs_embeds is None else _rows(call.inputs_embeds, layout)
    flat_ids, flat_positions = layout.pack(ids), layout.pack(positions)
    inputs = FlatInputs(flat_ids, flat_positions, layout, types, keys, call.cache)
    return replace(inputs, inputs_embeds=embeds)


def _rows(embeds: Tensor, layout: Layout) -> Tensor:
    """[B, L, D] -> [T, D]"""
    flat = embeds.flatten(0, 1)
    return flat if layout.cells is None else flat[layout.cells]


def _mask_of_new_tokens(call: Call, ids: Tensor) -> Tensor | None:
    """The mask of the call's new columns, from a mask that may also cover the cached columns."""
    mask = call.attention_mask
    if call.cache is None or mask is None or mask.dim() != 2:
        return mask
    width, before = ids.shape[-1], call.cache.width
    if mask.shape[1] not in (width, before + width):
        found, accepted = mask.shape[1], f"{before + width}, as many as with past_key_values"
        raise InputError(f"attention_mask: found {found} columns; accepted: {accepted}")
    return mask[:, -width:]


def _padded_layout(
    ids: Tensor,
    mask: Tensor | None,
    keep_first: bool,
    keep_gaps: bool,
    only_ids: bool,
    cache: KeyValueCache | None,
) -> Layout:
    """The layout of the tokens without pads; of the whole grid for a 4-D mask or in a graph."""
    if mask is not None and mask.dim() == 4:
        if cache is not None or only_ids:
            where = "together with a cache" if cache is not None else "in a model of this family"
            raise InputError(f"attention_mask: found 4 axes {where}; accepted: 2 axes")
        return layout_of_pairs(ids.shape, ids.device, mask)
    if torch.compiler.is_compiling() and not only_ids:
        seen = None if mask is None else mask != 0
        full = torch.full((ids.shape[0],), ids.shape[1])
        return GridLayout(full, ids.device, ids.shape[1], seen=seen, keep_first=keep_first)
    return _layout_of_mask(ids, mask, keep_first, keep_gaps)


def _inputs_of_flat_call(call: Call, lengths: Tensor, pad_token_id: int | None) -> FlatInputs:
    ids, types, keys = call.tokens, call.token_type_ids, call.dropout_keys
    per_token = {"token_type_ids": types, "dropout_keys": keys, "position_ids": call.position_ids}
    _check_flat(ids, lengths, per_token)
    _check_cache(call.cache, lengths)
    if call.attention_mask is not None:
        raise InputError("attention_mask: found with sequence_lengths; accepted: one of them")
    layout = Layout(lengths, ids.device)
    positions = call.position_ids
    if positions is None:
        columns = layout.slots % layout.longest
        positions = columns if call.cache is None else call.cache.columns(layout)
    if pad_token_id is not None and call.input_ids is None:
        positions = positions + (pad_token_id + 1)
    elif pad_token_id is not None:
        skipped = layout.from_grid(layout.to_grid(ids == pad_token_id).cumsum(1))
        positions = _after_pad(positions - skipped, ids, pad_token_id)
    inputs = FlatInputs(ids, positions, layout, types, keys, call.cache)
    assert call.sequence_lengths is not None
    return replace(
        inputs, inputs_embeds=call.inputs_embeds, step_key=step_key(call.sequence_lengths)
    )


def _layout_of_mask(
    input_ids: Tensor, attention_mask: Tensor | None, keep_first: bool, keep_gaps: bool
) -> Layout:
    batch_size, width = input_ids.shape
    device = input_ids.device
    mask = None if attention_mask is None else attention_mask.cpu()  # the only device sync
    visible = None if mask is None else mask != 0
    if visible is None or bool(visible.all()):
        return Layout(torch.full((batch_size,), width), device, width)
    kept = visible.clone()
    if keep_first:
        kept[:, 0] = True
    if keep_gaps:
        kept = (kept.cumsum(1) > 0) & (kept.flip(1).cumsum(1).flip(1) > 0)
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
    input_ids: Tensor,
    position_ids: Tensor | None,
    pad_token_id: int | None,
    before: int,
    without_ids: bool,
) -> Tensor:
    """`position_ids` as [B, L]; by default the column index, even where a row starts with pads.

    Columns count from `before`, the number of cached columns. With `pad_token_id`, the default
    starts at pad_token_id + 1 and skips pads. `without_ids`: the call has embeddings in place of
    ids, so its pads are unknown and are not skipped.
    """
    if position_ids is None:
        position_ids = torch.arange(before, before + input_ids.shape[1], device=input_ids.device)
        if pad_token_id is not None and without_ids:
            position_ids = position_ids + (pad_token_id + 1)
        elif pad_token_id is not None:
            skipped = (input_ids == pad_token_id).cumsum(1)
            return _after_pad(position_ids - skipped, input_ids, pad_token_id)
    try:
        return position_ids.expand_as(input_ids)
    except RuntimeError:
        found, wanted = tuple(position_ids.shape), tuple(input_ids.shape)
        raise InputError(f"position_ids: found shape {found}; accepted: {wanted}") from None


def _after_pad(real_indices: Tensor, input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Turn indices among the real tokens into positions, which start after the pad token's id."""
    positions = real_indices + (pad_token_id + 1)
    return positions.masked_fill(input_ids == pad_token_id, pad_token_id)


def _check_rows_seen(visible: Tensor) -> None:
    empty = (~visible.any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"attention_mask: row {empty[0]} masks every token; accepted: at least one token a row"
        )


def _check_flat(input_ids: Tensor, lengths: Tensor, per_token: dict[str, Tensor | None]) -> None:
    _check_ids(input_ids, "[T], with sequence_lengths", dimensions=1)
    accepted = "int64 or int32 [B] on the CPU, in SequenceLengths under wrappers that move tensors"
    if not isinstance(lengths, Tensor):
        found = type(lengths).__name__
        raise InputError(f"sequence_lengths: found {found}; accepted: {accepted}")
    if lengths.device.type != "cpu" or lengths.dim() != 1 or lengths.dtype not in INTEGERS:
        found = f"{lengths.dtype} {tuple(lengths.shape)} on {lengths.device}"
        raise InputError(f"sequence_lengths: found {found}; accepted: {accepted}")
    if lengths.numel() == 0 or int(lengths.min()) < 1 or int(lengths.sum()) != len(input_ids):
        raise InputError(
            f"sequence_lengths: found {lengths.numel()} lengths that sum to {int(lengths.sum())}; "
            f"accepted: lengths of 1 or more that sum to the {len(input_ids)} tokens of input_ids"
        )
    _check_same_shape(input_ids, per_token)


def _check_padded(input_ids: Tensor, per_token: dict[str, Tensor | None]) -> None:
    _check_ids(input_ids, "[batch, length]", dimensions=2)
    _check_same_shape(input_ids, per_token)


def _check_cache(cache: KeyValueCache | None, sequences: Tensor) -> None:
    """Raise InputError if the cache does not hold as many sequences as `sequences` [B, ...]."""
    if cache is None or torch.compiler.is_compiling():  # `len` would fix the batch size of a graph
        return
    if len(cache.lengths) != len(sequences):
        found = f"found a cache of {len(cache.lengths)} sequences"
        accepted = f"accepted: one of {len(sequences)}, as in the call"
        raise InputError(f"past_key_values: {found}; {accepted}")


def _check_ids(input_ids: Tensor, shape: str, dimensions: int) -> None:
    integer = input_ids.dtype in INTEGERS
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
