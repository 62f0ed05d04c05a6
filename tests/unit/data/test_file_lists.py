"""File lists: several files and folders in one key, read in order and checked to fit together."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.data.in_memory_rows import as_table
from trainer.data.plain_text import PlainText
from trainer.data.row_locations import location_of
from trainer.data.rows import Files
from trainer.data.sources import read_files
from trainer.errors import InputError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("a.csv", "text,label\nx,1\n", "b.jsonl", '\n{"text": "y", "label": 2}\n')
    write("parts/1.csv", "label,text\n3,z\n", "parts/0.csv", "label,text\n4,w\n")


def write(*names_and_contents: str) -> None:
    for name, content in zip(names_and_contents[::2], names_and_contents[1::2], strict=True):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)


def refusal(**options: object) -> str:
    with pytest.raises(InputError) as error:
        Files(**options).load()  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_and_folders_are_read_in_the_order_given() -> None:
    orders = {("a.csv", "b.jsonl", "parts/"): "xywz", ("parts", "b.jsonl", "*.csv"): "wzyx"}
    labels = {"x": 1, "y": 2, "z": 3, "w": 4}
    for paths, texts in orders.items():
        found = Files(train=list(paths), validation_fraction=0).load().train
        assert found is not None
        for rows in (found, as_table(paths), as_table([Path(path) for path in paths])):
            assert "".join(rows["text"][:]) == texts
            assert rows["label"][:] == [labels[text] for text in texts]


def test_every_split_and_named_set_may_be_a_list() -> None:
    named = {"one": ["b.jsonl", "parts/0.csv"], "two": "parts/1.csv"}
    found = Files(train="a.csv", validation=named, test=["parts", "a.csv"]).load()
    assert {name: rows["text"][:] for name, rows in found.validation.items()} == {
        "one": ["y", "w"],
        "two": ["z"],
    }
    assert found.test is not None and found.test["text"][:] == ["w", "z", "x"]
    both = Files(validation=["a.csv", "b.jsonl"]).load().validation
    assert both[""]["text"][:] == ["x", "y"]


@pytest.mark.parametrize(
    ("cells", "values", "found"),
    [
        (["1", "2"], [3], [1, 2, 3]),
        (["1", ""], [3], [1, None, 3]),
        (["", ""], [3], [None, None, 3]),
        (["1.5"], [0.25], [1.5, 0.25]),
        (["2024", ""], ["b"], ["2024", "", "b"]),
        (["007"], ["b", None], ["007", "b", None]),
        (["", "a"], [None], ["", "a", None]),
        (["1"], [None], [1, None]),
        (["007"], [7], ["007", 7]),
        (["1"], [0.5], [1, 0.5]),
    ],
)
def test_types_are_decided_over_all_files(
    cells: list[str], values: list[object], found: list[object]
) -> None:
    """csv cells are text if another file has a text; unlike types are kept as JSON."""
    write("c.csv", "n,v\n" + "".join(f"0,{cell}\n" for cell in cells))
    write("v.jsonl", "".join(json.dumps({"n": 0, "v": value}) + "\n" for value in values))
    read = read_files(["c.csv", "v.jsonl"], "dataset.train")["v"][:]
    assert read == found and list(map(type, read)) == list(map(type, found))
    split = len(values)
    other_way = read_files(["v.jsonl", "c.csv"], "dataset.train")["v"][:]
    assert other_way[split:] + other_way[:split] == found


def test_csv_cells_join_the_types_of_parquet_files() -> None:
    pq.write_table(pa.table({"text": ["p"], "label": pa.array([5], pa.int8())}), "p.parquet")
    rows = read_files(["p.parquet", "a.csv", "b.jsonl"], "dataset.train")
    assert rows[:] == {"text": ["p", "x", "y"], "label": [5, 1, 2]}


def test_rows_are_located_in_their_own_file() -> None:
    rows = read_files(["a.csv", "b.jsonl", "parts"], "dataset.train")
    found = [location_of(rows, row, "here") for row in range(4)]
    lines = ("a.csv:2", "b.jsonl:2", "parts/0.csv:2", "parts/1.csv:2")
    assert found == [f"here: {line}" for line in lines]
    write("bad.csv", "text,label\na,1\nb\n")
    assert "dataset.train: bad.csv:3: 1 column" in refusal(train=["a.csv", "bad.csv"])


def test_lists_that_do_not_fit_are_refused_in_one_line() -> None:
    write("bare.jsonl", '{"text": "y"}\n', "bare.csv", "text\nx\n", "empty.csv", "")
    write("mixed/a.csv", "text,label\nq,1\n", "mixed/b.jsonl", '{"text": "r", "label": 1}\n')
    Path("link.csv").symlink_to("a.csv")
    lacks = "has no column 'label', which a.csv has; the columns must be the same"
    twice = "is in the list twice; accepted: each file once"
    cases: list[tuple[object, str]] = [
        (["a.csv", "bare.jsonl"], f"dataset.train: bare.jsonl {lacks}"),
        (["bare.csv", "a.csv"], f"dataset.train: bare.csv {lacks}"),
        (["a.csv", "./a.csv"], f"dataset.train: a.csv {twice}"),
        (["a.csv", "link.csv"], f"dataset.train: link.csv {twice}"),
        (["parts", "parts/0.csv"], f"dataset.train: parts/0.csv {twice}"),
        ([], "dataset.train: the list is empty; accepted: a file, a folder or a glob"),
        (["a.csv", ""], "dataset.train: found an empty path in the list"),
        (["a.csv", 7], "dataset.train: found 7 in the list"),
        (["a.csv", ["b.jsonl"]], "dataset.train: found ['b.jsonl'] in the list"),
        (["a.csv", "b.json"], "dataset.train: b.json does not exist"),
        (["a.csv", "mixed"], "files of one split must have one ending"),
    ]
    for paths, found in cases:
        assert found in refusal(train=paths), paths
        assert found.replace("train", "test") in refusal(test=paths), paths
        named = found.replace("train", "validation.x")
        assert named in refusal(validation={"x": paths}), paths
    assert "dataset.path is set" in refusal(path="parts", train=["a.csv"])
    assert "dataset.path is set" in refusal(path="parts", validation={"x": ["a.csv"]})
    assert len(read_files(["empty.csv", "a.csv", "b.jsonl"], "dataset.train")) == 2
    write("a.csv.gz", "")
    assert "a compressed copy of it" in refusal(train=["a.csv", "a.csv.gz"])


def test_a_file_for_training_and_validation_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Files(train=["a.csv", "parts"], validation=["b.jsonl", "parts/1.csv"]).load()
    assert (
        "dataset.validation: " in caplog.text and "parts/1.csv is in dataset.train" in caplog.text
    )
    assert "a.csv is in" not in caplog.text


def test_plain_text_reads_lists() -> None:
    write("one.txt", "a\nb\n", "two.txt", "c\n")
    found = PlainText(train=["two.txt", "one.txt"], validation_fraction=0).load().train
    assert found is not None and found["text"][:] == ["c\n", "a\nb\n"]
    with pytest.raises(InputError, match=r"^dataset.train: the list is empty"):
        PlainText(train=[])
