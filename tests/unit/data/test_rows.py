"""Rows: loading from all sources, splitting and renaming; one-line errors for bad input."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, disable_progress_bars

from trainer.data.row_locations import location_of, record_places, select_rows
from trainer.data.rows import Files, label_column, text_column
from trainer.data.splits import held_out
from trainer.errors import InputError

ROWS = {"text": ["a, b", 'said "no', "c", "\u00e9\u2028f"], "label": [0, 1, 1, 0]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    disable_progress_bars()
    return tmp_path


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def jsonl(name: str, texts: list[str]) -> str:
    return write(name, "".join(json.dumps({"text": text, "label": 1}) + "\n" for text in texts))


def whole(name: str, **options: object) -> Dataset:
    train = Files(train=name, validation_fraction=0, **options).load().train  # type: ignore[arg-type]
    assert train is not None
    return train


def refusal(**options: object) -> str:
    with pytest.raises(InputError) as error:
        Files(**options).load()  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    return message


def test_chosen_rows_keep_the_locations_that_are_texts() -> None:
    rows = record_places(Dataset.from_dict({"n": range(5)}), [f"a.tar:{n}" for n in range(5)])
    chosen = select_rows(select_rows(rows, np.array([4, 1, 3])), np.array([2, 0]))
    found = [location_of(chosen, row, "dataset.train") for row in range(2)]
    assert found == ["dataset.train: a.tar:3", "dataset.train: a.tar:4"]


def test_every_format_gives_the_same_rows() -> None:
    table = pa.table(ROWS)
    pairs = list(zip(ROWS["text"], ROWS["label"], strict=True))
    objects = [json.dumps({"text": text, "label": label}) for text, label in pairs]
    quoted = "".join('"{}",{}\r\n'.format(text.replace('"', '""'), label) for text, label in pairs)
    write("a.csv", "\ufefftext,label\r\n" + quoted)
    write("a.tsv", "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in pairs))
    write("a.jsonl", "\n".join(objects) + "\n\n")
    write("a.json", "[" + ",\n".join(objects) + "]")
    write("b.json", "\n".join(objects))
    pq.write_table(table, "a.parquet")
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.json", "b.json", "a.parquet"):
        assert whole(name)[:] == ROWS, name
    assert whole(write("a.txt", "a\r\n\nb\u2028c"))[:] == {"text": ["a", "", "b\u2028c"]}
    assert whole(write("a.conll", "a\tO\nb\tB-x\n\n\nc\tO\n"))[:] == {
        "tokens": [["a", "b"], ["c"]],
        "tags": [["O", "B-x"], ["O"]],
    }


def test_cells_are_numbers_only_if_nothing_is_lost() -> None:
    rows = whole(write("a.csv", "i,f,g,zeros,words,empty\n1,0.5,0.50,007,NA,\n-2,,,1,null,\n"))
    assert rows[:] == {
        "i": [1, -2],
        "f": [0.5, None],
        "g": ["0.50", ""],
        "zeros": ["007", "1"],
        "words": ["NA", "null"],
        "empty": ["", ""],
    }
    assert whole(write("b.csv", "x\nnan\ninf\n"))["x"][:] == ["nan", "inf"]
    for cells in (["98765432109876543210", "1"], ["1", "1.5"], ["-0", "1"], ["1e5", "2.0"]):
        assert whole(write("d.csv", "\n".join(["x", *cells])))["x"][:] == cells
    assert whole(write("c.csv", f"x\n{'y' * 200_000}\n"))["x"][0] == "y" * 200_000


def test_objects_may_lack_keys_and_whole_floats_may_be_ints() -> None:
    rows = whole(write("a.jsonl", '{"a": 1}\n{"b": "x"}\n{"a": 2.5}\n'))
    assert rows[:] == {"a": [1, None, 2.5], "b": [None, "x", None]}


def test_without_a_header_columns_are_numbers_to_be_renamed() -> None:
    name = write("a.tsv", "good\t1\nbad\t0\n")
    for columns in ({0: "text", 1: "label"}, {"0": "text", "1": "label"}):
        rows = whole(name, has_header=False, columns=columns)
        assert rows[:] == {"text": ["good", "bad"], "label": [1, 0]}
    assert "has_header=false" in refusal(train=name, columns={"0": "text"})


def test_files_of_a_folder_name_its_splits() -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "dev", "README"):
        jsonl(f"hub/data/{name}.jsonl", [name, name + "!"])
    jsonl("hub/.cache/train.jsonl", ["hidden"])
    splits = Files(path="hub").load()
    assert splits.train is not None and splits.test is None
    first, second = "train-00000-of-00002", "train-00001-of-00002"
    assert splits.train["text"][:] == [first, first + "!", second, second + "!"]
    assert list(splits.validation) == [""] and splits.validation[""]["text"][0] == "dev"
    jsonl("hub/data/extra.jsonl", ["extra"])
    assert refusal(path="hub").startswith(
        "dataset.path: hub/data/extra.jsonl: not named after a split; accepted: "
    )
    named = Files(path="hub", validation={"a": "dev", "b": "extra"}).load().validation
    assert {name: rows["text"][0] for name, rows in named.items()} == {"a": "dev", "b": "extra"}
    found = refusal(path="hub", train="trian")
    assert found == (
        "dataset.train: no split 'trian'; there are: dev, validation, extra, train; "
        "did you mean 'train'?"
    )
    jsonl("byfolder/test/0000.jsonl", ["t"])
    jsonl("byfolder/train/0000.jsonl", ["a", "b"])
    by_folder = Files(path="byfolder", validation_fraction=0).load()
    assert by_folder.test is not None and by_folder.test["text"][:] == ["t"]
    jsonl("parts/b.jsonl", ["b"])
    jsonl("parts/a.jsonl", ["a"])
    for path in ("parts", "parts/*.jsonl"):
        parts = Files(path=path, validation_fraction=0).load().train
        assert parts is not None and parts["text"][:] == ["a", "b"]
    lone = Files(path="byfolder/test/0000.jsonl", validation_fraction=0).load()
    assert lone.train is not None and lone.test is None


FOLDERS = {
    "folders": ["train/data.csv", "test/data.csv"],
    "case": ["Train.csv", "TEST.CSV"],
    "prefixes": ["imdb_train.csv", "imdb_test.csv"],
    "camel": ["imdbTrain.csv", "imdbTest.csv"],
    "spark": ["train/part-00000-ab12.snappy.csv", "test/part-00000-ab12.snappy.csv"],
    "numbers": ["train/0000.csv", "testset/0000.csv"],
    "above": ["training data/a/x.csv", "test data/a/x.csv"],
    "held": ["reviews.train.csv", "reviews-held-out.csv"],
    "compressed": ["train.csv.gz", "test.csv.gz"],
    "documents": ["train.csv", "test.csv", "README.txt", "LICENSE.txt", "dataset_infos.json"],
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_held_out_files_never_train(kind: str) -> None:
    for number, name in enumerate(FOLDERS[kind]):
        content = f"text,label\na {number},x\nb {number},y\n".encode()
        write(f"{kind}/{name}", gzip.compress(content) if name.endswith("gz") else content)
    splits = Files(path=kind, validation_fraction=0).load()
    assert splits.train is not None and splits.test is not None
    assert splits.train["text"][:] == ["a 0", "b 0"]
    assert splits.test["text"][:] == ["a 1", "b 1"]
    assert "is named after test rows; accepted: files of one split" in refusal(train=kind)
    pattern = f"{kind}/**/*.*"
    if kind != "documents":
        by_glob = Files(path=pattern, validation_fraction=0).load()
        assert by_glob.train is not None and by_glob.train["text"][:] == ["a 0", "b 0"]


def test_files_that_name_no_split_or_two_are_refused_by_name() -> None:
    write("two/train_test.csv", "text\na\n")
    write("two/x.csv", "text\na\n")
    found = refusal(path="two")
    assert found.startswith("dataset.path: two/train_test.csv is named after test and train; ")
    write("nested/train/dev.csv", "text\na\n")
    assert "nested/train/dev.csv is named after train and validation" in refusal(path="nested")
    for name, word in (
        ("x.xlsx", "Excel files are not read; accepted: each sheet saved as CSV (UTF-8)"),
        ("x.arrow", "unknown ending '.arrow'"),
        ("x.pkl", "pickle files are not read"),
        ("sample_submission.csv", "not named after a split"),
    ):
        folder = f"more-{name}"
        write(f"{folder}/train.csv", "text\na\n")
        write(f"{folder}/{name}", "text\na\n")
        assert f"{folder}/{name}: {word}" in refusal(path=folder)


def test_compressed_files_give_the_same_rows() -> None:
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    packed["zst"] = lambda data: pa.compress(data, "zstd", asbytes=True)
    pq.write_table(pa.table(ROWS), "a.parquet")
    jsonl("a.jsonl", ["x", "y"])
    jsonl("a.json", ["x", "y"])
    write("a.csv", "text,label\nx,1\n")
    write("a.txt", "x\ny\n")
    for name in ("a.parquet", "a.jsonl", "a.json", "a.csv", "a.txt"):
        for ending, pack in packed.items():
            write(f"b/{name}.{ending}", pack(Path(name).read_bytes()))
            assert whole(f"b/{name}.{ending}")[:] == whole(name)[:], (name, ending)
    for ending in packed:
        data = Path(f"b/a.csv.{ending}").read_bytes()
        found = refusal(train=write(f"cut.csv.{ending}", data[:-3]))
        assert f"cut.csv.{ending}: not a whole .{ending} file (" in found


def test_the_format_that_is_set_reads_and_locates_rows() -> None:
    """Whatever the ending of the file would say."""
    write("rows.txt", "text\tlabel\n'a\t1\n\nb\t0\n")
    write("rows.csv", '\n{"text": "a"}\n{"text": "b"}\n')
    cases = {
        "tsv": ("rows.txt", (2, 4)),
        "ndjson": ("rows.csv", (2, 3)),
        "jsonl": ("rows.csv", (2, 3)),
    }
    for form, (name, lines) in cases.items():
        rows = whole(name, format=form)
        found = [location_of(rows, row, "dataset.train") for row in range(2)]
        assert found == [f"dataset.train: {name}:{line}" for line in lines], form
    rows = whole("rows.txt", format="txt")
    assert location_of(rows, 0, "dataset.train") == "dataset.train: rows.txt:1"


def test_a_file_beside_its_compressed_copy_is_refused() -> None:
    jsonl("twice/train.jsonl", ["a"])
    Path("twice/train.jsonl.gz").write_bytes(gzip.compress(Path("twice/train.jsonl").read_bytes()))
    assert "train.jsonl and a compressed copy" in refusal(path="twice")
    assert "train.jsonl and a compressed copy" in refusal(train="twice/*")


def test_spreadsheets_and_windows_files_are_read() -> None:
    assert whole(write("a.csv", "sep=;\r\ntext;label\r\na, b;1\r\n"))[:] == {
        "text": ["a, b"],
        "label": [1],
    }
    assert "a.csv:4: 1 column, but 2" in refusal(
        train=write("a.csv", "sep=;\ntext;label\na;1\nb\n")
    )
    german = whole(write("b.csv", "text;label\na, b;1\n"), delimiter=";")
    assert german[:] == {"text": ["a, b"], "label": [1]}
    name = write("c.csv", "text\nit\u2019s\n".encode("cp1252"))
    assert refusal(train=name) == (
        "dataset.train: c.csv:2: byte 0x92 is not UTF-8; text files must be UTF-8; for another "
        "encoding set dataset.encoding=cp1252"
    )
    assert whole(name, encoding="cp1252")["text"][:] == ["it\u2019s"]
    for odd in ("latin-99", "undefined", "rot13"):
        assert f"dataset.encoding: found '{odd}'" in refusal(train=name, encoding=odd)
    assert whole(write("d.csv", "text\nit\u2019s\n".encode("utf-16")))["text"][:] == ["it\u2019s"]


def test_rows_may_lie_under_a_key() -> None:
    rows = whole(write("a.json", '{"version": "1", "data": [{"text": "a"}, {"text": "b"}]}'))
    assert rows["text"][:] == ["a", "b"]
    text = '{\n "text": "a",\n "n": [1,\n 2]\n} {\n "text": "b"\n}\n\n{"text": "c"}\n'
    rows = whole(write("c.json", text))
    assert rows["text"] == ["a", "b", "c"] and rows["n"] == [[1, 2], None, None]
    with pytest.raises(InputError, match="d.json:6: bad JSON, Expecting property name"):
        whole(write("d.json", text.replace(' "text": "b"', " oops")))
    with pytest.raises(InputError, match="e.json:5: .*key 'text' occurs twice"):
        whole(write("e.json", text.replace('"text": "b"', '"text": "b", "text": "b"')))
    one = whole(write("b.json", '{"messages": [{"role": "user"}]}'))
    assert one["messages"][:] == [[{"role": "user"}]]


def test_a_pipe_is_named_as_one() -> None:
    os.mkfifo("pipe")
    assert refusal(train="pipe").startswith("dataset.train: pipe is a pipe or a device; accepted: ")


def test_files_of_an_installed_package_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("shipped_rows/__init__.py", "raise RuntimeError('imported')")
    jsonl("shipped_rows/data/train.jsonl", ["a"])
    monkeypatch.syspath_prepend(folder)
    assert whole("pkg://shipped_rows/data")["text"][:] == ["a"]
    assert refusal(path="pkg://no_such_package/data").startswith("dataset.path: ")


def test_what_save_to_disk_wrote_loads_with_its_label_names() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    DatasetDict({"train": rows, "validation": rows.select([1])}).save_to_disk("both")
    rows.save_to_disk("one")
    splits = Files(path="both").load()
    assert splits.train is not None and splits.train.features["label"].names == ["no", "yes"]
    assert splits.validation[""]["text"][:] == ["b"]
    one = Files(path="one", validation_fraction=0).load().train
    assert one is not None and one[:] == rows[:]
    Path("one/state.json").write_text("{")
    assert refusal(path="one").startswith("dataset.path: one/state.json: not JSON (")


def test_a_changed_file_is_read_anew_and_nothing_is_left_on_disk(folder: Path) -> None:
    name = jsonl("a.jsonl", ["a", "b"])
    assert whole(name)["text"][:] == ["a", "b"]
    times = Path(name).stat()
    jsonl("a.jsonl", ["a", "c"])
    os.utime(name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert whole(name)["text"][:] == ["a", "c"]
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]


def test_held_out_rows_depend_on_content_alone() -> None:
    texts = [f"text {i}" for i in range(200)]
    made = Files(train=jsonl("a.jsonl", texts + texts[:20])).load()
    assert made.train is not None
    held = set(made.validation[""]["text"])
    assert len(made.train) + len(made.validation[""]) == 220
    assert held.isdisjoint(made.train["text"]) and 20 <= len(made.validation[""]) <= 24
    turned = Files(train=jsonl("b.jsonl", (texts + texts[:20])[::-1])).load()
    assert set(turned.validation[""]["text"]) == held
    other = Files(train="a.jsonl", seed=1).load()
    assert set(other.validation[""]["text"]) != held
    grown = Files(train=jsonl("c.jsonl", [*texts, *texts[:20], "one more"])).load()
    assert len(set(grown.validation[""]["text"]) ^ held) <= 2
    one_row = refusal(train=jsonl("d.jsonl", ["same", "same"]))
    assert "dataset.validation_fraction=0" in one_row


@pytest.mark.parametrize("stratify_by", [None, "label"])
def test_copies_of_a_row_are_not_most_of_what_is_held_out(stratify_by: str | None) -> None:
    rows = [{"text": f"row {n}", "label": n % 2} for n in range(60)]
    jsonl_rows = [*rows, *[{"text": "", "label": 0}] * 240]
    write("a.jsonl", "".join(f"{json.dumps(row)}\n" for row in jsonl_rows))
    for seed in range(20):
        splits = Files(train="a.jsonl", seed=seed, stratify_by=stratify_by).load()
        assert 30 <= len(splits.validation[""]) <= 33, "a tenth"
    write("b.jsonl", '{"text": "a"}\n' * 50 + '{"text": "b"}\n' * 50)
    assert len(Files(train="b.jsonl").load().validation[""]) == 50, "there is no other way"


def test_an_empty_name_of_a_split_is_the_usual_one() -> None:
    """`dataset.validation=$NAME` on the command line, where the variable is not set."""
    jsonl("d/train.jsonl", ["a"])
    jsonl("d/dev.jsonl", ["b"])
    splits = Files(path="d", train="", validation="", test="").load()
    assert splits.train is not None and splits.train["text"][:] == ["a"]
    assert splits.validation[""]["text"][:] == ["b"]


def test_at_most_twice_the_share_is_held_out_and_no_less_than_is_near_it() -> None:
    def sizes(*copies: int, fraction: float = 0.1) -> set[int]:
        keys = [f"{row}" for row, times in enumerate(copies) for _ in range(times)]
        return {int(held_out(keys, fraction, seed).sum()) for seed in range(30)}

    assert max(sizes(*[1] * 80, *[19] * 6)) <= 38, "19 copies after up to 18 other rows"
    assert sizes(300, 300, 300, 2) == {302}, "2 rows would be too few to evaluate on"
    assert sizes(900, *[1] * 10) == {10}, "900 rows would be too many"
    assert sizes(900, 1) == {1}, "all rows would be held out"
    assert sizes(100, 100) == {100}, "there is no other way"


@pytest.mark.parametrize("copies", [1, 2])
def test_few_copies_of_rows_do_not_change_what_is_held_out(copies: int) -> None:
    """The split is part of a run's data: a resumed run must get the same one."""
    keys = [f"{row // copies}" for row in range(100)]
    digests = [blake2b(f"3:{key}".encode(), digest_size=8).digest() for key in keys]
    hashes = [int.from_bytes(digest, "little") for digest in digests]
    bound = sorted(hashes)[9]
    assert held_out(keys, 0.1, 3).tolist() == [each <= bound for each in hashes]


