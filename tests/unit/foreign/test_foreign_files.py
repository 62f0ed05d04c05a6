"""Foreign model folders: links out of them, pipes and huge text files are refused."""

import os
from pathlib import Path

import pytest

from trainer import hub
from trainer.data.rows import Files
from trainer.errors import InputError
from trainer.foreign import files as foreign_files


def test_links_out_of_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.json").write_text("{}")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "again.json").symlink_to("config.json")
    assert hub.find(str(folder)) == folder
    (folder / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(InputError, match=r"^model: .*tokenizer.json is a link to .*secret.json"):
        hub.find(str(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(InputError, match=r"^model: .*tokenizer.json: cannot be read \(Too many"):
        hub.find(str(folder))
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(InputError, match=r"tokenizer.json is not a regular file"):
        hub.find(str(folder))
    (folder / "tokenizer.json").unlink()
    monkeypatch.setattr(foreign_files, "MAX_TEXT", 1)
    with pytest.raises(InputError, match=r"found 2 bytes; accepted: at most 1"):
        hub.find(str(folder))


def test_a_snapshot_of_the_hubs_cache_links_to_its_own_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    assert hub.find(str(snapshot)) == snapshot

    (blobs / "2").write_text('{"text": "a"}\n')
    (snapshot / "data").mkdir()
    (snapshot / "data" / "part-0.jsonl").symlink_to("../../../blobs/2")
    for streaming in (False, True):
        rows = Files(
            train=str(snapshot / "data"), streaming=streaming, validation_fraction=0
        ).load()
        assert [row["text"] for row in rows.train or ()] == ["a"], "a folder of the snapshot"
    (tmp_path / "other").write_text("")
    (snapshot / "data" / "part-1.jsonl").symlink_to("../../../other")
    with pytest.raises(InputError, match=r"part-1.jsonl is a link to .*other, outside of "):
        Files(train=str(snapshot / "data")).load()
