"""Data and models at URLs: copied once, again if they change, and refused in one line."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from datasets import Dataset

from recipes.sequence_classification import SequenceClassification
from trainer import AutoModel, AutoTokenizer, hub
from trainer.checkpoint import files
from trainer.checkpoint.publish import publish
from trainer.checkpoint.verify import CorruptCheckpoint
from trainer.data.preprocessing import samples_of
from trainer.data.rows import Files
from trainer.data.sources import read_files
from trainer.data.tokens import TokenTable
from trainer.errors import InputError
from trainer.local_copies import LOGGERS, with_urls
from trainer.stores import store, url
from trainer.stores.inputs import staged
from trainer.terminal.console import PlainFormatter


def put(text: str, *names: str) -> None:
    """Write files of the store."""
    for name in names:
        fsspec.filesystem("memory").pipe_file(f"/bucket/{name}", text.encode())


def test_files_folders_and_globs_are_read_as_local_ones_are(stage: Path) -> None:
    put('{"text": "a"}\n', "rows/a.jsonl", "rows/deep/b.jsonl")
    put("notes", "rows/README.md", "rows/.hidden.jsonl")
    for where, number in {
        "rows/a.jsonl": 1,
        "rows": 2,
        "rows/*.jsonl": 1,
        "rows/**/*.jsonl": 2,
        "row?/[ab].jsonl": 1,
    }.items():
        assert len(read_files(f"memory://bucket/{where}", "dataset.train")) == number, where
    both = ["memory://bucket/rows/a.jsonl", "memory://bucket/rows/deep"]
    assert len(read_files(both, "dataset.train")) == 2


def test_a_file_may_take_the_place_of_a_folder_and_a_folder_that_of_a_file(stage: Path) -> None:
    place, client = "memory://bucket/turned", fsspec.filesystem("memory")
    for names in (["a/b.txt"], ["a"], ["a/b.txt", "a/c/d.txt"], [""]):
        put("1", *(f"turned/{name}".rstrip("/") for name in names))
        found = staged(place, "dataset.train")
        if names == [""]:
            assert found.read_text() == "1"
        else:
            copied = [
                each.relative_to(found).as_posix() for each in found.rglob("*") if each.is_file()
            ]
            assert sorted(copied) == names
        client.rm("/bucket/turned", recursive=True) if names != [""] else client.rm(
            "/bucket/turned"
        )


def test_files_are_listed_once_for_each_set(
    stage: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """So a warning about a folder comes once, and a store is asked no more often than necessary."""
    listed = []
    listing = store.Store.listing
    monkeypatch.setattr(
        store.Store, "listing", lambda self, *of: listed.append(self.url) or listing(self, *of)
    )
    place = "memory://bucket/once"
    put('{"text": "a"}\n', "once/train/0.jsonl")
    put('{"text": "b"}\n', "once/dev/0.jsonl")
    Files(train=f"{place}/train", validation=f"{place}/dev").load()
    assert listed == [f"{place}/{name}" for name in ("train", "train", "dev", "dev")]
    listed.clear()
    Files(path=place).load()
    assert listed == [place, place], "before and after the copy"

    folder, run = tmp_path / "rows", tmp_path / "rows" / "run"
    run.mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    (run / "evaluation.json").write_text("{}")
    (run / "evaluation-predictions.jsonl").write_text("{}")
    caplog.set_level("WARNING")
    Files(train=str(folder), validation_fraction=0).load()
    (message,) = caplog.messages
    assert "not read: 2 files" in message


def test_only_changes_are_copied(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    read = store.Store.read
    monkeypatch.setattr(
        store.Store, "read", lambda self, *of: copied.append(of[0]) or read(self, *of)
    )
    put("1", "rows/a.txt", "rows/b.txt")
    folder = staged("memory://bucket/rows", "dataset.train")
    assert sorted(copied) == ["a.txt", "b.txt"]
    staged("memory://bucket/rows", "dataset.train")
    assert len(copied) == 2
    put("2", "rows/b.txt", "rows/c.txt")
    fsspec.filesystem("memory").rm_file("/bucket/rows/a.txt")
    assert staged("memory://bucket/rows", "dataset.train") == folder
    assert sorted(copied[2:]) == ["b.txt", "c.txt"]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "b.txt": "2",
        "c.txt": "2",
    }


def test_a_copy_that_was_not_finished_is_made_again(stage: Path) -> None:
    put("1", "rows/a.txt", "rows/b.txt")

    def fail(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation, paths[-1].name) == ("before", "replace", "b.txt"):
            raise OSError("no space")

    files.hook = fail
    with pytest.raises(Exception, match="no space"):
        staged("memory://bucket/rows", "dataset.train")
    files.hook = None
    assert len(list(staged("memory://bucket/rows", "dataset.train").iterdir())) == 2


def test_files_in_parts(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WINDOW", 7)
    put("".join(map(str, range(1000))), "long.txt")
    found = staged("memory://bucket/long.txt", "dataset.train").read_text()
    assert found == "".join(map(str, range(1000)))


def test_a_change_while_copying_is_reported(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("1", "rows/a.txt")
    pieces = store.Store.pieces

    def changing(self: store.Store, name: str, size: int):
        yield from pieces(self, name, size)
        put("22", "rows/a.txt")

    monkeypatch.setattr(store.Store, "pieces", changing)
    with pytest.raises(InputError, match="rows: changed while it was copied"):
        staged("memory://bucket/rows", "dataset.train")


def test_a_folder_with_a_manifest_is_verified(stage: Path, tmp_path: Path) -> None:
    published = publish(
        tmp_path / "model", lambda at: files.write_text(at / "a.json", "{}"), facts={}
    )
    client = fsspec.filesystem("memory")
    client.put(str(published), "/bucket/model", recursive=True)
    assert (hub.find("memory://bucket/model") / "a.json").exists()
    put("[]", "model/a.json")
    with pytest.raises(CorruptCheckpoint, match="a.json"):
        hub.find("memory://bucket/model")
    put("{}", "model/a.json")
    assert (hub.find("memory://bucket/model") / "a.json").read_text() == "{}"


def test_a_model_is_copied_without_its_state_and_perhaps_without_weights(stage: Path) -> None:
    put("{}", "model/config.json", "model/state/trainer.json", "model/manifest.json")
    put("-", "model/model.safetensors")
    names = {"config.json", "manifest.json"}
    with pytest.raises(CorruptCheckpoint):  # the manifest is read
        hub.find("memory://bucket/model")
    fsspec.filesystem("memory").rm_file("/bucket/model/manifest.json")
    with pytest.raises(InputError, match="its upload was not finished"):
        hub.find("memory://bucket/model")
    fsspec.filesystem("memory").rm_file("/bucket/model/state/trainer.json")
    found = hub.find("memory://bucket/model", weights=None)
    assert {path.name for path in found.iterdir()} == names - {"manifest.json"}
    found = hub.find("memory://bucket/model")
    assert {path.name for path in found.iterdir()} == {"config.json", "model.safetensors"}


def test_a_subfolder_that_is_missing_in_a_store_is_refused(stage: Path) -> None:
    put("{}", "model/config.json", "model/deep/config.json", "model/deep/adapter_config.json")
    assert (hub.find("memory://bucket/model", subfolder="deep") / "config.json").exists()
    with pytest.raises(InputError, match="^model: 'memory://bucket/model' has no folder 'none'"):
        hub.find("memory://bucket/model", subfolder="none")


def test_urls_of_files_and_of_the_hub(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "a b.jsonl").write_text('{"text": "a"}\n')
    assert len(read_files(f"file://{tmp_path}/a%20b.jsonl", "dataset.train")) == 1
    assert hub.find(f"file://{tmp_path}") == tmp_path
    assert hub.of_url("hf://owner/name@main/a", None, "model") == ("owner/name/a", "main")
    assert hub.of_url("hf://models/owner/name", "v1", "model") == ("owner/name", "v1")
    for named in ("refs/pr/12", "refs%2Fpr%2F12", "refs/convert/parquet"):
        found = hub.of_url(f"hf://owner/name@{named}/a", None, "model")
        assert found == ("owner/name/a", named.replace("%2F", "/"))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s4://bucket/a", "found 's4://'; accepted: s3://, .* file://"),
        ("memory://", "accepted: memory://place/folder"),
        ("memory://bucket/../a", "without .."),
        ("memory://bucket/none", "there are no files; accepted: a file, a folder or a glob"),
        ("memory://bucket/*.none", "there are no files that match [*].none"),
        (
            "s3://KEY:hidden@bucket/a",
            "found a password in a s3:// URL; accepted: AWS_ACCESS_KEY_ID",
        ),
        ("https://host/a?sig=hidden", "found a query in a https:// URL"),
        ("file://a", "accepted: file:///path, with three slashes"),
        ("sftp://host/a", "needs the package paramiko, which is not installed; accepted: pip inst"),
    ],
)
def test_refusals(stage: Path, place: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url.importlib.util, "find_spec", lambda name: None)
    for read in (hub.find, lambda place: read_files(place, "model")):
        with pytest.raises(InputError, match=f"^model: .*{words}") as error:
            read(place)
        assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "install"),
    {"s3": "tempering[stores]", "gs": "tempering[stores]", "az": "adlfs"}.items(),
)
def test_the_extra_is_named(place: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        read_files(f"{place}://bucket/a.csv", "dataset.train")
    assert "which is not installed; accepted: pip install" in str(error.value)
    assert install in str(error.value)


def test_names_that_leave_the_folder_are_refused(stage: Path, monkeypatch) -> None:
    put("1", "rows/a.txt")
    found = {"/bucket/rows/../../x": {"type": "file", "size": 1}}
    kind = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(kind, "find", lambda self, path, **_: found)
    with pytest.raises(InputError, match="found the name '../../x'"):
        staged("memory://bucket/rows", "dataset.train")
    assert not os.path.lexists(stage / "x")


def test_messages_name_the_url_that_was_typed(
    stage: Path, ask: Callable[..., Any], minilm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of rows, globs, models and runs: never the path of the local copy."""
    put('{"text": "a"}\n', "rows/b.jsonl")
    put("[1]\n", "bad/c.jsonl", "rows/my a.jsonl")
    put("{", "model/config.json", "run/model/config.json")
    put("seed: 1\nseed: 2\n", "run/config.yaml")
    data = "dataset.train=memory://bucket"
    for said, typed in {
        "rows/my a.jsonl:1: found a list": [f"{data}/rows/my a.jsonl"],
        "bad/c.jsonl:1: found": [f"{data}/bad/*.jsonl"],
        "bad/c.jsonl:1": [f"{data}/bad/c.jsonl"],
        "model/config.json": ["job=predict", "input.text=a", "model.path=memory://bucket/model"],
        "run/config.yaml": ["from=memory://bucket/run"],
        "run: ": ["job=show", "run=memory://bucket/run"],
        "run/model": ["job=predict", "input.text=a", "from=memory://bucket/run"],
    }.items():
        answer = ask(*typed, *([] if "job=" in typed[0] else [f"model.path={minilm}"]))
        assert answer.code == 2, answer
        assert str(stage) not in answer.err, answer.err
        assert f"memory://bucket/{said}" in answer.err, answer.err
    record = logging.LogRecord("x", logging.WARNING, "", 0, f"{stage}/x", (), None)
    assert PlainFormatter(rewritten=with_urls).format(record) == f"{stage}/x"
    copy = staged("memory://bucket/rows", "dataset.train")
    record.msg = f"dataset.train: {copy}/b.jsonl and {copy}: the same"
    said = "dataset.train: memory://bucket/rows/b.jsonl and memory://bucket/rows: the same"
    assert PlainFormatter(rewritten=with_urls).format(record) == said


