"""Untrusted data: bombs, broken buffers, types that open files, links out of a folder."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value

from trainer.data import arrow_files
from trainer.data.arrow_files import plain_table, read_arrow, read_parquet
from trainer.data.exact_json import dataset_of
from trainer.data.rows import Files
from trainer.data.saved_datasets import read_saved
from trainer.errors import InputError
from trainer.foreign.files import check_regular

Refusal = Callable[..., str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(**options: Any) -> str:
    with pytest.raises(InputError) as caught:
        Files(**options, validation_fraction=0).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def described(table: pa.Table, **features: Any) -> pa.Table:
    """The table with the metadata that `datasets` would obey."""
    text = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({b"huggingface": text.encode(), b"pandas": b"{"})


def test_columns_that_open_what_they_name_are_plain_structs() -> None:
    image = pa.array([{"bytes": None, "path": "/etc/passwd"}])
    table = described(pa.table({"x": image, "text": ["a"]}), x={"_type": "Image"})
    pq.write_table(table, "a.parquet")
    read = read_parquet(Path("a.parquet"), "here")
    assert not read.schema.metadata
    rows = Files(path="a.parquet", validation_fraction=0).load().train
    assert rows is not None and rows[0]["x"] == {"bytes": None, "path": "/etc/passwd"}


def test_class_names_stay_and_no_file_of_names_is_opened() -> None:
    plain = pa.table({"label": [0, 1], "tags": [[0], [1]], "text": ["a", "b"]})
    label = {"_type": "ClassLabel", "names": ["no", "yes"]}
    table = described(plain, label=label, tags={"_type": "List", "feature": label})
    pq.write_table(table, "a.parquet")
    rows = Files(path="a.parquet", validation_fraction=0).load().train
    assert rows is not None and rows.features["label"] == ClassLabel(names=["no", "yes"])
    assert rows.features["tags"] == List(ClassLabel(names=["no", "yes"]))
    for odd in (
        {"_type": "ClassLabel", "names_file": "/etc/passwd"},
        {"_type": "ClassLabel", "names": ["a", "a"]},
        {"_type": "ClassLabel", "names": 3},
        {"_type": "os.system"},
        [label],
    ):
        pq.write_table(described(plain, label=odd), "b.parquet")
        rows = Files(path="b.parquet", validation_fraction=0).load().train
        assert rows is not None and rows.features["label"] == Value("int64")


def test_types_that_are_not_plain() -> None:
    features = Features({"m": Array2D((1, 2), "int64")})
    Dataset.from_dict({"m": [[[1, 2]]]}, features=features).to_parquet("a.parquet")
    assert read_parquet(Path("a.parquet"), "here").to_pylist() == [{"m": [[1, 2]]}]
    encoded = pa.RunEndEncodedArray.from_arrays(pa.array([3], pa.int32()), pa.array(["a"]))
    with pa.ipc.new_stream("a.arrow", pa.schema([("x", encoded.type)])) as writer:
        writer.write_batch(pa.record_batch([encoded], ["x"]))
    with pytest.raises(InputError, match=r"^here: column 'x' is of type run_end_encoded"):
        read_arrow(Path("a.arrow"), "here")
    table = pa.table({"x": pa.array(["a", "b", "a"]).dictionary_encode()})
    pq.write_table(table, "d.parquet")
    assert read_parquet(Path("d.parquet"), "here").schema.field("x").type == pa.string()


def test_what_grows_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_files, "FLOOR", 1 << 20)
    monkeypatch.setattr(arrow_files, "EXPANSION", 10)
    word = "x" * 10_000
    pq.write_table(pa.table({"text": [word] * 20_000}), "a.parquet", compression="zstd")
    assert "holds more than 1,048,576 bytes; accepted" in refusal(path="a.parquet")
    indices = pa.array([0] * 20_000, pa.int8())
    array = pa.DictionaryArray.from_arrays(indices, pa.array([word]))
    with pa.ipc.new_stream("a.arrow", pa.schema([("x", array.type)])) as writer:
        writer.write_batch(pa.record_batch([array], ["x"]))
    with pytest.raises(InputError, match=r"^here: column 'x' holds 200,000,000 bytes"):
        read_arrow(Path("a.arrow"), "here")


def saved(folder: str, word: str = "mine") -> Path:
    Dataset.from_dict({"text": [f"{word} {i}" for i in range(9)]}).save_to_disk(folder)
    return Path(folder)


def test_buffers_that_contradict_each_other() -> None:
    folder = saved("a")
    file = next(folder.glob("*.arrow"))
    data = bytearray(file.read_bytes())
    place = data.index(struct.pack("<4i", 0, 6, 12, 18))
    data[place + 4 : place + 8] = struct.pack("<i", 2**30)
    file.write_bytes(data)
    assert "not a whole Arrow file" in refusal(path="a")
    text = data.replace(b"mine 3", b"min\xff 3")
    text[place + 4 : place + 8] = struct.pack("<i", 6)
    file.write_bytes(text)
    assert "not a whole Arrow file" in refusal(path="a")


def test_a_saved_folder_names_only_its_own_files() -> None:
    folder, _ = saved("a"), saved("private", "private")
    state = json.loads((folder / "state.json").read_text())
    for name in ("../private/data-00000-of-00001.arrow", "/etc/passwd", "", "..", 3, None, "a\0b"):
        state["_data_files"] = [{"filename": name}]
        (folder / "state.json").write_text(json.dumps(state))
        assert "a/state.json: names " in refusal(path="a")
    for files in ([], {}, "x", [3]):
        state["_data_files"] = files
        (folder / "state.json").write_text(json.dumps(state))
        assert "a/state.json: names " in refusal(path="a")
    link = folder / "data-00000-of-00001.arrow"
    link.unlink()
    link.symlink_to(Path("private/data-00000-of-00001.arrow").resolve())
    state["_data_files"] = [{"filename": link.name}]
    (folder / "state.json").write_text(json.dumps(state))
    assert "is a link to" in refusal(path="a")
    DatasetDict({"train": Dataset.from_dict({"a": [1]})}).save_to_disk("both")
    Path("both/dataset_dict.json").write_text('{"splits": ["../a"]}')
    assert "names '../a'" in refusal(path="both")


def test_a_saved_folder_reads_as_datasets_reads_it() -> None:
    rows = Dataset.from_dict({"a": [1, None, 3], "b": [{"c": ["x"]}, None, {"c": []}]})
    rows.save_to_disk("one", num_shards=2)
    assert read_saved(Path("one"), "here")["train"].to_list() == rows.to_list()
    DatasetDict({"train": rows, "dev": rows.select([2])}).save_to_disk("both")
    assert read_saved(Path("both"), "here")["dev"].to_list() == rows.select([2]).to_list()


def test_links_out_of_a_folder_and_pipes_are_refused(tmp_path: Path) -> None:
    Path("data").mkdir()
    Path("data/train.txt").write_text("a\nb\n")
    Path("secret.txt").write_text("secret\n")
    Path("data/more.txt").symlink_to(tmp_path / "secret.txt")
    assert "data/more.txt is a link to" in refusal(path="data")
    Path("data/more.txt").unlink()
    Path("data/train-1.txt").symlink_to("train.txt")
    Files(path="data", validation_fraction=0).load()
    os.mkfifo("pipe.txt")
    assert "pipe.txt" in refusal(train="pipe.txt")  # and it does not block
    with pytest.raises(InputError, match=r"^here: pipe.txt is not a regular file"):
        check_regular(Path("pipe.txt"), "here")


def test_a_name_that_arrow_cuts_short_is_refused() -> None:
    Path("a.json").write_text(json.dumps([{"text": "a", "b\0c": "d"}]))
    assert "column 'b\\x00c' has a NUL in its name" in refusal(train="a.json")


def test_a_column_may_hold_more_than_two_gibibytes_of_text() -> None:
    chunk = pa.array(["a" * 2**26])  # the chunks are combined in memory
    dataset = dataset_of(pa.table({"text": pa.chunked_array([chunk] * 33)}))
    assert len(dataset) == 33 and len(dataset[32]["text"]) == 2**26


def test_views_of_texts_are_texts_within_the_limit_of_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pyarrow stores the type in parquet files; many views may show the same bytes."""
    texts = ["short", None, "longer than the twelve bytes that a view holds"]
    views = pa.table({"text": pa.array(texts, pa.string_view()), "n": [1, 2, 3]})
    pq.write_table(views, "a.parquet")
    rows = Files(path="a.parquet", validation_fraction=0).load().train
    assert rows is not None and rows["text"][:] == texts
    _, view, data = pa.array(["x" * 1000], pa.string_view()).buffers()
    buffers = [None, pa.py_buffer(view.to_pybytes()[:16] * 50), data]
    many = pa.Array.from_buffers(pa.string_view(), 50, buffers)
    monkeypatch.setattr(arrow_files, "FLOOR", 0)
    monkeypatch.setattr(arrow_files, "EXPANSION", 10)
    for texts in (many, pa.ListArray.from_arrays([0, *range(1, 51)], many)):
        table = pa.table({"text": texts})
        with pa.OSFile("many.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table)
        with pytest.raises(InputError, match="^here: column 'text' holds 50,000 bytes; accepted: "):
            read_arrow(Path("many.arrow"), "here")


def test_views_within_lists_structs_and_dictionaries_are_texts() -> None:
    view = pa.string_view()
    long = "longer than the twelve bytes that a view holds"
    cells = {
        "tokens": pa.array([["a", long], None, []], pa.list_(view)),
        "pair": pa.array([["a", long], None, ["b", "c"]], pa.list_(view, 2)),
        "nested": pa.array([[{"x": "a", "n": 1}], [], None], pa.large_list(
            pa.struct([("x", view), ("n", pa.int64())]))),
        "bytes": pa.array([b"a", long.encode(), None], pa.binary_view()),
    }  # fmt: skip
    table = pa.table(cells)
    pq.write_table(pa.table({"tokens": cells["tokens"]}), "a.parquet")
    assert read_parquet(Path("a.parquet"), "here")["tokens"].to_pylist() == [["a", long], None, []]
    assert plain_table(table, 100, "here").to_pylist() == table.to_pylist()
    assert plain_table(table.slice(1), 100, "here").to_pylist() == table.to_pylist()[1:]
    words = pa.DictionaryArray.from_arrays([1, 0, None], pa.array(["a", long], view))
    assert plain_table(pa.table({"word": words}), 100, "here")["word"].to_pylist() == [
        long, "a", None
    ]  # fmt: skip


def test_maps_become_lists_of_entries(tmp_path: Path) -> None:
    """As Spark writes them; `datasets` knows no maps."""
    kind = pa.map_(pa.string(), pa.int64())
    cells = [[("a", 1), ("b", 2)], None, []]
    columns = {
        "plain": pa.array(cells, kind),
        "listed": pa.array([[each] for each in cells], pa.list_(kind)),
        "inner": pa.array([{"m": each} for each in cells], pa.struct([("m", kind)])),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = Files(train=str(tmp_path / "a.parquet"), validation_fraction=0).load().train[:]
    entries = [[{"key": "a", "value": 1}, {"key": "b", "value": 2}], None, []]
    assert found == {
        "plain": entries,
        "listed": [[each] for each in entries],
        "inner": [{"m": each} for each in entries],
    }


def test_types_that_datasets_lacks_are_refused() -> None:
    for kind in (pa.month_day_nano_interval(), pa.decimal32(5, 2), pa.list_(pa.decimal64(9, 2))):
        with pytest.raises(InputError, match="^x: column 'a' is of type .*; accepted: numbers"):
            plain_table(pa.table({"a": pa.nulls(2, kind)}), 100, "x")
