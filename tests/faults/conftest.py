"""Runs, disks and crashes for the fault tests."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.smallest_progress import progress
from trainer.checkpoint import files
from trainer.checkpoint.background import BackgroundSave
from trainer.checkpoint.publish import checkpoint_path, publish
from trainer.checkpoint.state import write_state
from trainer.devices.ranks import Ranks
from trainer.runs.folder import RunFolder

CRASHED = 77


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder, in memory if possible: these tests sync thousands of files."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def no_hook() -> Iterator[None]:
    """Remove injected faults after each test."""
    yield
    files.hook = None


def fill(step: int) -> Callable[[Path], None]:
    """Fills a checkpoint in which every file differs from step to step."""

    def write(staging: Path) -> None:
        files.write_json(staging / "config.json", {"note": f"of step {step}"})
        files.write_tensors(staging / "model.safetensors", {"w": torch.full((8,), float(step))})
        moments = {"w": {"exp_avg": torch.full((8,), step + 0.5)}}
        ema = {"w": torch.full((8,), step + 0.25)}
        write_state(staging / "state", progress(step), moments, {"at": step}, ema, {"at": step})

    return write


def light(step: int) -> Callable[[Path], None]:
    """Fills the smallest folder that can be resumed from."""

    def write(staging: Path) -> None:
        files.make_folder(staging / "state")
        files.write_json(staging / "state" / "trainer.json", vars(progress(step)))

    return write


@pytest.fixture
def save() -> Callable[..., Path]:
    """Publishes the checkpoint of a step."""

    def save(output_dir: Path, step: int, filling: Any = fill) -> Path:
        return publish(checkpoint_path(output_dir, step), filling(step), facts={"step": step})

    return save


@pytest.fixture(params=["at once", "in the background"])
def save_as_runs_do(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Publishes the checkpoint of a step as a run does, and waits for it."""

    def save(output_dir: Path, step: int, filling: Any = fill) -> Path:
        background = BackgroundSave() if request.param == "in the background" else None
        folder = RunFolder(output_dir)
        keeping = {"limit": 1000, "best": None}
        saved = folder.save_checkpoint(
            step, filling(step), ranks=Ranks(), background=background, **keeping
        )
        if background is None:
            return saved
        try:
            return background.finish(Ranks())
        finally:
            background.close()

    return save


@pytest.fixture
def fill_light() -> Callable[[int], Callable[[Path], None]]:
    """Fills the smallest checkpoint of a step."""
    return light


@pytest.fixture
def save_light(save: Callable[..., Path]) -> Callable[..., Path]:
    """Publishes the smallest checkpoint of a step."""
    return lambda output_dir, step: save(output_dir, step, light)


@pytest.fixture
def die_at() -> Callable[..., bool]:
    """Runs work in a child that dies at the k-th file operation; False if it ended before that."""

    def die_at(k: int, work: Callable[[], Any]) -> bool:
        child = os.fork()
        if child == 0:
            count = itertools.count(1)  # several threads read files, and each number comes once

            def hook(*_: Any) -> None:
                if next(count) == k:
                    os._exit(CRASHED)

            files.hook = hook
            try:
                work()
            except BaseException as error:
                print(f"{error!r}", flush=True)
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, CRASHED), f"the child failed at moment {k}"
        return code == CRASHED

    return die_at


def tree(folder: Path) -> dict[str, bytes | None]:
    """Relative path -> content of everything below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(name="tree")
def tree_fixture() -> Callable[[Path], dict[str, bytes | None]]:
    """A folder as a dict, to see whether anything changed."""
    return tree
