"""A process that dies at any moment of any operation leaves a checkpoint that verifies."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.checkpoint import files
from trainer.checkpoint.publish import publish, published
from trainer.checkpoint.record import StepLog
from trainer.checkpoint.resume import choose
from trainer.checkpoint.retain import retain
from trainer.checkpoint.verify import CorruptCheckpoint, verify


def verified(output_dir: Path) -> list[int]:
    steps = []
    for step, path in published(output_dir).items():
        try:
            verify(path)
            steps.append(step)
        except CorruptCheckpoint:
            pass
    return steps


def every_crash(
    base: Path, die_at: Callable[..., bool], work: Callable[[Path], None], check: Callable
) -> int:
    """Dies at operation 1, 2, 3, ... of `work`, each time on a fresh copy of `base`."""
    k = 0
    while True:
        k += 1
        run = base.with_name(f"run-{k}")
        shutil.copytree(base, run, symlinks=True)
        crashed = die_at(k, lambda run=run: work(run))
        check(run, k)
        shutil.rmtree(run)
        if not crashed:
            return k - 1


def is_clean(run: Path) -> bool:
    return not any(path.name.startswith((".tmp-", ".del-", ".old-")) for path in run.rglob("*"))


def test_save_and_retention(folder, save_as_runs_do, die_at):
    save = save_as_runs_do
    base = folder / "base"
    save(base, 1)
    save(base, 2)

    def work(run: Path) -> None:
        save(run, 3)
        retain(run, limit=2, best=1)

    outcomes = set()

    def check(run: Path, k: int) -> None:
        before = verified(run)
        assert before in ([1, 2], [1, 2, 3], [1, 3]), k
        assert published(run).keys() == set(before), k
        newest = choose(run)
        assert newest == published(run)[before[-1]], k
        assert is_clean(run), k
        outcomes.add(tuple(before))

    points = every_crash(base, die_at, work, check)
    assert points > 100
    assert outcomes == {(1, 2), (1, 2, 3), (1, 3)}


def test_first_save(folder, save_as_runs_do, die_at):
    base = folder / "base"
    base.mkdir()

    def check(run: Path, k: int) -> None:
        assert verified(run) == list(published(run)), k
        assert choose(run) == published(run).get(3), k
        assert is_clean(run), k

    assert every_crash(base, die_at, lambda run: save_as_runs_do(run, 3), check) > 50


def test_model_is_replaced(folder, die_at):
    """At any time model/ is the old or the new one, at worst after the repair at the next start.

    Only between two renames do readers find none.
    """
    base = folder / "base"

    def put(run: Path, text: str) -> None:
        def fill(staging: Path) -> None:
            for name in ("a.txt", "b.txt"):
                files.write_text(staging / name, text)

        publish(run / "model", fill, facts={})

    put(base, "old")
    absent, outcomes = [], set()

    def check(run: Path, k: int) -> None:
        if (run / "model").exists():
            verify(run / "model")
        else:
            absent.append(k)
        choose(run)
        verify(run / "model")
        outcomes.add(tuple((run / "model" / name).read_text() for name in ("a.txt", "b.txt")))
        assert is_clean(run), k

    every_crash(base, die_at, lambda run: put(run, "new"), check)
    assert outcomes == {("old", "old"), ("new", "new")}
    assert len(absent) == 2  # after the first rename, before the second


def test_cleaning_up_at_the_start(folder, save, die_at):
    base = folder / "base"
    for step in (1, 2, 3):
        save(base, step)
    (base / "checkpoint-3" / "model.safetensors").write_bytes(b"")
    shutil.copytree(base / "checkpoint-1", base / ".tmp-checkpoint-4")
    shutil.copytree(base / "checkpoint-1", base / ".del-checkpoint-0")
    shutil.copytree(base / "checkpoint-1", base / ".old-model")
    (base / ".tmp-results.json").write_text("{")

    def check(run: Path, k: int) -> None:
        assert 2 in verified(run), k
        assert choose(run) == run / "checkpoint-2", k
        assert is_clean(run), k
        verify(run / "model")
        names = {path.name for path in run.iterdir()}
        assert names == {"checkpoint-1", "checkpoint-2", ".bad-checkpoint-3", "model"}, k

    assert every_crash(base, die_at, choose, check) > 30


@pytest.mark.parametrize("step", [-1, 1])
def test_metrics_are_cut_back(folder, die_at, step):
    base = folder / "base"
    log = StepLog(base / "metrics.jsonl")
    base.mkdir()
    for row in range(1, 4):
        log.append({"step": row})
    whole = log.path.read_bytes()
    cut = b'{"step": 1}\n' if step == 1 else b""

    def check(run: Path, k: int) -> None:
        assert (run / "metrics.jsonl").read_bytes() in (whole, cut), k

    every_crash(base, die_at, lambda run: StepLog(run / "metrics.jsonl").cut_back(step), check)
