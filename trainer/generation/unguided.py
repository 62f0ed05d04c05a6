"""Unguided: the logits of growing texts without their prompts, for guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.generation.growing_texts import GrowingTexts

Start = Callable[[Tensor], GrowingTexts]
"""A function that begins texts without their prompts, followed by the tokens [N, t]."""


class Unguided:
    """Computes the next tokens' logits of N texts without their prompts.

    Usually the texts have grown by a token since the last call, and the cache of the earlier tokens
    is reused. After a rejected draft, the tokens differ, so the texts are computed from the start.
    """

    def __init__(self, start: Start, width: int) -> None:
        """`width` is the length of the prompts."""
        self._start = start
        self._width = width
        self._seen: Tensor | None = None
        """The tokens [N, t] after the prompts that the cached texts contain."""
        self._texts: GrowingTexts
        self._logits: Tensor

    def __call__(self, grown: Tensor) -> Tensor:
        """The logits [N, V] for the texts `grown` [N, width + t], which include the prompts."""
        tokens, seen = grown[:, self._width :], self._seen
        if seen is None or not torch.equal(tokens[:, : seen.shape[1]], seen):
            self._texts = self._start(tokens)
        elif tokens.shape[1] == seen.shape[1]:
            return self._logits
        elif tokens.shape[1] == seen.shape[1] + 1:
            self._texts.append(tokens[:, -1])
        else:
            self._texts = self._start(tokens)
        self._seen, self._logits = tokens, self._texts.logits()
        return self._logits
