"""Stopping: the conditions that end the texts of a batch.

Dimensions: N texts of n tokens each.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.generation.streaming import UNFINISHED

Stop = Callable[[Tensor, Any], Any]
"""A function (ids [N, n], scores so far) -> whether each text has ended [N], or a bool for all."""

CONTEXT = 8
"""The number of additional tokens to decode, before those that may contain a stop string: a token's
text may depend on the tokens before it."""


def at_length(length: int) -> Stop:
    """End texts at this number of tokens."""
    return lambda ids, scores: ids.shape[1] >= length


def at_tokens(ends: Sequence[int]) -> Stop:
    """End texts after one of these tokens."""
    return lambda ids, scores: torch.isin(ids[:, -1], torch.tensor(ends, device=ids.device))


def after_seconds(limit: float) -> Stop:
    """End all texts once this number of seconds has passed."""
    start = time.monotonic()
    return lambda ids, scores: time.monotonic() - start > limit


def at_strings(strings: Sequence[str], tokenizer: Any) -> Stop:
    """End texts whose last token completes one of these strings."""
    # a token may be a single byte of a character
    longest = max(len(string.encode("utf-8", "replace")) for string in strings) + CONTEXT

    def stop(ids: Tensor, scores: object) -> Tensor:
        ended = []
        for tail in ids[:, -longest:].tolist():
            text = tokenizer.decode(tail)
            # the last token may complete a character, which replaces the mark of an incomplete one
            before = tokenizer.decode(tail[:-1]).rstrip(UNFINISHED)
            ends = [text.rfind(string) + len(string) for string in strings if string in text]
            ended.append(any(end > len(before) for end in ends))
        return torch.tensor(ended, device=ids.device)

    return stop


def ended(stops: Sequence[Stop], ids: Tensor, scores: object) -> Tensor:
    """Whether any of the conditions ends each text, [N] bool."""
    found = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for stop in stops:
        result = stop(ids, scores)
        if not isinstance(result, (int, Tensor, list, tuple, np.ndarray, np.generic)):
            accepted = "a bool, or one for each text"
            raise InputError(f"stopping_criteria: found {result!r:.40}; accepted: {accepted}")
        found = found | _checked(torch.as_tensor(result, device=ids.device), len(ids))
    return found


def _checked(result: Tensor, count: int) -> Tensor:
    """The result of a condition. Raises InputError unless it is for all texts, or for each."""
    if result.dim() > 1 or result.numel() not in (1, count):
        accepted = f"a bool, or one for each of {count} texts"
        found = f"a result of shape {tuple(result.shape)}"
        raise InputError(f"stopping_criteria: found {found}; accepted: {accepted}")
    return result.bool()
