"""Token tables: a recipe's features are gathered unchanged, and computed only once."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets

from recipes.sequence_classification import SequenceClassification
from trainer.checkpoint import files
from trainer.data import blocks, cache_locks, chat_rows, labels, tokens
from trainer.data.tokens import TokenTable, default_cache_dir, rows_digest, tokenize
from trainer.errors import InputError, RowError
from trainer.tasks import chat_formats
from trainer.tasks.recipe import Axis, Recipe
from trainer.terminal import counted
from trainer.tokenizer import Tokenizer, encoder

calls: list[int] = []
"""How many rows each call of `features` saw."""


@dataclass(frozen=True)
class Words(Recipe):
    """A sequence for each text, with a field on every axis."""

    column: str = "text"
    fields: ClassVar[Mapping[str, Axis]] = {
        "word": "token",
        "weight": "sequence",
        "labels": "sample",
        "tags": "sample",
    }

    def features(self, rows: Mapping[str, Sequence[Any]], tokenizer: Tokenizer) -> dict[str, Any]:
        calls.append(len(rows[self.column]))
        for row, text in enumerate(rows[self.column]):
            if text == "refused":
                raise RowError(row, "'text' is refused; accepted: any other")
        encoded = tokenizer(list(rows[self.column]), add_special_tokens=False)
        ids = encoded["input_ids"]
        return {
            **encoded,
            "word": [[-100, *range(1, len(row))][: len(row)] for row in ids],
            "weight": [len(row) / 2 for row in ids],
            "labels": list(rows["label"]),
            "tags": [[label, label + 1] for label in rows["label"]],
        }


@dataclass(frozen=True)
class Choices(Recipe):
    """Several sequences for each sample."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample", "score": "sequence", "odd": "token"}
    roles: ClassVar[tuple[str, ...]] = ("question", "answer")

    def features(self, rows: Mapping[str, Sequence[Any]], tokenizer: Tokenizer) -> dict[str, Any]:
        ids = [
            tokenizer(choices, add_special_tokens=False)["input_ids"] for choices in rows["texts"]
        ]
        return {
            "input_ids": ids,
            "labels": list(rows["label"]),
            "score": [[float(len(choice)) for choice in sample] for sample in ids],
            "odd": [[[i % 2 for i in choice] for choice in sample] for sample in ids],
            "roles": [[int(number > 0) for number in range(len(sample))] for sample in ids],
        }


@dataclass(frozen=True)
class Made(Recipe):
    """A recipe whose features are given by its rows."""

    fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample", "word": "token"}

    def features(self, rows: Mapping[str, Sequence[Any]], tokenizer: Tokenizer) -> dict[str, Any]:
        return {name: list(column) for name, column in rows.items()}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert", "type_vocab_size": 2}')
    return Tokenizer.from_pretrained(folder)


def rows_of(num_rows: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list("abcde"), rng.integers(1, 9))) for _ in range(num_rows)]
    return Dataset.from_dict({"text": texts, "label": rng.integers(0, 5, num_rows).tolist()})


def table_of(
    rows: Dataset, tokenizer: Tokenizer, recipe: Recipe | None = None, cache: Path | None = None
) -> TokenTable:
    return tokenize(
        rows,
        recipe or Words(),
        tokenizer,
        cache_dir=cache,
        where="dataset.train",
        progress=False,
    )


