"""Shards in a store give the same stream as local ones, and their faults are one line."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from unittest.mock import Mock

import fsspec
import pytest
from datasets.exceptions import DatasetGenerationError

from tests.unit.data.streaming.test_pieces import ENDINGS, epochs, streamed
from tests.unit.data.streaming.written_shards import rows_of, write_shards
from trainer.data import sources
from trainer.data.rows import Files
from trainer.data.streaming import stored_file
from trainer.data.streaming.sharded_rows import ShardedRows
from trainer.data.streaming.shards import shards_at, shards_of
from trainer.data.streaming.split_shards import _hub
from trainer.errors import EnvironmentFault, InputError

PLACE = "memory://bucket/corpus"


@pytest.fixture
def store() -> fsspec.AbstractFileSystem:
    return fsspec.filesystem("memory")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stream_from_a_store_is_that_of_local_files(
    tmp_path: Path, store: fsspec.AbstractFileSystem, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_file, "AT_A_TIME", 100)
    local = streamed(write_shards(tmp_path / "a", ending, rows_of()))
    store.put(str(tmp_path / "a") + "/", PLACE + "/", recursive=True)
    for place in (PLACE, f"{PLACE}/*.{ending}"):
        shards = tuple(shards_at(place, "dataset.train"))
        stored = ShardedRows(shards, local.columns, local.window_rows)
        assert epochs(stored, 1) == epochs(local, 1)
        assert stored.digest() == local.digest()
    found = stored.pieces(3)
    next(found)
    store.rm(f"{PLACE}/part-02.{ending}")
    with pytest.raises(EnvironmentFault, match="part-02.*: no longer exists$"):
        list(found)


def test_a_shard_that_is_replaced_while_it_is_read(
    tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    """A store sends parts of the new file, which is noticed at its end at the latest."""
    write_shards(tmp_path / "a", "jsonl", rows_of([60]))
    store.put(str(tmp_path / "a") + "/", PLACE + "/", recursive=True)
    rows = ShardedRows(tuple(shards_at(PLACE, "dataset.train")), {}, 24)
    found = rows.pieces(3)
    next(found)
    store.pipe(f"{PLACE}/part-00.jsonl", (tmp_path / "a" / "part-00.jsonl").read_bytes())
    with pytest.raises(EnvironmentFault, match="part-00.jsonl: changed during the run; accepted"):
        list(found)


def test_sets_below_a_url_and_places_that_cannot_be_read(
    tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    write_shards(tmp_path / "a" / "train", "parquet", rows_of([9, 4]))
    write_shards(tmp_path / "a" / "test", "parquet", rows_of([5]))
    store.put(str(tmp_path / "a") + "/", PLACE + "/", recursive=True)
    splits = Files(path=PLACE, streaming=True).load()
    assert isinstance(splits.train, ShardedRows) and len(splits.train.shards) == 2
    assert splits.test is not None and splits.test["n"][:] == [0, 1, 2, 3, 4]
    for url, message in {
        "memory://bucket/none": "memory://bucket/none does not exist",
        "s4://bucket/a": "found 's4://'; accepted: ",
    }.items():
        with pytest.raises(InputError, match=f"^dataset.train: .*{message}"):
            shards_at(url, "dataset.train")
    with pytest.raises(InputError, match="parquet over http; accepted: a store that"):
        shards_of(["https://place.example/a.parquet"], "dataset.train")


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.zst"])
def test_a_stream_over_http_is_that_of_local_files(tmp_path: Path, ending: str) -> None:
    """A web server lists no folders, so each shard is asked for by its URL."""
    files = write_shards(tmp_path / "a", ending, rows_of([30, 20]))
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/a"
        names = [file.name for file in sorted(files.iterdir())]
        urls = [f"{place}/{name}" for name in names]
        splits = Files(train=urls, streaming=True).load()
        assert isinstance(splits.train, ShardedRows)
        stored = ShardedRows(splits.train.shards, {}, 24)
        assert epochs(stored, 1) == epochs(ShardedRows(tuple(shards_at(str(files), "")), {}, 24), 1)
        with pytest.raises(InputError, match=r"^dataset.train: .*none.jsonl"):
            shards_at(f"{place}/none.jsonl", "dataset.train")
        server.shutdown()


def test_globs_and_folders_of_a_store_hold_what_local_ones_do(
    tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    for name in ("a.jsonl", "old/b.jsonl", "old/older/c.jsonl", ".tmp/d.jsonl", ".e.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"n": 1}\n')
        store.pipe(f"{PLACE}/{name}", path.read_bytes())
    sizes = []
    for pattern in ("", "/*.jsonl", "/old", "/o*/*", "/**/*.jsonl", "/*/*/[a-c].jsonl"):
        local, stored = (shards_at(f"{place}{pattern}", "x") for place in (tmp_path, PLACE))
        found = [shard.url.removeprefix(PLACE) for shard in stored]
        assert found == [shard.url.removeprefix(str(tmp_path)) for shard in local]
        sizes.append(len(found))
    assert sizes == [3, 1, 2, 1, 3, 1]


def test_a_data_set_of_the_hub_that_cannot_be_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`datasets` wraps the error of a file; some errors have no text."""
    generated = DatasetGenerationError("An error occurred")
    generated.__cause__ = ValueError("bad.json: column 'a' changed\nmore")
    builder = SimpleNamespace()
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *of, **options: builder)
    cases = {generated: "its files cannot be read .bad.json: column 'a' changed.$"}
    for error, message in {**cases, OSError(): "OSError; no file or folder"}.items():
        builder.download_and_prepare = Mock(side_effect=error)
        with pytest.raises(InputError, match=f"^dataset.path: hub data set 'a/b': {message}"):
            sources._hub("a/b", None, None)


def test_the_readme_of_a_data_set_names_the_files_of_its_splits(tmp_path: Path) -> None:
    """With `datasets` itself, on a local copy of such a repository."""
    write_shards(tmp_path / "one", "jsonl.zst", rows_of([3, 2]))
    write_shards(tmp_path / "two", "jsonl.zst", rows_of([4]))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n"
        "  - {split: train, path: one/*}\n  - {split: validation, path: two/*}\n---\n"
    )
    found = _hub(str(tmp_path), "main", None)
    assert {split: len(urls) for split, urls in found.items()} == {"train": 2, "validation": 1}
    with pytest.raises(InputError, match="^dataset.path: hub data set .*other"):
        _hub(str(tmp_path), "other", None)
