"""The token cache and tokenizer verdicts in a folder that others can write to are not trusted."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from trainer.data import cache
from trainer.tokenizer import load_check

ARRAYS = {
    "input_ids": np.arange(7, dtype=np.int32),
    "mask": np.zeros((0, 3), dtype=bool),
    "count.rows": np.array(3),
    "field.scores": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners needs root")


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "entry"
    cache.store(folder, ARRAYS)
    return folder


def test_arrays_come_back_as_they_were_written(entry: Path) -> None:
    found = cache.load(entry)
    assert found is not None and found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert type(found[name]) is np.ndarray and found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert stat.S_IMODE(entry.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_what_others_may_change_is_not_used(
    entry: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    entry.chmod(mode)
    assert cache.load(entry) is None and "another user may have written it" in caplog.text


def test_an_entry_that_its_check_cannot_read_is_not_used(
    entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(arrays: dict[str, np.ndarray]) -> str | None:
        reasons = json.loads(arrays["mask"].tobytes())
        return f"{reasons}"

    assert cache.load(entry, fails) is None
    assert "JSONDecodeError: " in caplog.text


@as_root
def test_what_another_user_made_is_not_used(entry: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.chown(entry, NOBODY, NOBODY)
    assert cache.load(entry) is None and "another user may have written it" in caplog.text
    cache.store(entry, ARRAYS)  # as root we can remove it
    assert cache.load(entry) is not None and entry.stat().st_uid == 0


@pytest.mark.parametrize("name", ["index.json", "input_ids.npy"])
def test_links_and_pipes_in_an_entry_are_not_followed(
    entry: Path, name: str, tmp_path: Path
) -> None:
    shutil.copy(entry / name, tmp_path / "elsewhere")
    (entry / name).unlink()
    (entry / name).symlink_to(tmp_path / "elsewhere")
    assert cache.load(entry) is None
    (entry / name).unlink()
    os.mkfifo(entry / name)
    assert cache.load(entry) is None  # and it is not waited for


def test_an_entry_that_is_a_link_is_not_followed(entry: Path) -> None:
    entry.rename(entry.with_name("other"))
    entry.symlink_to("other")
    assert cache.load(entry) is None
    shutil.rmtree(entry.with_name("other"))


def test_an_entry_of_another_name_is_not_used(entry: Path) -> None:
    other = entry.with_name("other")
    entry.rename(other)
    assert cache.load(other) is None


def test_a_staging_folder_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who guesses the folder's name and creates it first does not get the contents."""
    monkeypatch.setattr(cache.files, "staged_name", lambda path: path.with_name(".tmp-guessed"))
    victim = tmp_path / "victim"
    victim.mkdir()
    folder = tmp_path / "cache" / "entry"
    folder.parent.mkdir()
    folder.with_name(".tmp-guessed").symlink_to(victim)
    cache.store(folder, ARRAYS)
    assert not list(victim.iterdir()) and not folder.exists()


def test_the_file_that_was_checked_is_the_file_that_is_read(
    entry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that replaces it after the check of the owner has no effect."""
    theirs = tmp_path / "theirs"
    shutil.copytree(entry, theirs)
    np.save(theirs / "input_ids.npy", np.full(7, 9, dtype=np.int32))
    opened = cache.files.open_private_folder

    def swapped(folder: Path) -> int:
        descriptor = opened(folder)
        entry.rename(tmp_path / "away")
        theirs.rename(entry)
        return descriptor

    monkeypatch.setattr(cache.files, "open_private_folder", swapped)
    found = cache.load(entry)
    assert found is not None
    np.testing.assert_array_equal(found["input_ids"], ARRAYS["input_ids"])


def test_a_verdict_is_on_one_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path))
    good, bad = (load_check._verdict(text) for text in ("good", "bad"))
    good.parent.mkdir(mode=0o700)
    good.write_text(f"{good.name}\n")
    assert load_check._passed(good)
    shutil.copy(good, bad)
    assert not load_check._passed(bad)  # another file's verdict, moved to this name
    good.parent.chmod(0o777)
    assert not load_check._passed(good)
    good.parent.chmod(0o700)
    good.rename(tmp_path / "elsewhere")
    good.symlink_to(tmp_path / "elsewhere")
    assert not load_check._passed(good)


@as_root
def test_another_user_leaves_a_poisoned_entry(entry: Path) -> None:
    """With a real process of another user, which writes a valid entry before us."""
    entry.parent.chmod(0o1777)
    for path in takewhile(lambda path: path != Path(tempfile.gettempdir()), entry.parents):
        path.chmod(path.stat().st_mode | 0o055)
    code = f"""
import os
os.setgid({NOBODY}); os.setuid({NOBODY})
folder = {str(entry.parent)!r} + "/poisoned"
os.mkdir(folder, 0o700)
open(folder + "/index.json", "w").write('{{"of": "poisoned", "sha256": {{}}}}')
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert cache.load(entry.with_name("poisoned")) is None
    assert cache.load(entry) is not None
