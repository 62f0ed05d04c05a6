"""Columns: samples with one entry or several, as arrays, lists and single samples."""

import numpy as np
import pytest

from trainer.tasks.columns import Column


def test_one_entry_a_sample() -> None:
    column = Column(np.array([[1, 2], [3, 4], [5, 6]]))
    assert len(column) == 3
    assert column[1].tolist() == [3, 4]
    assert [entry.tolist() for entry in column] == column.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert column.by_sample() is column.values


def test_several_entries_a_sample() -> None:
    column = Column(np.array([1, 2, 3, 4]), np.array([0, 2, 2, 3, 4]))
    assert len(column) == 4
    assert column[0].tolist() == [1, 2] and column[1].tolist() == [] and column[-1].tolist() == [4]
    assert column.tolist() == [[1, 2], [], [3], [4]]
    by_sample = column.by_sample()
    assert [entries.tolist() for entries in by_sample] == column.tolist()
    with pytest.raises(IndexError):
        column[4]
