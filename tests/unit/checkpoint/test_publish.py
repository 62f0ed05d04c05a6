"""Publishing a folder from one process and from several."""

import math
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from trainer.checkpoint import files
from trainer.checkpoint.publish import checkpoint_path, publish, published, repair
from trainer.checkpoint.verify import verify
from trainer.errors import EnvironmentFault, InputError, NumericsError
from trainer.runs.folder import RunFolder

PATIENCE = 600
"""Seconds until a rank counts as hanging: syncing takes long on a busy disk."""


def write(text: str) -> Callable[[Path], None]:
    return lambda staging: files.write_text(staging / "a.txt", text)


def test_a_folder_with_its_manifest(tmp_path):
    def fill(staging: Path) -> None:
        assert staging.parent == tmp_path
        files.write_text(staging / "a.txt", "a")
        files.make_folder(staging / "deep" / "er")
        (staging / "deep" / "er" / "b.txt").write_text("by somebody else's code")

    final = publish(checkpoint_path(tmp_path, 5), fill, facts={"step": 5, "why": "because"})
    manifest = verify(final)
    assert manifest.facts == {"step": 5, "why": "because"}
    assert list(manifest.files) == ["a.txt", "deep/er/b.txt"]
    assert manifest.files["a.txt"][0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_files_that_are_written_in_pieces_are_sealed_and_checked(tmp_path):
    """As the files of models that transformers saves."""

    def fill(value: float) -> Callable[[Path], None]:
        tensors = {"weight": torch.tensor([1.0, value])}
        pieces = (bytes([each]) for each in safetensors.torch.save(tensors))
        return lambda staging: files.write_pieces(staging / "model.safetensors", pieces)

    final = publish(tmp_path / "model", fill(2.0), facts={})
    size = (final / "model.safetensors").stat().st_size
    assert verify(final).files["model.safetensors"][0] == size > 0
    with pytest.raises(NumericsError, match="model.safetensors"):
        publish(tmp_path / "bad", fill(math.nan), facts={})


def test_a_file_that_is_written_twice_is_sealed_as_it_is(tmp_path):
    def fill(staging: Path) -> None:
        files.write_json(staging / "config.json", {"first": True})
        files.write_pieces(staging / "config.json", [b"{}", b"\n"])

    final = publish(tmp_path / "model", fill, facts={})
    assert verify(final).files["config.json"][0] == 3


def test_the_order_of_things(tmp_path, monkeypatch):
    """Files are synced before the manifest, folders before the rename, the parent afterwards."""
    events: list[tuple[str, str]] = []

    def hook(moment: str, operation: str, *paths: Path) -> None:
        if moment == "after":
            events.append((operation, paths[-1].name))

    monkeypatch.setattr(files, "hook", hook)

    def fill(staging: Path) -> None:
        (staging / "deep").mkdir()
        (staging / "deep" / "b.txt").write_text("b")

    publish(tmp_path / "model", fill, facts={})
    order = [
        ("fsync", "b.txt"),
        ("replace", "manifest.json"),
        ("fsync", "deep"),
        ("fsync", ".tmp-model"),
        ("rename", "model"),
        ("fsync", tmp_path.name),
    ]
    assert [event for event in events if event in order] == order


def test_only_what_was_published_is_replaced(tmp_path):
    publish(tmp_path / "model", write("old"), facts={})
    publish(tmp_path / "model", write("new"), facts={})
    assert (tmp_path / "model" / "a.txt").read_text() == "new"
    (tmp_path / "empty").mkdir()
    publish(tmp_path / "empty", write("new"), facts={})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("also mine")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match=f"{name}: exists and was not published by this"):
            publish(tmp_path / name, write("new"), facts={})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert {p.name for p in tmp_path.iterdir()} == {"model", "empty", "mine", "file"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_published(tmp_path, dtype, value):
    weight = torch.ones(4, 4, dtype=dtype)
    publish(tmp_path / "model", tensors(weight), facts={})
    weight[1, 2] = value
    with pytest.raises(NumericsError, match="1 values of layer.w are not finite"):
        publish(tmp_path / "model", tensors(weight), facts={})
    verify(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def tensors(weight: torch.Tensor) -> Callable[[Path], None]:
    def fill(staging: Path) -> None:
        files.write_tensors(staging / "w.safetensors", {"n": torch.arange(3), "layer.w": weight})

    return fill


@pytest.mark.parametrize("failure", [OSError("disk"), KeyError("bug"), KeyboardInterrupt()])
def test_a_fill_that_fails_leaves_nothing(tmp_path, failure):
    def fill(staging: Path) -> None:
        files.write_text(staging / "a.txt", "half")
        raise failure

    expected = EnvironmentFault if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        publish(tmp_path / "model", fill, facts={})
    assert list(tmp_path.iterdir()) == []


def test_a_fill_that_links_out_is_refused(tmp_path):
    with pytest.raises(EnvironmentFault, match="a symbolic link to /etc/hostname"):
        publish(tmp_path / "m", lambda s: os.symlink("/etc/hostname", s / "x"), facts={})
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_leaves_of_any_of_a_runs_files_is_removed(tmp_path):
    """Files that other programs are writing stay, as those of another job do."""
    logs = ("metrics.jsonl", "dropped.jsonl", "samples.jsonl", "predictions-a.jsonl")
    mine = [
        f".tmp-{name}-0123abcd" for name in ("config.yaml", "results.json", "facts.json", *logs)
    ]
    others = [".tmp-evaluation.json-0123abcd", ".tmp-notes.txt", "metrics.jsonl"]
    for name in (*mine, *others):
        (tmp_path / name).write_text("")
    repair(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_published_ones_are_in_the_order_of_their_steps(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-007", "checkpoint-x", "checkpoint-"):
        (tmp_path / name).mkdir()
    (tmp_path / ".tmp-checkpoint-11").mkdir()
    assert list(published(tmp_path)) == [9, 10]
    assert published(tmp_path / "absent") == {}


@dataclass
class Thread:
    """One rank as a thread."""

    rank: int
    world_size: int
    meeting: threading.Barrier
    table: list[Any]

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather_after_work(self, value: Any) -> list[Any]:
        self.table[self.rank] = value
        self.meeting.wait(PATIENCE)
        values = list(self.table)
        self.meeting.wait(PATIENCE)
        return values


def on_every_rank(world_size: int, work: Callable[[Thread], Any]) -> list[Any]:
    """What each rank returned or raised."""
    meeting, table = threading.Barrier(world_size), [None] * world_size
    results: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Thread(rank, world_size, meeting, table))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return results


def save_shards(final: Path, ranks: Thread, failing: tuple[int, ...], failure: Exception) -> Path:
    def fill(staging: Path) -> None:
        files.write_text(staging / f"shard-{ranks.rank}.txt", f"of {ranks.rank}")
        if ranks.rank in failing:
            raise failure

    return publish(final, fill, facts={"step": 1}, ranks=ranks)


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_rank_fills_and_one_publishes(tmp_path, world_size):
    final = tmp_path / "checkpoint-1"
    results = on_every_rank(world_size, lambda r: save_shards(final, r, (), OSError()))
    assert results == [final] * world_size
    assert sorted(verify(final).files) == [f"shard-{rank}.txt" for rank in range(world_size)]


@pytest.mark.parametrize("failing", [(0,), (1,), (2, 1)])
@pytest.mark.parametrize("kind", [EnvironmentFault, NumericsError, InputError])
def test_every_rank_learns_of_any_ranks_failure(tmp_path, failing, kind):
    final = tmp_path / "checkpoint-1"
    results = on_every_rank(3, lambda r: save_shards(final, r, failing, kind("broken")))
    for rank, result in enumerate(results):
        assert type(result) is kind
        own = rank in failing
        assert str(result) == ("broken" if own else f"rank {min(failing)}: broken")
    assert list(tmp_path.iterdir()) == []


def test_a_rank_on_another_disk(tmp_path):
    def work(ranks: Thread) -> Path:
        here = tmp_path / ("shared" if ranks.rank == 0 else "elsewhere")
        return save_shards(here / "checkpoint-1", ranks, (), OSError())

    shared, elsewhere = on_every_rank(2, work)
    assert "this machine does not see it; use a shared filesystem" in str(elsewhere)
    assert "rank 1: " in str(shared)
    assert list((tmp_path / "shared").iterdir()) == []


def test_ranks_on_two_disks_are_told_before_they_begin(tmp_path):
    def work(ranks: Thread) -> str:
        here = tmp_path / ("shared" if ranks.rank == 0 else "elsewhere")
        with RunFolder(here).opened("auto", ranks):
            return "begun"

    shared, elsewhere = on_every_rank(2, work)
    lock = tmp_path / "elsewhere" / ".lock"
    assert str(elsewhere) == f"{lock}: this machine does not see it; use a shared filesystem"
    assert str(shared) == f"rank 1: {elsewhere}"
    assert list((tmp_path / "shared").iterdir()) == []
