"""Columns of arrays as samples."""

import numpy as np
import pytest

from trainer.data.arrays import ArraySamples
from trainer.errors import InputError

PIXELS = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
LABELS = np.array([2, 0, 1])


def test_a_batch_has_the_samples_in_their_order() -> None:
    samples = ArraySamples({"pixels": PIXELS, "labels": LABELS}, ["pixels"], tokens_per_sample=5)
    batch = samples.collate([2, 0])
    assert batch["pixels"].tolist() == PIXELS[[2, 0]].tolist()
    assert batch["labels"].tolist() == [1, 2] and batch.sample_ids.tolist() == [2, 0]
    assert list(batch.inputs()) == ["pixels"] and list(samples.fields) == ["labels"]
    assert samples.lengths.tolist() == [5, 5, 5] and len(samples) == 3
    assert samples.placeholder().sample_ids.tolist() == [0]


def test_the_fingerprint_is_that_of_the_content() -> None:
    first = ArraySamples({"pixels": PIXELS}, ["pixels"])
    assert first.fingerprint == ArraySamples({"pixels": PIXELS.copy()}, ["pixels"]).fingerprint
    for other in (PIXELS + 1, PIXELS.astype(np.float64), PIXELS.reshape(3, 8)):
        assert ArraySamples({"pixels": other}, ["pixels"]).fingerprint != first.fingerprint


def test_columns_have_one_length() -> None:
    with pytest.raises(InputError, match=r"columns of different lengths, .*'labels': 2"):
        ArraySamples({"pixels": PIXELS, "labels": LABELS[:2]}, ["pixels"])
