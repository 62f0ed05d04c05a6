"""Checkpoints written in the background have the same guarantees as others."""

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.sharded import build as build_sharded
from tests.distributed.stopping import Killed, build
from trainer.callbacks.callback import Ask, Callback
from trainer.checkpoint import background, files
from trainer.checkpoint.publish import published
from trainer.checkpoint.verify import verify
from trainer.errors import EnvironmentFault, Interrupted, NumericsError
from trainer.launching.rendezvous import wait
from trainer.models.adapters.lora_settings import LoRASettings

SETTINGS = {"save_steps": 1, "logging_steps": 1, "eval_steps": 0, "ema_decay": 0.9}
SETTINGS |= {"async_save": True, "save_total_limit": 20}


@dataclass
class Watch(Callback):
    """Records its calls, and their threads."""

    told: list[str] = field(default_factory=list)
    act: Any = None

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        self.told.append(f"step {step}")
        return self.act(step) if self.act else None

    def on_save(self, checkpoint: Path) -> None:
        assert threading.current_thread() is threading.main_thread()
        verify(checkpoint)
        self.told.append(checkpoint.name)

    def on_end(self, summary: Any) -> None:
        self.told.append("end")


def trainer(folder: Path, act: Any = None, **settings: Any) -> tuple[Any, Watch]:
    made, watch = build(folder, **{**SETTINGS, **settings}), Watch(act=act)
    made.callbacks.append(watch)
    return made, watch


@contextmanager
def slow_disk(
    seconds: float = 0.3, until: Callable[[], bool] = lambda: True
) -> Iterator[list[str]]:
    """Delay every checkpoint before its manifest, at least `until` something has happened.

    Returns the names of the writing threads.
    """
    writers: list[str] = []
    at_once = 0

    def hook(moment: str, operation: str, *paths: Path) -> None:
        nonlocal at_once
        if (operation, paths[-1].name) == ("write", "manifest.json") and moment == "before":
            at_once += 1
            assert at_once == 1, "two saves at once"
            writers.append(threading.current_thread().name)
            time.sleep(seconds)
            assert wait(until, 60), "waited in vain"
            at_once -= 1

    files.hook = hook
    yield writers
    files.hook = None


def contents(run: Path) -> dict[str, bytes]:
    """The weights, moments and averages in every checkpoint, and the final weights."""
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*.safetensors")}


def test_they_hold_what_was_there_at_their_step(folder: Path) -> None:
    """The next steps change the weights in place while copies are written to a slow disk."""
    trainer(folder / "at once", async_save=False)[0].fit()
    run, watch = trainer(folder / "behind", save_steps=3, num_epochs=2)
    with slow_disk(until=lambda: "step 4" in watch.told) as writers:
        run.fit()
    assert all(name.startswith("checkpoint") for name in writers[:-1]), "a thread wrote them"
    assert watch.told.index("step 4") < watch.told.index("checkpoint-3"), "training went on"
    assert watch.told[-2:] == ["checkpoint-10", "end"]
    behind, at_once = contents(folder / "behind"), contents(folder / "at once")
    assert {"checkpoint-3/model.safetensors", "checkpoint-3/state/ema.safetensors"} <= set(behind)
    assert behind == {name: at_once[name] for name in behind}


def test_a_save_that_comes_too_early_waits(folder: Path) -> None:
    with slow_disk(0.05) as writers:
        run, watch = trainer(folder, save_total_limit=2, load_best_model_at_end=True, eval_steps=2)
        run.fit()
    assert len(writers) == 11  # for ten checkpoints and model/
    saved = [name for name in watch.told if name.startswith("checkpoint")]
    assert saved == [f"checkpoint-{step}" for step in range(1, 11)]
    best = run.state.best.step
    assert set(published(folder)) == {10, best} if best != 10 else {9, 10}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failure_ends_the_run_at_the_next_step(folder: Path, number: int) -> None:
    def waits(step: int) -> None:
        if step == 5:
            run.checkpoints.background.wait()  # the checkpoint of step 4

    output = folder / "run"
    run, watch = trainer(output, act=waits)

    def hook(moment: str, operation: str, *paths: Path) -> None:
        if operation == "write" and ".tmp-checkpoint-4" in str(paths[0]):
            raise OSError(number, os.strerror(number))

    files.hook = hook
    with pytest.raises(EnvironmentFault, match=os.strerror(number)) as caught:
        run.fit()
    files.hook = None
    assert "\n" not in str(caught.value) and "checkpoint-4" in str(caught.value)
    assert "step 4" in watch.told and "step 6" not in watch.told
    assert list(published(output)) == [1, 2, 3]
    assert not list(output.glob(".tmp-*"))
    resumes_to_the_same(folder)


