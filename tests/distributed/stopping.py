"""A Trainer that stops where a test wants it to, and quick runs of it."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.devices.options import DeviceOptions
from trainer.devices.ranks import Ranks
from trainer.metrics.classification import Accuracy
from trainer.runs.context import RunContext
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training.step import Stepper

MOMENTS = ("forward", "backward", "stepped", "evaluated", "fill", "saved", "finish")


ROOM = 256 << 20
"""Bytes that two such tests may need at once; containers often have only 64 MB of memory files."""


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


def die() -> None:
    raise Killed


class StoppingTrainer(Trainer):
    """Does something at some point in a step (counted from 1), the same on every rank."""

    moment = ("", 0)
    action: Callable[[], None] = staticmethod(die)

    def stop(self, moment: str, step: int, action: Callable[[], None] = die) -> "StoppingTrainer":
        assert moment in MOMENTS
        self.moment, self.action = (moment, step), action
        return self

    def _reach(self, moment: str, step: int) -> None:
        if (moment, step) == self.moment:
            self.action()

    def _prepare(self) -> None:
        super()._prepare()
        self.steps.training_batch = partial(self.training_batch, self.steps.training_batch)
        self.steps.advance = partial(self.advance, self.steps.advance)
        self.checkpoints.fill = partial(self.fill, self.checkpoints.fill)
        self.checkpoints.save = partial(self.save_checkpoint, self.checkpoints.save)

    def training_batch(self, usual: Callable[[Any], Any], sample_ids: Any) -> Any:
        step = self.state.step + 1
        if self.moment == ("backward", step):
            self._reach_in_backward(step)
        self._reach("forward", step)
        return usual(sample_ids)

    def _reach_in_backward(self, step: int) -> None:
        def reached(_: Any) -> None:
            handle.remove()
            self._reach("backward", step)

        handle = next(self.model.parameters()).register_hook(reached)

    def advance(self, usual: Callable[[Any], None], facts: Any) -> None:
        usual(facts)
        self._reach("stepped", self.state.step)

    def _evaluate_and_compare(self) -> bool:
        improved = super()._evaluate_and_compare()
        self._reach("evaluated", self.state.step)
        return improved

    def fill(self, usual: Callable[[Path], None], directory: Path) -> None:
        usual(directory)
        self._reach("fill", self.state.step)

    def save_checkpoint(self, usual: Callable[[], None]) -> None:
        usual()
        self._reach("saved", self.state.step)

    def _finish(self) -> dict[str, Any]:
        self._reach("finish", self.state.step)
        return super()._finish()


def build(
    folder: Path | None, *, samples: int = 45, timeout: float | None = None, **settings: Any
) -> StoppingTrainer:
    """Ragged samples in global batches of 11: 45 samples make five steps, the last with one."""
    values = {"global_batch_size": 11, "num_epochs": 2, "precision": "fp32", "weight_decay": 0.0}
    return StoppingTrainer(
        tiny_model(),
        RECIPES["single_label"],
        TrainSettings(**{**values, **settings}),
        train_dataset=ragged_table(samples),
        eval_dataset=ragged_table(13, seed=1),
        metrics={"accuracy": Accuracy()},
        output_dir=folder,
        context=RunContext(devices=DeviceOptions(timeout=timeout)),
        progress=False,
    )


USUAL = Stepper.__init__


def read_late(on: bool) -> Callable[..., None]:
    """A Stepper's `__init__` that reads facts a step later, as on a GPU, or at once."""

    def init(self: Stepper, *arguments: Any, **options: Any) -> None:
        USUAL(self, *arguments, **options)
        self.reads_late = on

    return init


def die_together(ranks: Ranks) -> None:
    """As `die`, after all ranks have arrived, since a rank that ends early would disturb others."""
    ranks.barrier()
    raise Killed


def terminate_this_rank() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def leave() -> NoReturn:
    """End a rank as launch.py does: gloo's threads may abort an orderly exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach()


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A new folder, in memory if it has room: these tests sync thousands of files."""
    memory = Path("/dev/shm")
    usable = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(dir=memory if usable else None) as name:
        yield Path(name)
