"""Cells: random tables and nested messages in files of every format are read back as given."""

import csv
import json
import math
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data.sources import read_files
from trainer.errors import InputError

PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r\n\t")
TEXTS = st.one_of(
    st.text(PLAIN, max_size=12),
    st.sampled_from(["", "NA", "null", "nan", "inf", "true", '"', 'a "b", c', "\u2028", "\ufeffx"]),
)
NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.integers(-99, 99).map(str),
    st.integers(0, 999).map("{:05}".format),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-100, 100, places=2, allow_nan=False).map(str),
    st.sampled_from(["1e5", "1E5", "+1", "-0", "1_000", " 1", ".5", "5.", "1e400", "0x10", ""]),
)
WHOLE = st.integers(-999, 999).map(str)
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False).map(repr)
KINDS = [TEXTS, NUMBERS, WHOLE, WHOLE | st.just(""), FRACTIONS, FRACTIONS | WHOLE, WHOLE | TEXTS]
FAST = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    derandomize=True,
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, list[str]], list[int]]:
    """Columns of texts of equal length, and the rows at which files of the set end."""
    height = draw(st.integers(1, 8))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    columns = {
        f"c{i}": draw(st.lists(kind, min_size=height, max_size=height))
        for i, kind in enumerate(kinds)
    }
    columns["text"] = [f"row {i}" for i in range(height)]
    cuts = draw(st.lists(st.integers(1, height), max_size=2, unique=True))
    return columns, sorted({0, *cuts, height})


def by_the_rule(cells: Sequence[str]) -> list[Any]:
    """The type of a column of a text format, by a simple and slow implementation."""
    filled = [cell for cell in cells if cell != ""]
    for kind in (int, float):
        if filled and all(_prints_back(cell, kind) for cell in filled):
            return [None if cell == "" else kind(cell) for cell in cells]
    return list(cells)


def _prints_back(cell: str, kind: type) -> bool:
    try:
        value = kind(cell)
    except ValueError:
        return False
    fits = math.isfinite(value) if kind is float else -(2**63) <= value < 2**63
    return fits and str(value) == cell


def read_back(folder: str, ending: str) -> dict[str, list[Any]]:
    return read_files(f"{folder}/*{ending}", "dataset.train")[:]


def exactly(values: Sequence[Any]) -> list[tuple[type, str]]:
    """Values with their types: 1 is not 1.0, and neither is true."""
    return [(type(value), json.dumps(value)) for value in values]


@FAST
@given(tables())
def test_text_formats_give_back_every_cell(found: tuple[dict[str, list[str]], list[int]]) -> None:
    columns, cuts = found
    wanted = {name: exactly(by_the_rule(cells)) for name, cells in columns.items()}
    rows = list(zip(*columns.values(), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        for number, (start, stop) in enumerate(pairwise(cuts)):
            with Path(folder, f"{number}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([list(columns), *rows[start:stop]])
            lines = ["\t".join(cells) for cells in [tuple(columns), *rows[start:stop]]]
            Path(folder, f"{number}.tsv").write_text("\n".join(lines) + "\n", newline="")
        for ending in (".csv", ".tsv"):
            back = {name: exactly(cells) for name, cells in read_back(folder, ending).items()}
            assert back == wanted, ending


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CELLS = st.sampled_from(
    [TEXTS, st.integers(-9, 9), st.floats(-1, 1), st.lists(TEXTS), SCALARS, NESTED]
)


@FAST
@given(st.data())
def test_json_gives_back_every_value(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(CELLS, min_size=1, max_size=3))
    objects = st.fixed_dictionaries(
        {"text": TEXTS}, optional={f"c{i}": k for i, k in enumerate(kinds)}
    )
    files = data.draw(st.lists(st.lists(objects, min_size=1, max_size=4), min_size=1, max_size=3))
    rows = [row for part in files for row in part]
    names = list(dict.fromkeys(name for row in rows for name in row))
    wanted = {name: exactly([row.get(name) for row in rows]) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(files):
            lines = "".join(json.dumps(row, ensure_ascii=number > 0) + "\n" for row in part)
            Path(folder, f"{number}.jsonl").write_text(lines, encoding="utf-8")
            Path(folder, f"{number}.json").write_text(json.dumps(part), encoding="utf-8")
        for ending in (".jsonl", ".json"):
            back = {name: exactly(cells) for name, cells in read_back(folder, ending).items()}
            assert back == wanted, ending


@FAST
@given(st.data())
def test_parquet_gives_back_every_value(data: st.DataObject) -> None:
    types = {
        pa.string(): TEXTS,
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.int32(): st.integers(-(2**31), 2**31 - 1),
        pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
        pa.bool_(): st.booleans(),
        pa.list_(pa.string()): st.lists(TEXTS, max_size=2),
    }
    files = data.draw(st.integers(1, 3))
    wanted: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            kind = data.draw(st.sampled_from(list(types)), label="each file has its own type")
            values = data.draw(st.lists(st.none() | types[kind], min_size=1, max_size=3))
            pq.write_table(pa.table({"c": pa.array(values, kind)}), f"{folder}/{number}.parquet")
            wanted += values
        assert exactly(read_back(folder, ".parquet")["c"]) == exactly(wanted)


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": st.none() | TEXTS},
        optional={"tool_calls": st.lists(st.dictionaries(TEXTS, NESTED, max_size=2), max_size=2)},
    ),
    min_size=1,
    max_size=3,
)


@FAST
@given(st.lists(st.lists(MESSAGES, min_size=1, max_size=3), min_size=1, max_size=2))
def test_nested_messages_come_back_as_they_are(files: list[list[Any]]) -> None:
    rows = [chat for part in files for chat in part]
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(files):
            lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in part)
            Path(folder, f"{number}.jsonl").write_text(lines)
        back = read_files(f"{folder}/*.jsonl", "dataset.train")
        # by row, by slice, and of a selection, with the order of keys
        chosen = back.select(range(len(back))[::-1])["messages"][:]
        assert [json.dumps(row["messages"]) for row in back] == [json.dumps(row) for row in rows]
        assert json.dumps(back[:]["messages"]) == json.dumps(rows)
        assert json.dumps(chosen) == json.dumps(rows[::-1])


def test_files_of_a_set_decide_types_together(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("text,label,note\na,1,\nb,0,\n")
    (tmp_path / "2.csv").write_text("note,text,label\n5,c,1\n7,d,0\n")
    assert read_back(str(tmp_path), ".csv")["note"] == [None, None, 5, 7]
    (tmp_path / "3.csv").write_text("text,label,note\ne,1,x\n")
    found = read_back(str(tmp_path), ".csv")
    assert found["note"] == ["", "", "5", "7", "x"] and found["label"] == [1, 0, 1, 0, 1]


def test_class_names_of_one_set_must_agree(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    for number, names in enumerate((["no", "yes"], ["yes", "no"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        rows = Dataset.from_dict({"text": ["a"], "label": [1]}, features=features)
        rows.to_parquet(tmp_path / f"{number}.parquet")
    one = read_files(str(tmp_path / "0.parquet"), "dataset.train")
    assert one.features["label"] == ClassLabel(names=["no", "yes"])
    with pytest.raises(InputError, match="its class names differ from other files of the data set"):
        read_files(str(tmp_path), "dataset.train")