def resumes_to_the_same(folder: Path, **settings: Any) -> None:
    """Resuming gives the weights, moments and averages of an undisturbed run."""
    trainer(folder / "whole", async_save=False, **settings)[0].fit()
    trainer(folder / "run", **settings)[0].fit()
    assert contents(folder / "run") == contents(folder / "whole")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    options = ["-t", "tmpfs", "-o", "size=700k", "tempering-test"]
    if subprocess.run(["mount", *options, tmp_path], capture_output=True).returncode:
        pytest.skip("this system does not let the test mount a disk")
    try:
        run, _ = trainer(tmp_path / "run", num_epochs=20)
        with pytest.raises(EnvironmentFault, match=r"[Nn]o space left on device.*free [0-9.]+ "):
            run.fit()
        kept = published(tmp_path / "run")
        assert kept and all(verify(path) for path in kept.values())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("when", ["a step that saves", "a step that does not"])
def test_a_stop_waits_for_its_save(folder: Path, when: str) -> None:
    step = 6 if when == "a step that saves" else 7

    def act(now: int) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with slow_disk():
        run, watch = trainer(folder, act=act, save_steps=3)
        with pytest.raises(Interrupted, match=f"saved .*checkpoint-{step};") as caught:
            run.fit()
    assert caught.value.exit_code == 143
    assert list(published(folder)) == [3, step] if step == 6 else [3, 6, step]
    assert watch.told[-1] == f"checkpoint-{step}"
    verify(folder / f"checkpoint-{step}")


def test_an_error_does_not_lose_the_save_before_it(folder: Path) -> None:
    def poison(step: int) -> None:
        if step == 3:
            next(run.model.parameters()).data[:] = torch.nan

    with slow_disk(0.5):
        run, _ = trainer(folder, act=poison, save_steps=2)
        with pytest.raises(NumericsError, match=r"step 4: .*checkpoint-2$"):
            run.fit()
    verify(folder / "checkpoint-2")


def test_whatever_ends_a_run_it_is_over_only_when_the_thread_is(folder: Path) -> None:
    """From then on, another run may lock the folder."""
    with slow_disk(0.5):
        run, _ = trainer(folder / "run", save_steps=2)
        with pytest.raises(Killed):
            run.stop("forward", 3).fit()
        assert list(published(folder / "run")) == [2]
    assert not [t for t in threading.enumerate() if t.name.startswith("checkpoint")]
    resumes_to_the_same(folder, save_steps=2)


@pytest.mark.parametrize("enough", [True, False])
def test_auto_copies_only_what_memory_holds(
    folder: Path, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = trainer(folder, async_save="auto")
    monkeypatch.setattr(background, "available_bytes", lambda: 10**9 if enough else 10**5)
    with slow_disk(0.0) as writers:
        run.fit()
    in_thread = [name.startswith("checkpoint") for name in writers]
    assert in_thread == [enough] * 10 + [False]


def test_frozen_weights_that_are_not_written_need_no_room(folder: Path) -> None:
    """Frozen weights take no space on disk or in memory: the checkpoint of adapters is small."""
    lora = LoRASettings(rank=2)
    run = build_sharded("causal_lm", "ddp", folder=folder, lora=lora, max_steps=1, save_steps=1)
    run.fit()
    files_of_tensors = (folder / "checkpoint-1").rglob("*.safetensors")
    tensors = [tensor for path in files_of_tensors for tensor in load_file(path).values()]
    assert run.session.resumable.num_bytes == sum(tensor.nbytes for tensor in tensors)
    assert run.session.resumable.copied_bytes(run.ranks) == run.session.resumable.num_bytes


@dataclass
class Told:
    """Ranks whose other members gave these answers."""

    others: list[Any]

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


@pytest.mark.parametrize(
    "own, others, fits",
    [
        (400, [], True),
        (600, [], False),
        (300, [["here", 300, 1000]], False),
        (300, [["there", 300, 1000]], True),
        (0, [["there", 600, 1000]], False),
        (200, [["here", 200, 700]], False),
    ],
)
def test_the_ranks_of_a_machine_share_its_memory(
    own: int, others: list[Any], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "available_bytes", lambda: 1000)
    monkeypatch.setattr(background.socket, "gethostname", lambda: "here")
    assert background.fits_in_memory(own, Told(others)) is fits
