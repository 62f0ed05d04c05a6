"""Tables that are joined: types of all sources, also in placeholders, and equal fields."""

import numpy as np
import pytest
import torch

from trainer.data.mixed_rows import Blend
from trainer.data.mixture_samples import MixtureSamples
from trainer.data.tokens import TokenTable
from trainer.errors import InputError


def table(**fields: np.ndarray) -> TokenTable:
    offsets = np.array([0, 1, 3]), np.array([0, 1, 2])
    axes = dict.fromkeys(fields, "sample")
    return TokenTable(np.array([1, 2, 3], np.int32), None, *offsets, fields, axes)


def test_a_placeholder_has_the_types_of_other_batches() -> None:
    """Whole numbers of one source become floats if another source of its kind has fractions."""
    tables = {"a": table(labels=np.array([0, 1])), "b": table(labels=np.float32([0.5, 1]))}
    blend = Blend({"a": 1.0, "b": 1.0}, {"a": None, "b": None})
    mixed = MixtureSamples(tables, {}, [0, 0], blend)
    for batch in (mixed.collate([0]), mixed.collate([3, 0]), mixed.placeholder()):
        assert batch["labels"].dtype == torch.float32


def test_tables_of_different_fields_are_not_joined() -> None:
    tables = table(labels=np.array([0, 1])), table()
    for both in (tables, tables[::-1]):
        with pytest.raises(InputError, match="^dataset.train: 'labels' was made of some rows only"):
            TokenTable.joined(both)
