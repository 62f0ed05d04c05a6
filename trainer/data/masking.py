"""Masking: chooses the tokens of a batch to hide, as a function of seed, epoch and sample.

T is the number of tokens in a batch.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.plan import splitmix64
from trainer.models.packing import IGNORED

if TYPE_CHECKING:
    from trainer.data.batch import FlatBatch
    from trainer.tokenizer import Tokenizer

SPECIAL, CONTINUES, BEGINS = -1, 0, 1
"""Kinds of tokens: never masked, continuing a word, or beginning a word."""
READ = ("kinds", "context")
"""The fields of a batch that `masked_batch` removes."""
LONGEST_SPAN = 10
SPAN_END = 0.2
"""Spans have at most 10 words, and end after each word with this probability (Joshi et al., 2020).
"""
CHOICE, SPAN, ACTION, WORD = range(4)
"""The purposes of random numbers. Numbers of different purposes are independent."""


@dataclass(frozen=True)
class Masking:
    """How many tokens are masked, in which units, and what replaces them."""

    probability: float
    unit: str
    """tokens, words or spans"""
    masked: float
    """Share of the hidden tokens that become the mask token"""
    random: float
    """Share that become random tokens; the rest keep their ids, but must be predicted too"""


def masked_batch(
    batch: "FlatBatch", masking: Masking, tokenizer: "Tokenizer", *, seed: int, epoch: int | None
) -> "FlatBatch":
    """The batch with hidden tokens and the field `labels` [T]: their original ids, -100 elsewhere.

    The fields `kinds` and `context` of recipe=masked_lm are removed. See `mask`.
    """
    import torch

    assert tokenizer.mask_token_id is not None
    ids, hidden = mask(
        batch,
        batch["kinds"].numpy(),
        masking,
        seed=seed,
        epoch=epoch,
        mask_id=tokenizer.mask_token_id,
        vocab_size=len(tokenizer),
    )
    labels = batch.input_ids.masked_fill(~torch.from_numpy(hidden), IGNORED)
    fields = {name: field for name, field in batch.fields.items() if name not in READ}
    return replace(batch, input_ids=torch.from_numpy(ids), fields={**fields, "labels": labels})


def mask(
    batch: "FlatBatch",
    kinds: np.ndarray,
    masking: Masking,
    *,
    seed: int,
    epoch: int | None,
    mask_id: int,
    vocab_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The input ids [T] with some tokens hidden, and the mask [T] of the hidden tokens.

    `kinds` [T] are SPECIAL, CONTINUES or BEGINS. Every random number is a hash of (seed, epoch,
    sample id, position in the sample), so it is the same in any batch, on any rank and in any
    order. `epoch` is None in evaluations, whose random numbers differ from those of every epoch.
    """
    positions, first = _positions(batch)
    sample = np.asarray(batch.sample_ids, dtype=np.int64)[batch.sequence_sample.numpy()]
    samples = np.repeat(sample, batch.sequence_lengths.numpy())
    draws = _Draws(seed, -1 if epoch is None else epoch, samples)
    maskable = kinds != SPECIAL
    begins = maskable & ((kinds == BEGINS) | first | np.append(False, ~maskable[:-1]))
    if masking.unit == "tokens":
        begins = maskable
    heads = np.maximum.accumulate(np.where(begins, np.arange(len(kinds)), 0))
    if masking.unit == "spans":
        hidden, first_of_span = _spans(
            begins, maskable, first, positions, draws, masking.probability
        )
    else:
        hidden = maskable & (draws(CHOICE, positions[heads]) < masking.probability)
        first_of_span = np.arange(len(kinds))
    action = draws(ACTION, positions[first_of_span])
    ids = batch.input_ids.numpy().copy()
    random = (draws(WORD, positions) * vocab_size).astype(np.int64)
    ids[hidden & (action < masking.masked)] = mask_id
    swapped = hidden & (action >= masking.masked) & (action < masking.masked + masking.random)
    ids[swapped] = random[swapped]
    return ids, hidden


def _positions(batch: "FlatBatch") -> tuple[np.ndarray, np.ndarray]:
    """Each token's position in its sample, over all sequences, and whether it begins a sequence."""
    lengths = batch.sequence_lengths.numpy()
    first = np.zeros(int(lengths.sum()), dtype=bool)
    starts = np.cumsum(lengths) - lengths
    first[starts] = True
    owners = batch.sequence_sample.numpy()
    new_sample = np.append(True, owners[1:] != owners[:-1])
    begin = np.maximum.accumulate(np.where(new_sample, starts, 0))
    return np.arange(len(first)) - np.repeat(begin, lengths), first


class _Draws:
    """Uniform random numbers in [0, 1), one per token."""

    def __init__(self, seed: int, epoch: int, samples: np.ndarray) -> None:
        key = np.zeros(1, dtype=np.uint64)
        for part in (seed, epoch):
            key = splitmix64(key ^ np.array([part & (1 << 64) - 1], dtype=np.uint64))
        self._keys = splitmix64(key ^ samples.astype(np.uint64))

    def __call__(self, purpose: int, positions: np.ndarray) -> np.ndarray:
        """One number per token, [T]; equal `positions` in a sample give equal numbers."""
        keys = splitmix64(self._keys ^ positions.astype(np.uint64))
        hashes = splitmix64(keys ^ np.uint64(purpose + 1))
        numbers: np.ndarray = (hashes >> np.uint64(11)) * 2.0**-53
        return numbers


def _spans(
    begins: np.ndarray,
    maskable: np.ndarray,
    first: np.ndarray,
    positions: np.ndarray,
    draws: _Draws,
    probability: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each token is in a span, [T], and the first token of its run of adjacent spans, [T].

    Every word may start a span, and the number of words in a span is geometric. Spans may overlap.
    Spans start so often that a word is in some span with the given `probability`. The first words
    of a text are in spans a little more rarely, since no span can start before them.
    """
    starts = begins & (draws(CHOICE, positions) < start_rate(probability))
    length = 1 + np.floor(np.log1p(-draws(SPAN, positions)) / np.log1p(-SPAN_END)).astype(np.int64)
    length = np.minimum(length, LONGEST_SPAN)
    word = np.cumsum(begins) - 1
    words = np.flatnonzero(begins)
    if not len(words):
        return np.zeros_like(maskable), np.arange(len(maskable))
    # no span reaches over a special token or into another sequence
    breaks = ~maskable | first
    text = np.cumsum(breaks)
    covered = np.zeros(len(words), dtype=bool)
    for back in range(LONGEST_SPAN):
        reached = starts[words] & (length[words] > back)
        target = np.flatnonzero(reached) + back
        source = np.flatnonzero(reached)[target < len(words)]
        target = target[target < len(words)]
        covered[target[text[words[source]] == text[words[target]]]] = True
    hidden = maskable & covered[np.maximum(word, 0)] & (word >= 0)
    runs = hidden & ~(np.append(False, hidden[:-1]) & ~breaks)
    return hidden, np.maximum.accumulate(np.where(runs, np.arange(len(hidden)), 0))


def start_rate(probability: float) -> float:
    """How often a span must start at a word, so that a word is in a span with `probability`."""
    longer = (1 - SPAN_END) ** np.arange(LONGEST_SPAN)
    low, high = 0.0, 1.0
    for _ in range(60):  # the share of words in no span falls as the rate rises
        rate = (low + high) / 2
        low, high = (rate, high) if 1 - np.prod(1 - rate * longer) < probability else (low, rate)
    return (low + high) / 2
