"""Masking: a function of seed, epoch and sample, with the requested shares and units."""

from typing import Any

import numpy as np
import pytest
import torch

from trainer.data.batch import FlatBatch
from trainer.data.masking import BEGINS, CONTINUES, SPECIAL, Masking, mask, start_rate

MASK, VOCAB = 4, 1000


def batch_of(lengths: dict[int, list[int]], rng_seed: int = 0) -> tuple[FlatBatch, np.ndarray]:
    """Samples by id with the lengths of their sequences; a sample's tokens depend on its id."""
    ids, kinds, flat, owners = [], [], [], []
    for row, (sample, sequences) in enumerate(lengths.items()):
        rng = np.random.default_rng([sample, rng_seed])
        for length in sequences:
            ids.append(rng.integers(5, VOCAB, length))
            kind = rng.choice([BEGINS, BEGINS, CONTINUES], length)
            kind[0] = kind[-1] = SPECIAL
            kinds.append(kind)
            flat.append(length)
            owners.append(row)
    total = np.concatenate(ids)
    batch = FlatBatch(
        input_ids=torch.from_numpy(total),
        position_ids=torch.zeros(len(total), dtype=torch.long),
        sequence_lengths=torch.tensor(flat),
        sequence_sample=torch.tensor(owners),
        sample_ids=np.array(list(lengths)),
    )
    return batch, np.concatenate(kinds)


def masked(
    lengths: dict[int, list[int]], masking: Masking, seed: int = 1, epoch: int | None = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(ids before, kinds, ids after, hidden)."""
    batch, kinds = batch_of(lengths)
    ids, hidden = mask(
        batch, kinds, masking, seed=seed, epoch=epoch, mask_id=MASK, vocab_size=VOCAB
    )
    return batch.input_ids.numpy(), kinds, ids, hidden


BERT = {"masked": 0.8, "random": 0.1}
MANY = {n: [400, 100] for n in range(300)}


@pytest.mark.parametrize("unit", ["tokens", "words", "spans"])
@pytest.mark.parametrize("probability", [0.15, 0.5])
def test_shares_are_those_that_were_asked_for(unit: str, probability: float) -> None:
    before, kinds, after, hidden = masked(MANY, Masking(probability, unit, **BERT))
    assert not hidden[kinds == SPECIAL].any()
    assert hidden[kinds != SPECIAL].mean() == pytest.approx(probability, rel=0.06)
    assert (after[hidden] == MASK).mean() == pytest.approx(0.8, abs=0.03)
    kept = (after[hidden] == before[hidden]).mean()
    assert kept == pytest.approx(0.1, abs=0.02)
    assert (after[~hidden] == before[~hidden]).all()
    random = after[hidden & (after != MASK) & (after != before)]
    assert len(random) > 100 and random.min() < 60 and random.max() > VOCAB - 60


def words_of(kinds: np.ndarray) -> np.ndarray:
    return np.cumsum((kinds != CONTINUES) | np.append(True, kinds[:-1] == SPECIAL))


def test_words_are_hidden_whole() -> None:
    _, kinds, _, hidden = masked(MANY, Masking(0.15, "words", **BERT))
    _, starts = np.unique(words_of(kinds), return_index=True)
    for word in np.split(hidden, starts[1:]):
        assert word.all() or not word.any()
    _, kinds, _, hidden = masked(MANY, Masking(0.15, "tokens", **BERT))
    assert any(w.any() and not w.all() for w in np.split(hidden, starts[1:]))


def test_spans_are_of_whole_words_and_longer_than_words() -> None:
    _, kinds, after, hidden = masked(MANY, Masking(0.15, "spans", **BERT))
    _, starts = np.unique(words_of(kinds), return_index=True)
    whole = np.array([word.all() for word in np.split(hidden, starts[1:])])
    assert all(w.all() or not w.any() for w in np.split(hidden, starts[1:]))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], whole.astype(int), [0]])))
    lengths = edges[1::2] - edges[::2]
    assert 3.0 < lengths.mean() < 5.5  # 3.8 for single spans, a little more where spans meet
    runs = np.split(np.arange(len(hidden)), np.flatnonzero(np.diff(hidden.astype(int))) + 1)
    kinds_of_run = [{after[i] == MASK for i in run} for run in runs if hidden[run[0]]]
    assert sum(len(each) == 1 for each in kinds_of_run) > 0.9 * len(kinds_of_run)


def test_the_start_rate_gives_the_coverage() -> None:
    for probability in (0.01, 0.15, 0.5, 0.99):
        longer = 0.8 ** np.arange(10)
        assert 1 - np.prod(1 - start_rate(probability) * longer) == pytest.approx(probability)


@pytest.mark.parametrize("unit", ["tokens", "words", "spans"])
def test_a_sample_is_masked_alike_in_any_batch(unit: str) -> None:
    """A sample is masked equally alone, with others and in another order, bit for bit."""
    lengths = {7: [9, 30], 3: [1], 12: [50], 4_000_000_000: [2, 2, 25]}
    masking = Masking(0.4, unit, **BERT)
    alone = {n: masked({n: lengths[n]}, masking)[2:] for n in lengths}
    for order in ([7, 3, 12, 4_000_000_000], [12, 4_000_000_000, 3, 7], [3, 12]):
        found = masked({n: lengths[n] for n in order}, masking)[2:]
        for part, whole in enumerate(found):
            wanted = np.concatenate([alone[n][part] for n in order])
            assert np.array_equal(whole, wanted)


def test_seeds_epochs_and_evaluations_differ() -> None:
    masking = Masking(0.15, "tokens", **BERT)
    cases: list[dict[str, Any]] = [{}, {"seed": 2}, {"epoch": 1}, {"epoch": None}, {"seed": 0}]
    found = [masked({n: [100] for n in range(9)}, masking, **case)[3] for case in cases]
    assert np.array_equal(found[0], masked({n: [100] for n in range(9)}, masking)[3])
    for first in range(len(found)):
        for second in range(first):
            assert 0.05 < (found[first] != found[second]).mean() < 0.4


def test_all_or_nothing() -> None:
    for unit in ("tokens", "words", "spans"):
        before, kinds, after, hidden = masked(MANY, Masking(1.0, unit, 0.0, 0.0))
        assert np.array_equal(hidden, kinds != SPECIAL) and np.array_equal(before, after)