def test_logs_in_python_name_the_url(stage: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With any handler, such as that of pytest, not only with the formatter of commands."""
    put('{"text": "a"}\n', "rows/b.jsonl")
    copy = staged("memory://bucket/rows", "dataset.train")
    for name in LOGGERS[:2]:  # the others show a warning once
        logging.getLogger(name).warning("%s: %d rows are empty", copy / "b.jsonl", 3)
        logging.getLogger(name).warning("%s: %d rows are empty", "elsewhere/b.jsonl", 3)
    said = ["memory://bucket/rows/b.jsonl: 3 rows are empty", "elsewhere/b.jsonl: 3 rows are empty"]
    assert caplog.messages == said * 2
    assert caplog.records[1].args == ("elsewhere/b.jsonl", 3)


def test_a_log_message_that_does_not_fit_its_arguments_raises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Handlers report it, as in any logger: an app may have one that is called trainer, too."""
    log, seen = logging.getLogger(LOGGERS[0]), list[logging.LogRecord]()
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", seen.append)
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "handlers", [handler])
    log.warning("%d rows", "some")
    assert [(record.msg, record.args) for record in seen] == [("%d rows", ("some",))]


def test_errors_in_python_name_the_url(stage: Path, minilm: Path) -> None:
    """Of rows, models and dropped rows, as on the command line; the raw message stays in `args`."""
    good = '{"text": "a", "label": "x"}\n'
    put(f'{good}{{"text": 1\n', "rows/a.jsonl")
    put("{", "model/config.json")
    for said, call in {
        "rows/a.jsonl:2: bad JSON": lambda: Files(train="memory://bucket/rows/a.jsonl").load(),
        "model/config.json": lambda: AutoModel.from_pretrained("memory://bucket/model"),
    }.items():
        with pytest.raises(InputError) as caught:
            call()
        assert f"memory://bucket/{said}" in str(caught.value)
        assert str(stage) not in str(caught.value) and str(stage) in caught.value.args[0]
    put(f"{good * 9}[1]\n" + '{"text": null, "label": "x"}\n', "rows/a.jsonl")
    files = Files(train="memory://bucket/rows/*", bad_rows="drop", max_bad_rows=1)
    splits = replace(files, validation_fraction=0).load()
    assert splits.train is not None and isinstance(splits.train, Dataset)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    recipe = SequenceClassification(problem="single_label", labels=["x", "y"])
    samples = samples_of(
        splits.train, recipe, tokenizer, where="dataset.train", bad_rows=splits.bad_rows
    )
    assert isinstance(samples, TokenTable)
    first, second = [row.to_json() for row in [*splits.bad_rows.dropped, *samples.dropped]]
    assert first["place"] == "dataset.train: memory://bucket/rows/a.jsonl:10"
    assert first["reason"].startswith("found a list")
    assert second["place"] == "dataset.train: memory://bucket/rows/a.jsonl:11"