@pytest.fixture(params=["in memory", "cached"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "cache" if request.param == "cached" else None


def test_a_batch_is_its_samples_end_to_end(tokenizer: Tokenizer, cache: Path | None) -> None:
    rows = rows_of(2500)
    table = table_of(rows, tokenizer, cache=cache)
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in rows["text"]]
    assert len(table) == 2500
    assert table.num_tokens == sum(map(len, ids))
    assert table.lengths.tolist() == [len(row) for row in ids]
    chosen = np.random.default_rng(1).integers(0, 2500, 40)
    batch = table.collate(chosen)
    assert batch.input_ids.tolist() == [i for n in chosen for i in ids[n]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [0] * batch.num_tokens
    assert batch.position_ids.tolist() == [i for n in chosen for i in range(len(ids[n]))]
    assert batch.sequence_lengths.tolist() == [len(ids[n]) for n in chosen]
    assert batch.sequence_sample.tolist() == list(range(40))
    assert batch.sample_ids.tolist() == chosen.tolist()
    assert batch["labels"].tolist() == [rows["label"][n] for n in chosen]
    assert batch["tags"].tolist() == [[rows["label"][n], rows["label"][n] + 1] for n in chosen]
    assert batch["weight"].tolist() == [len(ids[n]) / 2 for n in chosen]
    assert batch["word"].tolist() == [w for n in chosen for w in [-100, *range(1, len(ids[n]))]]
    for tensor in (batch.input_ids, batch.token_type_ids, batch.position_ids, batch["labels"]):
        assert tensor.dtype == torch.int64
    assert batch["weight"].dtype == torch.float32


def test_a_sample_may_have_several_sequences(tokenizer: Tokenizer, cache: Path | None) -> None:
    texts = [["a b c", "d"], ["e"], ["a", "b b", "c c c"], ["d d", "e e"]]
    rows = Dataset.from_dict({"texts": texts, "label": [0, 0, 2, 1]})
    table = table_of(rows, tokenizer, Choices(), cache)
    assert table.lengths.tolist() == [4, 1, 6, 4]
    batch = table.collate([2, 0])
    assert batch.sequence_lengths.tolist() == [1, 2, 3, 3, 1]
    assert batch.sequence_sample.tolist() == [0, 0, 0, 1, 1]
    assert batch.sample_ids.tolist() == [2, 0]
    assert batch.input_ids.tolist() == [5, 6, 6, 7, 7, 7, 5, 6, 7, 8]
    assert batch.position_ids.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2, 0]
    assert batch["score"].tolist() == [1, 2, 3, 3, 1]
    assert batch["labels"].tolist() == [2, 0]
    assert batch.roles is not None and batch.roles.tolist() == [0, 1, 1, 0, 1]
    assert batch.of_role("question").tolist() == [0, 3]
    assert batch.of_role("answer").tolist() == [1, 2, 4]
    assert table.placeholder().of_role("answer").tolist() == [1]
    assert batch.for_step(0, 0).to(torch.device("cpu")).of_role("answer").tolist() == [1, 2, 4]
    without = replace(table, roles=None)
    assert without.collate([2, 0]).roles is None and without.fingerprint != table.fingerprint
    other = replace(table, roles=1 - table.roles)
    assert other.fingerprint != table.fingerprint
    assert batch["odd"].tolist() == [i % 2 for i in batch.input_ids.tolist()]
    placeholder = table.placeholder()
    assert placeholder.sequence_lengths.tolist() == [1, 1]
    assert placeholder.input_ids.tolist() == [5, 8]
    assert placeholder["score"].tolist() == [3, 1]
    assert placeholder["odd"].tolist() == [1, 0]


def test_the_placeholder_is_one_token_of_sample_0(tokenizer: Tokenizer) -> None:
    table = table_of(rows_of(10), tokenizer)
    placeholder, whole = table.placeholder(), table.collate([0])
    assert placeholder.num_tokens == 1
    assert placeholder.input_ids.tolist() == whole.input_ids[:1].tolist()
    assert placeholder.sequence_lengths.tolist() == [1]
    assert placeholder.sample_ids.tolist() == [0]
    assert placeholder["labels"].tolist() == whole["labels"].tolist()
    assert placeholder["word"].tolist() == [-100]


def test_numbers_are_fractions_where_one_row_has_them(tokenizer: Tokenizer) -> None:
    labels = [1] * 1500 + [0.5]
    made = {"input_ids": [[5]] * 1501, "labels": labels}
    rows = Dataset.from_dict({"number": list(range(1501))})

    @dataclass(frozen=True)
    class Scored(Recipe):
        fields: ClassVar[Mapping[str, Axis]] = {"labels": "sample"}

        def features(self, rows: Mapping[str, Sequence[Any]], _: Any) -> dict[str, Any]:
            return {name: [column[i] for i in rows["number"]] for name, column in made.items()}

    table = table_of(rows, tokenizer, Scored())
    assert table.collate([0, 1500])["labels"].dtype == torch.float32
    assert table.collate([0, 1500])["labels"].tolist() == [1.0, 0.5]


def test_padding_avoided(tokenizer: Tokenizer) -> None:
    rows = Dataset.from_dict({"input_ids": [[5] * n for n in (1, 2, 3, 4, 10)]})
    table = table_of(rows, tokenizer, Made())
    assert table.padding_avoided(5) == pytest.approx(1 - 20 / 50)
    assert table.padding_avoided(100) == pytest.approx(1 - 20 / 50)
    assert table.padding_avoided(1) == 0.0
    assert 0 < table.padding_avoided(2) < 1 - 20 / 50


def test_no_table_is_made_twice(tokenizer: Tokenizer, tmp_path: Path) -> None:
    calls.clear()
    first = table_of(rows_of(2500), tokenizer, cache=tmp_path)
    assert calls == [1000, 1000, 500]
    again = table_of(rows_of(2500), tokenizer, cache=tmp_path)
    assert calls == [1000, 1000, 500]
    assert again.fingerprint == first.fingerprint
    assert not again.input_ids.flags.writeable
    assert_equal(again, first)


def assert_equal(one: TokenTable, other: TokenTable) -> None:
    batch, expected = one.collate(range(len(one))), other.collate(range(len(other)))
    assert torch.equal(batch.input_ids, expected.input_ids)
    assert batch.fields.keys() == expected.fields.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch.fields)


