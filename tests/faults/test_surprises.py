"""Links and pipes in place of a run's files are not followed, overwritten or waited for."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.checkpoint import files
from trainer.checkpoint.lock import RunLock
from trainer.checkpoint.record import StepLog
from trainer.errors import EnvironmentFault
from trainer.launching.rank_log import RankLog


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "precious"
    file.write_text("precious")
    return file


def lock(run: Path) -> None:
    with RunLock(run):
        pass


PLACES: dict[str, Callable[[Path], object]] = {
    ".lock": lock,
    "metrics.jsonl": lambda run: StepLog(run / "metrics.jsonl").append({"step": 1}),
    "rank-1.log": lambda run: files.append_line(RankLog(run, 1).path, "a warning"),
}


CASES = [(name, kind) for name in PLACES for kind in ("link", "dangling", "pipe")]
"""Users may copy a run with hard links. Only the lock is truncated, so only it is refused."""


@pytest.mark.parametrize(("name", "kind"), [*CASES, (".lock", "hard link")])
def test_what_is_opened_is_not_followed(
    name: str, kind: str, precious: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    place = run / name
    if kind == "hard link":
        os.link(precious, place)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(precious if kind == "link" else tmp_path / "absent")
    with pytest.raises(EnvironmentFault) as caught:
        PLACES[name](run)
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_what_is_read_is_not_followed(precious: Path, tmp_path: Path) -> None:
    log = StepLog(tmp_path / "metrics.jsonl")
    log.path.symlink_to(precious)
    with pytest.raises(EnvironmentFault, match="a symbolic link, which is not followed"):
        log.cut_back(3)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EnvironmentFault, match="not a regular file"):
        files.read_bytes(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / "nothing")


def test_a_written_file_replaces_a_link_and_not_what_it_points_to(
    precious: Path, tmp_path: Path
) -> None:
    (tmp_path / "a").symlink_to(precious)
    files.write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and not (tmp_path / "a").is_symlink()
    (tmp_path / ".tmp-b").symlink_to(precious)
    files.write_pieces(tmp_path / "b", iter([b"one\n", b"two\n"]))
    assert (tmp_path / "b").read_text() == "one\ntwo\n"
    assert precious.read_text() == "precious"
    assert files.staged_name(tmp_path / "b") != files.staged_name(tmp_path / "b")


def test_a_staged_name_that_is_taken_is_not_written_to(
    precious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "staged_name", lambda path: path.with_name("taken"))
    (tmp_path / "taken").symlink_to(precious)
    with pytest.raises(EnvironmentFault, match="File exists"):
        files.write_text(tmp_path / "a", "new")
    assert precious.read_text() == "precious"


def test_a_fresh_folder_must_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "staging").symlink_to(tmp_path / "theirs")
    with pytest.raises(EnvironmentFault, match="File exists"):
        files.make_folder(tmp_path / "staging", fresh=True)
    files.make_folder(tmp_path / "mine", private=True)
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700
    files.write_text(tmp_path / "config.yaml", "a: 1", private=True)
    assert stat.S_IMODE((tmp_path / "config.yaml").stat().st_mode) == 0o600


def test_the_names_of_a_synced_folder_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def hook(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation) == ("after", "fsync"):
            synced.append(paths[0])

    monkeypatch.setattr(files, "hook", hook)
    files.make_folder(tmp_path / "runs" / "a", synced=True)
    assert set(synced) == {tmp_path, tmp_path / "runs"}
