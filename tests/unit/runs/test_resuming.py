"""Resuming through the Trainer: damaged, moved, changed and repeated runs."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.test_trainer import KillAt, Killed, rows, trainer, weights, without_speed
from trainer.callbacks.callback import Callback
from trainer.checkpoint.verify import CorruptCheckpoint
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault, InputError
from trainer.tasks.plain_recipes import LossOnly
from trainer.trainer import Trainer
from trainer.training.step import Stepper

BEST: dict[str, Any] = {
    "save_steps": 3,
    "eval_steps": 3,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "learning_rate": 1e-2,
    "save_total_limit": 3,
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def killed(folder: Path, step: int, **settings: Any) -> None:
    run = trainer(folder, **settings)
    run.callbacks.append(KillAt(step))
    with pytest.raises(Killed):
        run.fit()


def test_a_damaged_best_model_is_never_shipped(tmp_path: Path, caplog: Any) -> None:
    """Neither by the resumed run, nor by one that finds the damage at its end."""
    killed(tmp_path, 8, **BEST)
    best = json.loads((tmp_path / "checkpoint-6" / "state" / "trainer.json").read_text())
    assert best["best_step"] == 3, "the test wants a best model that is not the newest"
    flip(tmp_path / "checkpoint-3" / "model.safetensors")
    caplog.set_level(logging.WARNING)
    run = trainer(tmp_path, **BEST)
    results = run.fit()
    assert "the best model so far does not count" in caplog.text
    assert "checkpoint-3/model.safetensors: its content changed" in caplog.text
    assert results["model_step"] != 3

    other = tmp_path / "other"

    class Damage(Callback):
        def on_step_end(self, step: int, total_steps: int) -> None:
            if step == 9:
                flip(other / "checkpoint-3" / "model.safetensors")

    run = trainer(other, **BEST)
    run.callbacks.append(Damage())
    with pytest.raises(CorruptCheckpoint, match="checkpoint-3/model.safetensors"):
        run.fit()
    assert not (other / "model").exists()


def test_a_run_that_begins_in_another_folder(tmp_path: Path) -> None:
    """It has the rows of both runs, can be stopped and resumed, and overwrites no other run."""
    source, mine, whole = tmp_path / "source", tmp_path / "mine", tmp_path / "whole"
    trainer(whole, save_steps=2).fit()
    killed(source, 5, save_steps=2)
    asked = {"save_steps": 2, "resume": str(source / "checkpoint-4")}
    killed(mine, 5, **asked)  # before its first checkpoint
    killed(mine, 7, **asked)
    run = trainer(mine, **asked)
    run.fit()
    assert torch.equal(weights(run), weights(trainer_of(whole)))
    assert without_speed(rows(mine)) == without_speed(rows(whole))
    before = (whole / "model" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(InputError, match="would rewind"):
        trainer(whole, **asked).fit()
    assert (whole / "model" / "model.safetensors").stat().st_mtime_ns == before
    unsaved = tmp_path / "unsaved"
    trainer(unsaved, save_steps=0).fit()
    with pytest.raises(InputError, match="would rewind"):
        trainer(unsaved, **asked).fit()
    with pytest.raises(InputError, match="or the folder of a checkpoint"):
        trainer(tmp_path / "new", resume=str(whole / "model")).fit()


def trainer_of(folder: Path) -> Trainer:
    """A Trainer with the final weights of a finished run."""
    run = trainer(None)
    saved = type(run.model).from_pretrained(folder / "model")
    run.model.load_state_dict(saved.state_dict())
    return run


def test_must_with_bad_checkpoints_alone_is_the_disks_fault_every_time(tmp_path: Path) -> None:
    killed(tmp_path, 5, save_steps=2)
    for step in (2, 4):
        flip(tmp_path / f"checkpoint-{step}" / "model.safetensors")
    for _ in range(2):
        with pytest.raises(EnvironmentFault, match="no checkpoint verifies"):
            trainer(tmp_path, save_steps=2, resume="must").fit()
    with pytest.raises(InputError, match="found must, but .* holds no checkpoint"):
        trainer(tmp_path / "none", resume="must").fit()
    assert not (tmp_path / "none").exists()


def test_starting_over_is_said(tmp_path: Path, caplog: Any) -> None:
    killed(tmp_path, 5, save_steps=0)
    caplog.set_level(logging.WARNING)
    trainer(tmp_path, save_steps=0).fit()
    assert "has no checkpoint; the run starts over" in caplog.text


class Counting(Callback):
    """Counts steps, over all starts."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, step: int, total_steps: int) -> None:
        self.steps += 1

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state(self, state: Any) -> None:
        self.steps = state["steps"]


def test_callbacks_find_their_state_wherever_they_stand(tmp_path: Path, caplog: Any) -> None:
    first, second, third = Counting(), Counting(), Counting()
    run = trainer(tmp_path, save_steps=2)
    run.callbacks += [first, second, KillAt(5)]
    second.steps = 100
    with pytest.raises(Killed):
        run.fit()
    run = trainer(tmp_path, save_steps=2)
    first, second = Counting(), Counting()
    run.callbacks += [Callback(), first, second, third]
    run.fit()
    assert (first.steps, second.steps, third.steps) == (9, 109, 5)
    caplog.set_level(logging.WARNING)
    trainer(tmp_path, save_steps=2, num_epochs=4).fit()
    assert "the state of the callback Counting is dropped" in caplog.text


def test_patience_may_change_and_a_run_is_not_cut_short(tmp_path: Path) -> None:
    patient = {"eval_steps": 1, "save_steps": 2, "learning_rate": 3e-2}
    stopped = trainer(tmp_path, **patient, early_stopping_patience=2).fit()
    assert stopped["steps"] < 9
    assert trainer(tmp_path, **patient, early_stopping_patience=50).fit()["steps"] == 9
    refusal = "found 3 steps in total; the run is at step 9; accepted: as many or more"
    with pytest.raises(InputError, match=refusal):
        trainer(tmp_path, **patient, num_epochs=1).fit()


def test_skipped_steps_leave_running_statistics_alone() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

    def loss(outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return outputs.square().sum(), torch.tensor(len(outputs))

    class Rows:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

        def inputs(self) -> dict[str, torch.Tensor]:
            return {"input": self.x}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepper = Stepper(model, LossOnly(loss), optimizer, ranks=Ranks(), global_batch_size=8)
    good, bad = torch.randn(8, 3), torch.full((8, 3), torch.nan)
    assert stepper.step([(Rows(good), True)], 1, 0.1).finite
    before = [buffer.clone() for buffer in model.buffers()]
    assert not stepper.step([(Rows(bad), True)], 1, 0.1).finite
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_a_link_to_a_checkpoint_brings_the_log_of_its_run_along(tmp_path: Path) -> None:
    killed(tmp_path / "a", 8, save_steps=3)
    (tmp_path / "latest").symlink_to(tmp_path / "a" / "checkpoint-6")
    for name, checkpoint in (("b", "a/checkpoint-6"), ("c", "latest")):
        trainer(tmp_path / name, save_steps=3, resume=str(tmp_path / checkpoint)).fit()
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("b", "c")]
    rows = [without_speed([json.loads(line) for line in log]) for log in logs]
    assert rows[0] == rows[1] and rows[0][0]["step"] == 1