def test_limits_take_a_seeded_sample_in_order() -> None:
    texts = [f"{i:03}" for i in range(100)]
    jsonl("a.jsonl", texts)
    jsonl("b.jsonl", [text + "b" for text in texts])
    options = {"train": "a.jsonl", "validation": "b.jsonl", "test": "b.jsonl"}

    def taken(**more: int) -> list[list[str]]:
        splits = Files(**options, **more).load()  # type: ignore[arg-type]
        assert splits.train is not None and splits.test is not None
        return [list(rows["text"]) for rows in (splits.train, splits.validation[""], splits.test)]

    train, validation, test = taken(max_train_rows=10, max_eval_rows=5)
    assert len(train) == 10 and len(validation) == 5 and validation == test
    assert train == sorted(train) != texts[:10]
    assert [train, validation, test] == taken(max_train_rows=10, max_eval_rows=5)
    assert set(train) < set(taken(max_train_rows=20)[0])
    assert taken(max_train_rows=10, seed=1)[0] != train
    assert taken(max_train_rows=1000)[0] == texts


def test_shared_rows_are_counted_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    jsonl("a.jsonl", ["a", "b", "c"])
    jsonl("b.jsonl", ["c", "d", "c"])
    Files(train="a.jsonl", validation={"dev": "b.jsonl"}).load()
    assert caplog.messages == ["dataset.validation.dev: 2 of 3 rows are in dataset.train too"]
    caplog.clear()
    write("a.conll", "a\tO\n\nb\tO\n")
    write("b.conll", "b\tO\n\nc\tO\n")
    Files(train="a.conll", validation="b.conll").load()
    assert caplog.messages == ["dataset.validation: 1 of 2 rows is in dataset.train too"]