def test_the_key_is_of_all_that_decides_the_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = rows_of(50)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    other_words = Tokenizer.from_pretrained(tmp_path)

    @dataclass(frozen=True)
    class OtherWords(Words):
        pass

    def key_of(rows: Dataset, tokenizer: Tokenizer, recipe: Recipe | None = None) -> str:
        return tokens.entry_name(rows, recipe or Words(), tokenizer)

    more = rows.add_column("words", rows["text"])
    keys = {
        key_of(rows, tokenizer),
        key_of(rows_of(50, seed=1), tokenizer),
        key_of(rows.select(range(49)), tokenizer),
        key_of(rows.select(range(49, -1, -1)), tokenizer),
        key_of(more, tokenizer, Words("words")),
        key_of(more, tokenizer),
        key_of(rows, other_words),
        key_of(rows, tokenizer, OtherWords()),
    }
    assert len(keys) == 8


def test_the_key_covers_the_code_that_recipes_import(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache key includes code that recipes share."""
    rows, recipe = rows_of(5), SequenceClassification()
    read, before = Path.read_bytes, tokens.entry_name(rows, recipe, tokenizer)
    for module in (chat_formats, chat_rows, labels, blocks, encoder):
        monkeypatch.setattr(
            Path,
            "read_bytes",
            lambda file, at=module: read(file) + b"#" * (at.__file__ == str(file)),
        )
        assert tokens.entry_name(rows, recipe, tokenizer) != before, module
    monkeypatch.setattr(Path, "read_bytes", read)
    assert tokens.entry_name(rows, recipe, tokenizer) == before


def test_a_recipe_without_a_source_file_is_not_cached(tokenizer: Tokenizer, tmp_path: Path) -> None:
    class Typed(Words):
        pass

    Typed.__module__ = "a prompt"
    assert_equal(
        table_of(rows_of(9), tokenizer, Typed(), tmp_path), table_of(rows_of(9), tokenizer)
    )
    assert list(tmp_path.iterdir()) == []


def test_equal_rows_have_one_digest_wherever_they_come_from(tmp_path: Path) -> None:
    def made() -> Dataset:
        rows = rows_of(12_000)
        maybe = [None if label == 2 else "é" * label for label in rows["label"]]
        lists = [None if label == 1 else [0.5] * label for label in rows["label"]]
        return rows.add_column("maybe", maybe).add_column("lists", lists)

    rows = made()
    expected = rows_digest(rows)
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.save_to_disk(tmp_path / "saved")
    doubled = concatenate_datasets([rows, rows])
    for same in (
        made(),
        Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache")),
        Dataset.load_from_disk(tmp_path / "saved"),
        concatenate_datasets([rows.select(range(777)), rows.select(range(777, 12_000))]),
        doubled.select(range(12_000, 24_000)),
        rows.select(list(range(11_999, -1, -1))).select(list(range(11_999, -1, -1))),
        rows.with_format("torch"),
    ):
        assert rows_digest(same) == expected
    assert rows_digest(rows.shuffle(seed=0)) != expected
    assert rows_digest(rows.rename_column("text", "words")) != expected


def damage_last_byte(entry: Path) -> None:
    data = bytearray((entry / "input_ids.npy").read_bytes())
    data[-1] ^= 1
    (entry / "input_ids.npy").write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        damage_last_byte,
        lambda entry: os.truncate(entry / "field.labels.npy", 100),
        lambda entry: (entry / "sample_offsets.npy").unlink(),
        lambda entry: (entry / "index.json").unlink(),
        lambda entry: (entry / "index.json").write_text('{"sha256": '),
        lambda entry: (entry / "index.json").write_text("[]"),
    ],
    ids=["flipped", "truncated", "missing", "no index", "half an index", "another index"],
)
def test_a_damaged_entry_is_made_anew(tokenizer: Tokenizer, tmp_path: Path, damage: Any) -> None:
    first = table_of(rows_of(50), tokenizer)
    table_of(rows_of(50), tokenizer, cache=tmp_path)
    entry = tmp_path / tokens.entry_name(rows_of(50), Words(), tokenizer)
    damage(entry)
    calls.clear()
    assert_equal(table_of(rows_of(50), tokenizer, cache=tmp_path), first)
    assert calls == [50]
    assert_equal(table_of(rows_of(50), tokenizer, cache=tmp_path), first)
    assert calls == [50]
    assert entries_in(tmp_path) == [entry]


def forged(entry: Path, change: Any) -> None:
    """A forged entry whose digests fit its content."""
    arrays = {file.stem: np.load(file) for file in entry.glob("*.npy")}
    change(arrays)
    digests = {}
    for file in entry.glob("*.npy"):
        file.unlink()
    for name, array in arrays.items():
        np.save(entry / f"{name}.npy", array)
        content = (entry / f"{name}.npy").read_bytes()
        digests[name] = hashlib.sha256(content).hexdigest()
    (entry / "index.json").write_text(json.dumps({"of": entry.name, "sha256": digests}))


def test_a_forged_entry_is_not_used(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = table_of(rows_of(50), tokenizer, cache=tmp_path)
    entry = tmp_path / tokens.entry_name(rows_of(50), Words(), tokenizer)
    forgeries: dict[str, Any] = {
        "no input_ids": lambda a: a.clear(),
        "input_ids beyond": lambda a: a.update(input_ids=a["input_ids"] + 10**6),
        "sample_offsets does not ascend": lambda a: a["sample_offsets"].__setitem__(3, 10**9),
        "sequence_offsets does not ascend": lambda a: a["sequence_offsets"].__setitem__(0, -5),
        "field.labels has 1 entries": lambda a: a.update({"field.labels": np.zeros(1, int)}),
        "field.other, which": lambda a: a.update({"field.other": np.zeros(50, int)}),
        "is not a row": lambda a: a.update(input_ids=a["input_ids"].astype(float)),
    }
    for said, change in forgeries.items():
        forged(entry, change)
        calls.clear()
        caplog.clear()
        assert_equal(table_of(rows_of(50), tokenizer, cache=tmp_path), first)
        assert calls == [50] and said in caplog.text, said
        assert_equal(table_of(rows_of(50), tokenizer, cache=tmp_path), first)
        assert calls == [50]


def test_an_entry_under_another_key_or_of_everybody_is_not_used(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table_of(rows_of(60), tokenizer, cache=tmp_path)
    entry, other = (tmp_path / tokens.entry_name(rows_of(n), Words(), tokenizer) for n in (50, 60))
    assert other.stat().st_mode & 0o777 == 0o700
    shutil.copytree(other, entry)
    calls.clear()
    assert len(table_of(rows_of(50), tokenizer, cache=tmp_path)) == 50
    assert calls == [50] and "it was written for the digest" in caplog.text
    other.chmod(0o777)
    table_of(rows_of(60), tokenizer, cache=tmp_path)
    assert calls == [50, 60] and "another user may have written it" in caplog.text


def test_who_loses_the_race_takes_the_winners_entry(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without locks."""
    monkeypatch.setattr(tokens, "making", lambda entry: nullcontext())

    def another_process(moment: str, operation: str, *paths: Path) -> None:
        if moment == "before" and operation == "rename":
            monkeypatch.setattr(files, "hook", None)
            table_of(rows_of(50), tokenizer, cache=tmp_path)

    monkeypatch.setattr(files, "hook", another_process)
    table = table_of(rows_of(50), tokenizer, cache=tmp_path)
    assert not table.input_ids.flags.writeable
    assert_equal(table, table_of(rows_of(50), tokenizer))
    name = tokens.entry_name(rows_of(50), Words(), tokenizer)
    assert [entry.name for entry in entries_in(tmp_path)] == [name]


def test_a_full_disk_costs_the_cache_and_not_the_run(
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation) == ("during", "write"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "hook", full)
    table = table_of(rows_of(50), tokenizer, cache=tmp_path)
    assert_equal(table, table_of(rows_of(50), tokenizer))
    assert "No space left" in caplog.text
    assert entries_in(tmp_path) == []


def test_a_cache_folder_that_is_a_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    table = table_of(rows_of(50), tokenizer, cache=tmp_path / "file")
    assert_equal(table, table_of(rows_of(50), tokenizer))


def test_rows_without_tokens_are_counted(tokenizer: Tokenizer) -> None:
    rows = rows_of(1200).to_dict()
    for row in (1012, 1100, 1199):
        rows["text"][row] = ""
    with pytest.raises(InputError) as caught:
        table_of(Dataset.from_dict(rows), tokenizer)
    assert str(caught.value) == (
        "dataset.train row 1012: found no tokens (in 3 of 1200 rows); every row needs at least one"
    )
    choices = Dataset.from_dict({"texts": [["a"], ["b", ""], []], "label": [0, 0, 0]})
    with pytest.raises(InputError, match=r"dataset.train row 1: found no tokens \(in 2 of 3 rows"):
        table_of(choices, tokenizer, Choices())


def test_a_refused_row_is_named_by_its_place_in_the_data(tokenizer: Tokenizer) -> None:
    rows = rows_of(1500).to_dict()
    rows["text"][1234] = "refused"
    with pytest.raises(InputError, match="^dataset.train row 1234: 'text' is refused"):
        table_of(Dataset.from_dict(rows), tokenizer)


def test_no_rows_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="dataset.train: found no rows"):
        table_of(rows_of(5).select([]), tokenizer)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"input_ids": [[5], [6, 7]], "lables": [0, 1]}, "features made 'lables'; accepted: "),
        ({"input_ids": [[5], [6, 7]], "labels": ["x", "y"]}, "'labels' does not hold numbers"),
        ({"input_ids": [[5], [6, 7]], "labels": [1, None]}, "'labels' does not hold numbers"),
        ({"input_ids": [[5], [6, 7]], "labels": [[1], [1, 2]]}, "vectors of one width"),
        ({"input_ids": [[5], [6, 7]], "word": [[1, 2], [1]]}, "one entry for each token"),
        ({"input_ids": [[5], [6, 7]], "token_type_ids": [[0], [0]]}, "one entry for each token"),
        ({"input_ids": [[5], [6, 7]], "roles": [0, 1]}, "'roles': found 0; accepted: none"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_recipe_that_makes_something_else(
    tokenizer: Tokenizer, made: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        table_of(Dataset.from_dict(made), tokenizer, Made())


def test_a_recipe_that_forgets_rows(tokenizer: Tokenizer) -> None:
    @dataclass(frozen=True)
    class Forgetful(Words):
        lost: str = "rows"

        def features(self, rows: Mapping[str, Sequence[Any]], _: Any) -> dict[str, Any]:
            made: dict[str, Any] = {"input_ids": [[5]] * len(rows["label"])}
            if self.lost == "rows":
                made["input_ids"].pop()
            elif len(rows["label"]) == 1000:
                made["labels"] = list(rows["label"])
            return made

    with pytest.raises(InputError, match="features made 999 samples of 1000 rows"):
        table_of(rows_of(1500), tokenizer, Forgetful())
    with pytest.raises(InputError, match="features made 'labels' of some rows only"):
        table_of(rows_of(1500), tokenizer, Forgetful(lost="labels"))


def entries_in(cache_dir: Path) -> list[Path]:
    """What a cache holds besides the files of locks."""
    return [path for path in cache_dir.iterdir() if path.name != cache_locks.FOLDER]


def test_where_tables_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TEMPERING_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / "home/.cache/tempering/tokens"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg/tempering/tokens"
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"


def test_a_bar_shows_on_a_terminal_only(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counted, "BAR_DELAY", -1.0)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        tokenize(
            rows_of(2500), Words(), tokenizer, cache_dir=None, where="dataset.x", progress=True
        )
        assert ("tokenizing dataset.x" in capsys.readouterr().err) == terminal


def test_roles_beyond_the_recipes_own_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    class Shifted(Choices):
        def features(
            self, rows: Mapping[str, Sequence[Any]], tokenizer: Tokenizer
        ) -> dict[str, Any]:
            made = super().features(rows, tokenizer)
            return {**made, "roles": [[role + 1 for role in roles] for roles in made["roles"]]}

    rows = Dataset.from_dict({"texts": [["a", "b"]], "label": [0]})
    with pytest.raises(InputError, match=r"'roles': found 2; accepted: 0 \(question\), 1 \(answer"):
        table_of(rows, tokenizer, Shifted())
    first = table_of(rows, tokenizer, Choices(), tmp_path)
    entry = tmp_path / tokens.entry_name(rows, Choices(), tokenizer)
    forged(entry, lambda arrays: arrays.update(roles=arrays["roles"] + 1))
    again = table_of(rows, tokenizer, Choices(), tmp_path)
    assert again.fingerprint == first.fingerprint
