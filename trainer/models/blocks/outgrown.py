"""Cached texts that grow beyond the length at which LongRoPE changes all rotations."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.models.body import Encoded
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout

TOKENS = -1
"""The index of the cache layer that stores token ids and positions, not keys and values."""


@dataclass(frozen=True)
class WholeTexts:
    """A call that recomputes every token of all texts, instead of a call that continues them."""

    continued: FlatInputs
    """The inputs of the call that continues the texts"""
    inputs: FlatInputs
    """The inputs of the call that recomputes the texts"""
    rows: Tensor
    """[T], the rows of the new tokens in `inputs`"""

    def new_outputs(self, encoded: Encoded) -> Encoded:
        """The outputs for the new tokens, taken from the outputs for the whole texts."""
        shown = encoded.hidden_states
        if shown is not None:
            unpack = self.continued.layout.unpack
            shown = tuple(unpack(x.index_select(0, self.rows)) for x in shown)
        if self.continued.cache is not None:
            self.continued.cache.width += self.continued.layout.width or 0
        return replace(
            encoded, tokens=encoded.tokens.index_select(0, self.rows), hidden_states=shown
        )


def outgrown(inputs: FlatInputs, length: int) -> WholeTexts | None:
    """Return the call that recomputes all texts if one grows beyond `length` tokens, else None.

    The cache is emptied first. It stores the ids of all tokens for this purpose, but it cannot
    store inputs_embeds, so texts given as embeddings keep their cached keys.
    """
    cache, layout = inputs.cache, inputs.layout
    if cache is None or inputs.inputs_embeds is not None:
        return None
    new = [x[:, None, None] for x in (inputs.input_ids, inputs.position_ids)]
    ids, positions = (grid[:, 0, :, 0] for grid in cache.append(TOKENS, new[0], new[1], layout))
    before, after = cache.lengths, cache.lengths + layout.lengths
    if not bool(((before > 0) & (before <= length) & (after > length)).any()):
        return None
    column = torch.arange(ids.shape[1])
    kept = column < after.unsqueeze(1)
    rows = (kept & (column >= before.unsqueeze(1)))[kept].nonzero().squeeze(1)
    kept, rows = kept.to(layout.device), rows.to(layout.device)
    whole = Layout(after, layout.device)
    cache.cut_back(0)
    return WholeTexts(inputs, FlatInputs(ids[kept], positions[kept], whole, cache=cache), rows)
