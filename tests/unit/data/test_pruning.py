"""The token cache between processes: made once, kept while in use, pruned by age and size."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trainer.data import cache, cache_locks
from trainer.data.pruning import DAY, Entry, entries, prune

NAMES = [letter * 64 for letter in "abc"]
HOLD = """
import sys
from pathlib import Path
import numpy as np
from trainer.data import cache, cache_locks
entry = Path(sys.argv[1])
if sys.argv[2] == "use":
    assert cache.load(entry) is not None
    print("ready", flush=True)
    sys.stdin.readline()
else:
    with cache_locks.making(entry):
        print("ready", flush=True)
        sys.stdin.readline()
        cache.store(entry, {"x": np.arange(3)})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Entries of about 8, 16 and 24 kB, used three, two and one day ago."""
    for number, name in enumerate(NAMES, start=1):
        cache.store(tmp_path / name, {"x": np.arange(number * 1000)})
        used = time.time() - (4 - number) * DAY
        os.utime(tmp_path / name / cache.INDEX, (used, used))
    return tmp_path


def holder(repository: Path, entry: Path, how: str) -> "subprocess.Popen[str]":
    """Another process that uses or makes an entry, until it gets a line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", HOLD, str(entry), how]
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def names(some: list[Entry]) -> list[str]:
    return [entry.folder.name[0] for entry in some]


def test_the_least_recently_used_go_first(folder: Path) -> None:
    sizes = [entry.size for entry in entries(folder)]
    assert names(entries(folder)) == ["a", "b", "c"] and sizes == sorted(sizes)
    listed = prune(folder, 1.5, None, dry_run=True)
    assert (names(listed.removed), names(listed.kept)) == (["a", "b"], ["c"])
    assert names(prune(folder, None, sizes[1] + sizes[2], dry_run=False).removed) == ["a"]
    assert names(prune(folder, None, None, dry_run=False).kept) == ["b", "c"]
    assert names(prune(folder, 1.5, None, dry_run=False).removed) == ["b"]
    assert names(prune(folder, 0.0, None, dry_run=False).removed) == ["c"]
    assert [path.name for path in folder.iterdir()] == [cache_locks.FOLDER]
    assert list((folder / cache_locks.FOLDER).iterdir()) == []


def test_reading_an_entry_counts_as_use(folder: Path) -> None:
    assert cache.load(folder / NAMES[0]) is not None
    cache_locks.release_all()
    assert names(entries(folder)) == ["b", "c", "a"]


def test_what_is_not_an_entry_stays(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / ("d" * 64)).symlink_to(folder / "notes")
    old, new = (folder / f".tmp-{name}-12345678" for name in NAMES[:2])
    for left in (old, new):
        left.mkdir()
    os.utime(old, (0, 0))
    found = prune(folder, 0.0, None, dry_run=False)
    assert len(found.removed) == 3 and found.left_over == 1
    there = {path.name for path in folder.iterdir()}
    assert there == {"notes", "d" * 64, new.name, cache_locks.FOLDER}


def test_several_processes_may_prune_at_once(tmp_path: Path) -> None:
    """Each entry is removed by one of them; flock holds between the threads of a process too."""
    for number in range(40):
        cache.store(tmp_path / f"{number:064x}", {"x": np.arange(3)})
        os.utime(tmp_path / f"{number:064x}", (0, 0))
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(prune, tmp_path, 0.0, None, False) for _ in range(4)]
    removed = [entry.folder.name for each in runs for entry in each.result().removed]
    assert sorted(removed) == [f"{number:064x}" for number in range(40)]


def test_an_entry_that_is_removed_meanwhile_is_not_in_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = entries(folder)
    shutil.rmtree(folder / NAMES[0])
    monkeypatch.setattr("trainer.data.pruning.entries", lambda _: there)
    found = prune(folder, 0.0, None, dry_run=False)
    assert names(found.removed) == ["b", "c"] and not found.kept and not found.in_use


def test_an_entry_in_use_stays(folder: Path, repository: Path) -> None:
    user = holder(repository, folder / NAMES[0], "use")
    try:
        os.utime(folder / NAMES[0] / cache.INDEX, (0, 0))
        found = prune(folder, 0.0, None, dry_run=False)
        assert names(found.kept) == ["a"] and found.in_use == 1
    finally:
        user.kill()
        user.wait()
    assert names(prune(folder, 0.0, None, dry_run=False).removed) == ["a"]


@pytest.mark.parametrize("ending", ["stored", "killed"])
def test_an_entry_is_made_by_one_process_at_a_time(
    tmp_path: Path, repository: Path, ending: str
) -> None:
    entry = tmp_path / NAMES[0]
    maker = holder(repository, entry, "make")
    seen: list[bool] = []

    def wait() -> None:
        with cache_locks.making(entry):
            seen.append(cache.load(entry) is not None)

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    if ending == "stored":
        maker.communicate("\n")
    else:
        maker.kill()
        maker.wait()
    waiting.join(600)
    assert seen == [ending == "stored"]
    cache_locks.release_all()
