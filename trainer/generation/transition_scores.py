"""Transition scores: the scores of the chosen tokens, from an output of `generate`."""

from collections.abc import Sequence

import torch
from torch import Tensor


def transition_scores(
    sequences: Tensor,
    scores: Sequence[Tensor],
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """The score of each generated token [N, t], 0 after the end of a beam, as in transformers.

    The arguments are fields of a `GenerateOutput`: `sequences` [N, n], the `scores` [M, V] of t
    steps, and with beams the `beam_indices` [N, t]. With `normalize_logits`, scores are first
    turned into log-probabilities.
    """
    if beam_indices is None:
        rows = torch.arange(len(sequences), device=sequences.device).unsqueeze(1)
        beam_indices = rows.expand(-1, len(scores))
    ended = beam_indices < 0
    length = int((~ended).sum(1).max())
    ended, beams = ended[:, :length], beam_indices[:, :length].clamp(min=0)
    steps = torch.stack(tuple(scores[:length]))  # [t, M, V]
    if normalize_logits:
        steps = steps.log_softmax(-1)
    places = torch.arange(length, device=sequences.device).unsqueeze(0)
    tokens = sequences[:, sequences.shape[1] - length :]
    return steps[places, beams, tokens].masked_fill(ended, 0.0)
