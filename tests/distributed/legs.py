"""A run in several legs, each on another number of processes, all but the last of them killed."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.sequence_classification import SequenceClassification
from tests.distributed.stopping import StoppingTrainer, weights
from tests.unit.test_exactness import tiny_model
from trainer.runs.context import DataOptions, RunContext
from trainer.settings import TrainSettings

LEGS = ((2, None, 5), (1, 3, 8), (4, 2, 13), (2, None, 0))
"""Processes, micro batch size, and the step in which all of them are killed; 0: not."""
STEPS, BATCH, SAVED = 16, 12, 2
STEPS_OF_LEGS = [[0, 1, 2, 3, 4], [4, 5, 6, 7], [6, 7, 8, 9, 10, 11, 12], [12, 13, 14, 15]]
"""A checkpoint follows every second step, so that one or two steps are repeated after a kill."""


class RecordingTrainer(StoppingTrainer):
    """Records the samples of each batch that it trains on, in order."""

    record: Path

    def training_batch(self, usual: Callable[[Any], Any], sample_ids: Any) -> Any:
        batch = super().training_batch(usual, sample_ids)
        if len(sample_ids):
            line = {"step": self.state.step, "samples": self.recorded(batch, sample_ids)}
            with self.record.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return batch

    def recorded(self, batch: Any, sample_ids: Any) -> list[int]:
        """What to record of a batch: one number for each sample."""
        found: list[int] = sample_ids.tolist()
        return found


def run(
    kind: type[RecordingTrainer],
    place: Path,
    rows: object,
    micro_batch_size: int | None = None,
    data: DataOptions | None = None,
) -> RecordingTrainer:
    """A run of `STEPS` steps on these rows in the folder `place`, which saves after every few."""
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "max_steps": STEPS, "precision": "fp32"}
    settings |= {"global_batch_size": BATCH, "save_steps": SAVED, "async_save": False}
    torch.manual_seed(0)
    trainer = kind(
        tiny_model(num_labels=2, vocab_size=200),
        SequenceClassification(problem="single_label", labels=["a", "b"], max_length=16),
        TrainSettings(**settings, logging_steps=1, micro_batch_size=micro_batch_size),
        train_dataset=rows,
        output_dir=place,
        context=RunContext(data=data or DataOptions()),
    )
    trainer.record = place.with_suffix(".jsonl")
    return trainer


def next_leg(folder: Path, run: Callable[[Path, str, int | None], RecordingTrainer]) -> None:
    """The next leg of the run; each one before has left the records of its ranks."""
    number = len(list(folder.glob("leg*-rank0.jsonl")))
    _, micro_batch_size, kill_in = LEGS[number]
    trainer = run(folder, "run", micro_batch_size)
    trainer.record = folder / f"leg{number}-rank{trainer.ranks.rank}.jsonl"

    def end_without_notice() -> None:
        trainer.ranks.barrier()  # a rank alone would disturb others
        os._exit(0)

    if kill_in:
        trainer.stop("backward", kill_in, end_without_notice)
    trainer.fit()
    if trainer.ranks.is_main:
        (folder / "weights.json").write_text(json.dumps(weights(trainer).tolist()))


def check_legs(folder: Path, planned: Sequence[Sequence[int]], alone: StoppingTrainer) -> None:
    """Check that every leg trained on the samples planned for its steps, and the final weights.

    `alone` is a finished run in one process.
    """
    legs = [samples_by_step(folder, number) for number in range(len(LEGS))]
    assert [list(found) for found in legs] == STEPS_OF_LEGS
    for found, (_, _, killed_in) in zip(legs, LEGS, strict=True):
        for step, samples in found.items():
            if step + 1 != killed_in:
                assert sorted(samples) == sorted(planned[step])
            else:  # some micro batches of a step that was killed were not reached
                assert set(samples) <= set(planned[step])
    handed = torch.tensor(json.loads((folder / "weights.json").read_text()), dtype=torch.float64)
    assert (handed - weights(alone)).norm() <= 1e-12 * handed.norm()


def samples_by_step(folder: Path, leg: int) -> dict[int, list[int]]:
    """Step -> the samples that the ranks of a leg recorded."""
    found: dict[int, list[int]] = {}
    for path in sorted(folder.glob(f"leg{leg}-rank*.jsonl")):
        for line in path.read_text().splitlines():
            batch = json.loads(line)
            found.setdefault(batch["step"], []).extend(batch["samples"])
    return found
