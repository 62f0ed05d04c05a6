"""Files of a stream are found and refused by the rules for the files of a table."""

import gzip
from pathlib import Path
from typing import Any

import fsspec
import pytest

from trainer.data.rows import Files
from trainer.data.streaming.shards import urls_at
from trainer.errors import InputError

ROWS = '{"text": "a"}\n{"text": "b"}\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEMPERING_STAGE", str(tmp_path / "stage"))
    return tmp_path


def put(*names: str) -> None:
    """Write these files, locally and in the store."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(ROWS)
        fsspec.filesystem("memory").pipe_file(f"/found/{name}", ROWS.encode())


def streamed(**options: Any) -> list[str]:
    train = Files(**options, streaming=True).load().train
    return [shard.url for shard in train.shards]  # type: ignore[union-attr]


def refusals(**options: Any) -> list[str]:
    """The errors of the table and of the stream."""
    found = []
    for more in ({"streaming": True}, {"validation_fraction": 0}):
        with pytest.raises(InputError) as error:
            Files(**options, **more).load()
        found.append(str(error.value))
    return found


@pytest.mark.parametrize("place", ["", "memory://found/"])
def test_folders_hold_the_same_data_files(place: str) -> None:
    put("rows/a.jsonl", "rows/deep/b.jsonl", "rows/_temporary/c.jsonl", "rows/.d.jsonl")
    put("rows/dataset_infos.json", "rows/README.txt", "rows/deep/_e.jsonl")
    wanted = [f"{place}rows/{name}" for name in ("a.jsonl", "deep/_e.jsonl", "deep/b.jsonl")]
    assert streamed(train=f"{place}rows") == wanted
    table = Files(train=f"{place}rows", validation_fraction=0).load().train
    assert len(table) == 2 * len(wanted)  # type: ignore[arg-type]


def test_names_may_have_the_characters_of_globs() -> None:
    put("my[test]rows/a.jsonl", "my[test]rows/b.jsonl")
    found = ["my[test]rows/a.jsonl", "my[test]rows/b.jsonl"]
    assert urls_at("my[test]rows", "dataset.train") == found
    assert streamed(path="my[test]rows") == found
    table = Files(path="my[test]rows", validation_fraction=0).load().train
    assert len(table) == 4, "the folder's own name names no split"  # type: ignore[arg-type]


def test_sets_that_cannot_be_meant_are_refused() -> None:
    put("sets/train.jsonl", "sets/test.jsonl", "more/train.jsonl", "more/other.jsonl")
    put("copies/a.jsonl", "links/a.jsonl", "outside.jsonl")
    Path("copies/a.jsonl.gz").write_bytes(gzip.compress(ROWS.encode()))
    Path("links/b.jsonl").symlink_to("../outside.jsonl")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"train": "sets"}, "sets/test.jsonl is named after test rows"),
        ({"path": "more"}, "more/other.jsonl: not named after a split"),
        ({"train": "copies"}, "found copies/a.jsonl and a compressed copy of it"),
        ({"train": "links"}, "b.jsonl is a link to "),
        ({"train": ["more", "sets/../more/other.jsonl"]}, "is in the list twice"),
    ]
    for options, message in cases:
        assert all(message in each for each in refusals(**options)), options
    stored = {"train": "memory://found/sets", "streaming": True}
    with pytest.raises(InputError, match=": memory://found/sets/test.jsonl is named after test"):
        Files(**stored).load()
    with pytest.raises(InputError, match=": memory://found/more/other.jsonl: not named after a"):
        Files(path="memory://found/more", streaming=True).load()


@pytest.mark.parametrize("place", ["", "memory://found/"])
def test_a_folder_without_data_is_not_said_to_be_missing(place: str) -> None:
    put("papers/README.md")
    for name, message in {"papers": "holds no shard", "none": "does not exist"}.items():
        with pytest.raises(InputError, match=f"^dataset.train: {place}{name} {message}; accepted"):
            streamed(train=f"{place}{name}")


@pytest.mark.parametrize("place", ["", "~/", "memory://found/"])
def test_held_out_files_never_train(place: str, folder: Path) -> None:
    put("parts/train/0.jsonl", "parts/test/0.jsonl")
    (found,) = streamed(path=f"{place}parts")
    assert found == f"{place}parts/train/0.jsonl".replace("~", str(folder))


@pytest.mark.parametrize("place", ["", "~/", "memory://found/"])
def test_a_single_file_is_a_training_set(place: str, folder: Path) -> None:
    put("alone/test.jsonl")
    wanted = f"{place}alone/test.jsonl".replace("~", str(folder))
    assert streamed(path=f"{place}alone/test.jsonl") == [wanted]
    assert len(Files(path=f"{place}alone/test.jsonl").load().train) == 1  # type: ignore[arg-type]


def test_the_name_of_a_bucket_names_no_split() -> None:
    fsspec.filesystem("memory").pipe_file("/train-sets/dev.jsonl", ROWS.encode())
    fsspec.filesystem("memory").pipe_file("/train-sets/train.jsonl", ROWS.encode())
    assert streamed(path="memory://train-sets/*.jsonl") == ["memory://train-sets/train.jsonl"]