def test_columns_are_renamed_and_may_be_swapped() -> None:
    name = write("a.jsonl", '{"a": "x", "b": "y"}\n')
    assert whole(name, columns={"a": "b", "b": "a"})[:] == {"b": ["x"], "a": ["y"]}
    assert refusal(train=name, columns={"bb": "c"}) == (
        "dataset.columns: dataset.train: a.jsonl: no column 'bb'; there are: a, b; "
        "did you mean 'b'?"
    )
    assert "a and b would both be 'b'; rename one" in refusal(train=name, columns={"a": "b"})
    assert "a and b would both be 'c'" in refusal(train=name, columns={"a": "c", "b": "c"})


def test_a_test_set_may_lack_the_label() -> None:
    write("a.jsonl", '{"x": "a", "y": 1}\n{"x": "b", "y": 0}\n')
    write("t.jsonl", '{"x": "c"}\n')
    test = Files(train="a.jsonl", test="t.jsonl", columns={"x": "text", "y": "label"}).load().test
    assert test is not None and test[:] == {"text": ["c"]}


BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "bad.jsonl": ('{"a": 1}\n\n{"a": \n', ":3: bad JSON, Expecting value at column 7"),
    "deep.jsonl": ('{"a":' + "[" * 100_000, ":1: bad JSON, nested too deeply"),
    "list.jsonl": ("[1]\n", ":1: found a list; each row must be an object"),
    "twice.jsonl": (
        '{"a": 1}\n{"a": 1, "b": {"c": 1, "c": 2}}\n',
        ":2: bad JSON, key 'c' occurs twice in one object",
    ),
    "twice.json": ('[{"a": 1, "a": 2}]', ":1: bad JSON, key 'a' occurs twice in one object"),
    "wrapped.json": (
        '{"data":\n[{"a": 1, "a": 2}]}',
        ":1: bad JSON, key 'a' occurs twice in one object",
    ),
    "surrogate.jsonl": ('{"a": "\\ud800"}', ": column 'a': "),
    "key.jsonl": ('{"\\ud800": 1}', ": column '\\ud800' has half of a surrogate pair in its name"),
    "digits.jsonl": ('{"a": ' + "9" * 5000 + "}", ":1: bad JSON, Exceeds the limit (4300 digits)"),
    "null.json": ("null", ":1: found null; each row must be an object"),
    "scalar.json": ("3", ":1: found a number; each row must be an object"),
    "text.json": ('"abc"', ":1: found a text; each row must be an object"),
    "utf16.csv": ("a,b\n".encode("utf-16-be"), ":1: byte 0x00 at the start, as in UTF-16 without"),
    "bad.json": ('[{"a": 1},\n{"a": 2]', ":2: bad JSON, Expecting ',' delimiter at column 8"),
    "numbers.json": ("[1, 2]", ": row 1: found a number; each row must be an object"),
    "empty.jsonl": ("", ": no rows; at least one is needed"),
    "empty.csv": ("", ": no rows"),
    "empty.csv.gz": ("", ": not a whole .gz file (no bytes)"),
    "empty.csv.bz2": ("", ": not a whole .bz2 file (no bytes)"),
    "header.csv": ("text,label\n", ": no rows"),
    "ragged.csv": ("a,b\n1,2\n1,2,3\n", ":3: 3 columns, but 2 in the first line"),
    "open.csv": ('a,b\n"x,1\n', ":2: bad quoting (unexpected end of data)"),
    "twice.csv": ("a,a\n1,2\n", ":1: column 'a' occurs twice"),
    "below.csv": ("sep=;\n\na;a\n1;2\n", ":3: column 'a' occurs twice"),
    "semicolons.csv": (
        "text;label\na;b\n",
        ":1: found one column, 'text;label'; accepted: columns separated by ',', or another "
        "dataset.delimiter",
    ),
    "latin.csv": (b"a\nx\n\xe9t\n", ":3: byte 0xe9 is not UTF-8"),
    "latin.jsonl": (b'{"a": "\xe9"}', ":1: byte 0xe9 is not UTF-8"),
    "bad.conll": (
        "a\tO\nb O\n",
        ":2: 'b O' has 1 cell (separated by TABs); accepted: 2, as in line 1",
    ),
    "empty.conll": (
        "a\tO\nb\t \n",
        ":2: 'b\\t ' has an empty cell; accepted: 2 cells with content",
    ),
    "bad.parquet": (b"PAR1xxxx", ": not a whole parquet file ("),
    "empty.parquet": (b"", ": not a whole parquet file ("),
    "a.pkl": (b"", ": pickle files are not read; accepted: .csv "),
    "pickled.jsonl": (pickle.dumps({}), ": pickle files are not read"),
    "noending": (b"\x00\x01", ": no known ending, and binary data inside; accepted: text, or pa"),
    "a.arrow": ("a", ": unknown ending '.arrow'; accepted: .csv "),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_one_line(name: str) -> None:
    content, found = BAD_FILES[name]
    write(name, content)
    assert refusal(train=name).startswith(f"dataset.train: {name}{found}")


