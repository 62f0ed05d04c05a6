"""SampleRows: each sample's row, even if rows were dropped, read without loading all."""

import numpy as np
import pytest
from datasets import Dataset

from trainer.data import sample_rows
from trainer.data.sample_rows import SampleRows
from trainer.errors import InputError

ROWS = Dataset.from_dict({"text": list("abcde"), "entry": [{"x": 1}, {"y": 2}] + [{"x": 3}] * 3})


@pytest.mark.parametrize("numbers", [None, np.array([0, 1, 3, 4]), np.array([0, 2, 2, 1])])
@pytest.mark.parametrize("at_a_time", [1, 2, 1000])
def test_rows_of_samples(
    numbers: np.ndarray | None, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_rows, "ROWS_AT_A_TIME", at_a_time)
    expected = list(range(5)) if numbers is None else numbers.tolist()
    rows = SampleRows(ROWS, len(expected), numbers)
    assert len(rows) == len(expected) and rows.known and rows.column_names == ["text", "entry"]
    assert [rows.number_of(sample) for sample in range(len(rows))] == expected
    assert list(rows.column("text")) == ["abcde"[number] for number in expected]
    assert rows[1]["text"] == "abcde"[expected[1]]
    assert rows[0] == {"text": "a", "entry": {"x": 1}}  # without the nulls that the table adds


def test_what_is_not_there_is_refused_in_a_line() -> None:
    with pytest.raises(InputError, match="no column 'label'; there are: text, entry"):
        next(SampleRows(ROWS, 5).column("label"))
    ids = SampleRows(None, 5)
    assert len(ids) == 5 and not ids.known and ids.column_names == []
    for read in (lambda: ids[0], lambda: next(ids.column("text"))):
        with pytest.raises(InputError, match="given as token ids, without the rows"):
            read()
