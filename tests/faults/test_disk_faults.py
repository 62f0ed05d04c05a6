"""A full, read-only or broken disk gives a one-line error, and earlier files stay intact."""

import errno
import itertools
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoint import files
from trainer.checkpoint.publish import publish, published
from trainer.checkpoint.record import StepLog
from trainer.checkpoint.resume import choose
from trainer.checkpoint.retain import retain
from trainer.checkpoint.verify import verify
from trainer.errors import EnvironmentFault


@contextmanager
def failing(k: int, number: int) -> Iterator[list[str]]:
    """Make the k-th operation fail with this errno; returns the operations so far."""
    seen: list[str] = []

    numbers = itertools.count(1)  # several threads read files, and each number comes once

    def hook(moment: str, operation: str, *paths: Path) -> None:
        if moment != "after":
            seen.append(operation)
            if next(numbers) == k:
                raise OSError(number, os.strerror(number), str(paths[0]))

    files.hook = hook
    try:
        yield seen
    finally:
        files.hook = None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_every_operation_of_a_save_may_fail(folder, save_as_runs_do, tree, number):
    save = save_as_runs_do
    save(folder / "run", 1)
    before = tree(folder / "run")
    k, failed = 0, True
    while failed:
        k += 1
        with failing(k, number) as seen:
            try:
                save(folder / "run", 2)
            except EnvironmentFault as fault:
                assert os.strerror(number) in str(fault), k
                assert str(folder) in str(fault), k
                assert "\n" not in str(fault), k
                assert ("free" in str(fault)) == (number in (errno.ENOSPC, errno.EDQUOT)), k
        failed = len(seen) >= k
        left = tree(folder / "run")
        assert {name: left.get(name) for name in before} == before, k
        whole = all(verify(path) for path in published(folder / "run").values())
        assert whole, k
        if failed:
            again = publish_again(folder / "run", save)
            assert again == folder / "run" / "checkpoint-2", k
            files.remove_folder(again)
        assert choose(folder / "run") is not None
        if failed:
            assert tree(folder / "run") == before, k
    assert k > 40


def publish_again(output_dir: Path, save: Callable[..., Path]) -> Path:
    """The same save, after the disk has recovered."""
    checkpoint = save(output_dir, 2)
    verify(checkpoint)
    return checkpoint


def test_a_checkpoint_that_cannot_be_removed_costs_a_warning(folder, save, caplog):
    for step in (1, 2, 3):
        save(folder, step)

    def no_renames(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation) == ("before", "rename"):
            raise PermissionError(errno.EACCES, "Permission denied")

    files.hook = no_renames
    retain(folder, limit=2)
    (line,) = caplog.messages
    assert "checkpoint-1" in line
    assert "Permission denied" in line
    assert list(published(folder)) == [1, 2, 3]


@pytest.mark.parametrize("kilobytes", [8, 16, 24, 32, 48, 64, 80, 96])
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_small_real_disk(tmp_path, save, tree, kilobytes):
    """A tmpfs that becomes full at a different write of the save each time."""
    options = ["-t", "tmpfs", "-o", f"size={kilobytes + 64}k", "tempering-test"]
    if subprocess.run(["mount", *options, tmp_path], capture_output=True).returncode:
        pytest.skip("this system does not let the test mount a disk")
    try:
        save(tmp_path / "run", 1)
        before = tree(tmp_path / "run")
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(max(0, files.free_bytes(tmp_path) - kilobytes * 256)))
        with pytest.raises(EnvironmentFault, match=r"No space left on device.*free [0-9.]+ "):
            publish(tmp_path / "run" / "checkpoint-2", sixty_kilobytes, facts={"step": 2})
        assert tree(tmp_path / "run") == before
        ballast.unlink()
        save(tmp_path / "run", 2)
        assert choose(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def sixty_kilobytes(staging: Path) -> None:
    for number in range(15):
        files.write_tensors(staging / f"{number}.safetensors", {"w": torch.ones(1000)})


def test_a_limit_on_the_size_of_files(folder, save, tree):
    """EFBIG from the kernel in the middle of a write (RLIMIT_FSIZE)."""
    save(folder / "run", 1)
    before = tree(folder / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(EnvironmentFault, match=r"big\.safetensors: cannot write: File too la"):
            publish(folder / "run" / "checkpoint-2", one_big_file, facts={"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(folder / "run") == before


def one_big_file(staging: Path) -> None:
    files.write_tensors(staging / "big.safetensors", {"w": torch.ones(5_000)})


def test_too_little_space_is_seen_before_anything_is_written(folder, tree):
    want = files.free_bytes(folder) * 2

    def fill(_: Path) -> None:
        raise AssertionError("nothing is to be written")

    with pytest.raises(EnvironmentFault, match=r"no space left.*need .* free .*B"):
        publish(folder / "checkpoint-1", fill, facts={}, expected_bytes=want)
    assert tree(folder) == {}


@pytest.mark.parametrize("write", ["json", "log"])
def test_files_of_the_run_itself(folder, write):
    """results.json is the old or the new one; metrics.jsonl loses at most its last line."""
    log = StepLog(folder / "metrics.jsonl")
    log.append({"step": 1})
    files.write_json(folder / "results.json", {"old": 1})
    work: dict[str, Callable[[], Any]] = {
        "json": lambda: files.write_json(folder / "results.json", {"new": 2}),
        "log": lambda: log.append({"step": 2}),
    }
    failed, k = True, 0
    while failed:
        k += 1
        with failing(k, errno.ENOSPC) as seen:
            try:
                work[write]()
            except EnvironmentFault:
                assert (folder / "results.json").read_text() == '{\n  "old": 1\n}\n'
        failed = len(seen) >= k
        log.cut_back(1)
        assert log.path.read_bytes() == b'{"step": 1}\n'
    assert k > 2
    assert {path.name for path in folder.iterdir()} == {"results.json", "metrics.jsonl"}
