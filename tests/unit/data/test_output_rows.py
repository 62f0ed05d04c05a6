"""Output files: format by name, atomic replacement, links and pipes."""

import csv
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from trainer.checkpoint import files
from trainer.data import output_rows
from trainer.data.output_format import FORMATS, output_format, refuse_own_input
from trainer.data.output_rows import STREAMED, write_rows
from trainer.data.sources import read_files
from trainer.errors import InputError
from trainer.runs.run import OutputSettings
from trainer.stores.run_store import local_folder

ROWS: list[dict[str, Any]] = [
    {"text": 'a "b",\tc\nd', "id": "007", "label": "x", "probabilities": {"x": 0.75, "y": 0.25}},
    {"text": "é", "id": None, "label": "y", "probabilities": {"x": float("nan"), "y": 1.0}},
]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.open(encoding="utf-8")]


def test_each_format_is_read_back(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.ndjson", "a.json", "a.csv", "a.tsv", "a.parquet", "a.CSV"):
        write_rows(str(tmp_path / "new" / name), iter(ROWS))
    wanted = [{**ROWS[0]}, {**ROWS[1], "probabilities": {"x": None, "y": 1.0}}]
    folder = tmp_path / "new"
    assert read(folder / "a.jsonl") == read(folder / "a.ndjson") == wanted
    assert json.loads((folder / "a.json").read_text()) == wanted
    assert pq.read_table(folder / "a.parquet").to_pylist() == wanted
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t"), ("a.CSV", ",")):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file, delimiter=delimiter))
        assert [row["text"] for row in found] == [row["text"] for row in ROWS]
        assert found[0]["id"] == "007" and found[1]["id"] == ""
        assert found[0]["probabilities.x"] == "0.75" and found[1]["probabilities.x"] == ""
    assert {path.name for path in folder.iterdir()} == {
        "a.jsonl", "a.ndjson", "a.json", "a.csv", "a.tsv", "a.parquet", "a.CSV",
    }  # fmt: skip


def test_a_table_has_the_columns_of_all_rows(tmp_path: Path) -> None:
    """A pipe gets the header with the first row, so a later row with other columns is refused."""
    rows = [{"a": 1}, {"b": "x", "probabilities": {"y": 0.5}}]
    write_rows(str(tmp_path / "a.csv"), iter(rows))
    assert (tmp_path / "a.csv").read_text() == "a,b,probabilities.y\n1,,\n,x,0.5\n"
    with pytest.raises(InputError, match="a row with a column 'b', which the first row lacks"):
        list(STREAMED["csv"](iter(rows)))


def test_vectors_alone_are_written_as_an_array(tmp_path: Path) -> None:
    vectors = [[0.1, -2.0, 3e-5], [1.0, 0.0, 7.25]]
    rows = [{"text": "x", "embedding": vector} for vector in vectors]
    write_rows(str(tmp_path / "a.npy"), iter(rows))
    found = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert found.dtype == np.float32 and np.array_equal(found, np.array(vectors, np.float32))


def test_each_format_that_is_written_is_read_as_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in FORMATS.keys() - {".npy"}:  # vectors, without rows
        write_rows(f"a{ending}", iter([{"text": "x", "label": "b"}, {"text": "y", "label": "c"}]))
        assert read_files(f"a{ending}", "input.file").to_list() == [
            {"text": "x", "label": "b"},
            {"text": "y", "label": "c"},
        ]
    Path("both").mkdir()
    for name in ("train-0.ndjson", "train-1.jsonl"):
        shutil.copy("a.jsonl", f"both/{name}")
    assert len(read_files("both", "input.file")) == 4


def test_parquet_takes_several_groups_and_types_that_differ(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(output_rows, "ROWS_AT_A_TIME", 3)
    rows = [{"n": None if i < 4 else i, "mixed": [1, "a"] if i % 2 else i} for i in range(8)]
    write_rows(str(tmp_path / "a.parquet"), iter(rows))
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.num_row_groups == 3
    found = file.read().to_pylist()
    assert [row["n"] for row in found] == [None] * 4 + [4, 5, 6, 7]
    assert [json.loads(row["mixed"]) for row in found] == [row["mixed"] for row in rows]


def test_a_name_that_tells_no_format_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    accepted = r"accepted: .jsonl, .ndjson, .json, .csv, .tsv, .parquet"
    for name in ("a.xlsx", "a.txt", "a.csv.gz", "answers"):
        with pytest.raises(InputError, match=accepted):
            OutputSettings(file=str(tmp_path / name))
    with pytest.raises(InputError, match="found the folder"):
        OutputSettings(file=str(tmp_path))
    assert output_format("/dev/stdout") == output_format("/dev/fd/3") == "jsonl"


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    for name in ("link.jsonl", "to_nothing.jsonl"):
        target = "real" if name == "link.jsonl" else "made"
        (tmp_path / name).symlink_to(target)
        write_rows(str(tmp_path / name), iter(ROWS[:1]))
        assert (tmp_path / name).is_symlink() and read(tmp_path / target) == ROWS[:1]


def test_a_pipe_gets_each_row_as_it_comes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(pipe.open().readlines()))
    reader.start()
    write_rows(str(pipe), iter(ROWS[:1]))
    reader.join(600)
    assert json.loads(found[0]) == ROWS[0] and pipe.is_fifo()


def test_a_pipe_whose_reader_leaves_ends_the_answers(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def rows() -> Any:
        yield ROWS[0]
        os.close(reader)
        while True:
            yield ROWS[0]

    with pytest.raises(BrokenPipeError):
        write_rows(str(pipe), rows())


def test_devices_and_descriptors_are_written_to_as_they_are(tmp_path: Path) -> None:
    write_rows("/dev/null", iter(ROWS))
    assert not Path("/dev/null").is_file()
    with (tmp_path / "shared").open("w+") as file:
        file.write("before\n")
        file.flush()
        write_rows(f"/dev/fd/{file.fileno()}", iter(ROWS[:1]))
        file.seek(0)
        assert file.readline() == "before\n" and json.loads(file.readline()) == ROWS[0]


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("old")

    def rows() -> Any:
        yield ROWS[0]
        raise InputError("row 1")

    with pytest.raises(InputError):
        write_rows(str(tmp_path / "a.csv"), rows())
    assert (tmp_path / "a.csv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_new_folder_survives_a_power_failure_with_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def hook(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation) == ("after", "fsync"):
            synced.append(paths[0])

    monkeypatch.setattr(files, "hook", hook)
    write_rows(str(tmp_path / "new" / "folder" / "a.jsonl"), iter(ROWS))
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "folder"} <= set(synced)


def test_an_output_that_would_replace_its_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("{}\n")
    Path("link.jsonl").symlink_to("rows.jsonl")
    refuse_own_input("other.jsonl", "rows.jsonl")
    refuse_own_input("/dev/stdout", "rows.jsonl")
    for output in ("rows.jsonl", "./rows.jsonl", "link.jsonl"):
        with pytest.raises(InputError, match="is input.file; accepted: another file"):
            refuse_own_input(output, "rows.jsonl")
        with pytest.raises(InputError, match="is input.file; accepted: another file"):
            refuse_own_input(output, ["other.jsonl", "rows.jsonl"])


def test_every_line_break_within_a_cell_is_quoted(tmp_path: Path) -> None:
    texts = ["a\rb", "a\nb", "a\r\nb", "\r", "a"]
    for ending in ("csv", "tsv"):
        write_rows(str(tmp_path / f"a.{ending}"), ({"text": text, "n": 1} for text in texts))
        with (tmp_path / f"a.{ending}").open(newline="", encoding="utf-8") as file:
            delimiter = "," if ending == "csv" else "\t"
            assert [row["text"] for row in csv.DictReader(file, delimiter=delimiter)] == texts
    assert read_files(str(tmp_path / "a.csv"), "input.file")["text"][:] == texts


def test_parquet_takes_values_that_it_has_no_type_for(tmp_path: Path) -> None:
    rows = [{"large": 2**70, "empty": {}, "inner": [{"a": {}}]}, {"large": 1, "empty": None}]
    write_rows(str(tmp_path / "a.parquet"), iter(rows))
    found = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert found[0] == {"large": str(2**70), "empty": "{}", "inner": '[{"a": {}}]'}
    assert found[1] == {"large": "1", "empty": None, "inner": None}


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_rows("~/a.jsonl", iter(ROWS))
    assert (tmp_path / "home" / "a.jsonl").exists() and not Path("~").exists()
    for name in ("~/a.jsonl", f"file://{tmp_path}/home/a.jsonl"):
        with pytest.raises(InputError, match="is input.file; accepted: another file"):
            refuse_own_input(name, str(tmp_path / "home" / "a.jsonl"))
    with pytest.raises(InputError, match="found the folder '~'"):
        output_format("~")
    assert local_folder("~/runs") == tmp_path / "home" / "runs"