def test_empty_files_among_others_add_no_rows() -> None:
    rows = {"csv": "text,label\na,1\n", "jsonl": '{"text": "a", "label": 1}\n'}
    for ending, cells in rows.items():
        write(f"parts/{ending}/part-0.{ending}", "")
        write(f"parts/{ending}/part-1.{ending}", cells)
        write(f"parts/{ending}/part-2.{ending}", "")
        assert whole(f"parts/{ending}")[:] == {"text": ["a"], "label": [1]}
    write("tagged/0.conll", "")
    write("tagged/1.conll", "EU NNP B-ORG\n")
    assert whole("tagged")[:] == {"tokens": [["EU"]], "1": [["NNP"]], "tags": [["B-ORG"]]}


def test_byte_order_marks_name_the_encoding() -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        write("a.csv", "text,label\né,1\n".encode(encoding))
        assert whole("a.csv")[:] == {"text": ["é"], "label": [1]}


def test_a_path_is_no_hint_at_itself() -> None:
    Path("empty.csv").mkdir()
    Path("link.csv").symlink_to("nowhere.csv")
    for name in ("empty.csv", "link.csv"):
        assert "did you mean" not in refusal(train=name)


def test_a_parquet_file_cut_anywhere_is_refused() -> None:
    pq.write_table(pa.table({"text": ["a" * 100, "b" * 100]}), "a.parquet")
    data = Path("a.parquet").read_bytes()
    for size in (0, 4, len(data) // 2, len(data) - 1):
        write("cut.parquet", data[:size])
        assert "cut.parquet: not a whole parquet file (" in refusal(train="cut.parquet")
    write("zero.parquet", data[:20] + bytes(40) + data[60:])
    assert "zero.parquet: not a whole parquet file (" in refusal(train="zero.parquet")


def test_bad_settings_are_refused_in_one_line() -> None:
    jsonl("d/train.jsonl", ["a", "b"])
    jsonl("d/dev.jsonl", ["c"])
    write("d/x.csv", "text,label\na,1\n")
    write("d/y.csv", "text,other\na,1\n")
    Path("hollow").mkdir()
    write("mixed/x.csv", "text,label\na,1\n")
    jsonl("mixed/y.jsonl", ["a"])
    cases: list[tuple[dict[str, object], str]] = [
        ({}, "dataset: nothing to load; give dataset.path or dataset.train"),
        (
            {"train": "d/x.csv", "columns": {"text": ""}},
            "'text' would have an empty name; accepted: ",
        ),
        (
            {"train": "d/x.csv", "encoding": "a\0b"},
            "dataset.encoding: found 'a\0b'; accepted: utf-8",
        ),
        ({"train": ""}, "dataset.train: found an empty path; accepted: a file, a folder or a glob"),
        ({"path": ""}, "dataset.path: found an empty path; accepted: a file, a folder or a glob"),
        (
            {"train": "d/x.csv", "validation": {"x": ""}},
            "dataset.validation.x: found an empty path",
        ),
        ({"train": "d/tran.jsonl"}, "d/tran.jsonl does not exist"),
        ({"train": "d/tran.jsonl"}, "did you mean 'd/train.jsonl'?"),
        ({"path": "tran.csv"}, "dataset.path: tran.csv does not exist"),
        ({"train": "d/*.parquet"}, "dataset.train: d/*.parquet does not exist"),
        ({"train": "hollow"}, "dataset.train: hollow holds no data file"),
        ({"path": "hollow"}, "dataset.path: hollow holds no data file"),
        ({"train": "d"}, "d/dev.jsonl is named after validation rows"),
        ({"train": "mixed"}, "files of one split must have one ending"),
        ({"train": "d/*.csv"}, "d/y.csv has columns text, other; d/x.csv has text, label"),
        ({"train": "d/x.csv", "format": "xls"}, "dataset.format: found 'xls'; accepted: csv tsv "),
        ({"path": "d/train.jsonl", "name": "mrpc"}, "dataset.name: only hub data sets have one"),
        ({"train": "d/x.csv", "delimiter": '"'}, "dataset.delimiter: found '\"'; accepted: one"),
        ({"train": "d/x.csv", "validation": 3}, "dataset.validation: 3; accepted: "),
        ({"train": "d/x.csv", "max_train_rows": 0}, "dataset.max_train_rows: 0; accepted: "),
        ({"train": "d/x.csv", "validation_fraction": 1.0}, "dataset.validation_fraction: 1.0"),
    ]
    for options, found in cases:
        assert found in refusal(**options), options


UNKNOWN = {
    "table": ("text,label\na,1\n'b, c',0\n", ["text", "label"], ".csv"),
    "tabs.data": ("text\tlabel\na, b\t1\nc\t0\n", ["text", "label"], ".tsv"),
    "lines.old": ('{"text": "a"}\n{"text": "b"}\n', ["text"], ".jsonl"),
    "list": ('[{"text": "a"},\n {"text": "b"}]', ["text"], ".json"),
    "prose": ("A text, with a comma.\nNone here.\n", ["text"], ".txt"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_files_without_a_known_ending_are_read_as_what_they_hold(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, columns, ending = UNKNOWN[name]
    write(name, content.replace("'", '"') if ending == ".csv" else content)
    rows = Files(train=name, validation_fraction=0).load().train
    assert rows is not None and rows.column_names == columns and len(rows) == 2
    assert caplog.messages == [
        f"dataset.train: {name}: no known ending; read as {ending} (dataset.format chooses another)"
    ]
    chosen = Files(train=name, validation_fraction=0, format="txt").load().train
    assert chosen is not None and chosen.column_names == ["text"]


def test_a_parquet_file_without_an_ending_and_a_packed_one() -> None:
    Dataset.from_dict({"text": ["a", "b"]}).to_parquet("rows")
    packed = gzip.compress(b"text,label\na,1\nb,0\n")
    write("packed.gz", packed)
    for name, columns in (("rows", ["text"]), ("packed.gz", ["text", "label"])):
        rows = Files(train=name, validation_fraction=0).load().train
        assert rows is not None and rows.column_names == columns and len(rows) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"train": "d/x.csv", "validation": "d/../d/x.csv"},
        {"train": "d/*.csv", "validation": {"dev": "d/x.csv"}},
        {"path": "d", "train": "train", "validation": "train"},
    ],
)
def test_one_file_for_training_and_validation_is_warned_of(
    options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    write("d/x.csv", "text,label\na,1\nb,0\n")
    found = Files(**options).load()  # type: ignore[arg-type]
    (rows,) = found.validation.values()
    assert found.train is not None and found.train[:] == rows[:]
    assert "is in dataset.train too, so its metrics do not measure" in caplog.text
    assert "2 of 2 rows are in dataset.train too" in caplog.text


def test_columns_of_text_and_labels_name_the_bad_row() -> None:
    columns = {"text": ["a", None], "n": [1, 2], "label": [0, None], "flag": [True, False]}
    rows = Dataset.from_dict(columns)
    assert label_column(rows, "n", "here") == [1, 2]
    assert text_column({"text": ["a", "b"]}, "text", "here") == ["a", "b"]
    write("a.csv", "whole,part\n2024,1.5\n-7,1e-07\n")  # all of these files' texts are numbers
    assert text_column(whole("a.csv"), "whole", "here") == ["2024", "-7"]
    assert text_column(whole("a.csv"), "part", "here") == ["1.5", "1e-07"]
    cases = [
        (text_column, "text", "'text' is null; every row needs one"),
        (text_column, "flag", "'flag' is True (bool); accepted: text"),
        (label_column, "label", "'label' is null; every row needs one"),
        (label_column, "lable", "here: no column 'lable'; there are: text, n, label, flag; did"),
    ]
    for column, name, found in cases:
        with pytest.raises(InputError) as error:
            column(rows, name, "here")
        assert str(error.value).startswith(found)


def test_importing_the_sources_is_light() -> None:
    heavy = "{'torch', 'datasets', 'pyarrow', 'numpy', 'pandas'}"
    code = (
        "import sys, trainer.data.rows, trainer.data.python_stdlib; "
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
