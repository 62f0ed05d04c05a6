"""A user's optimizer and schedule: used, resumed, and refused if they would train nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_trainer import KillAt, Killed
from tests.unit.test_trainer import rows as logged
from tests.unit.training.plain_runs import Line, rows, trainer, weights
from trainer.errors import InputError
from trainer.trainer import Trainer

CHANGED = {"num_epochs": 3, "optimizer": "adamw", "lr_scheduler": "linear", "learning_rate": 5e-5}


def own(folder: Path | None = None, schedule: Any = None, **settings: Any) -> Trainer:
    model = Line()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.01}]
    optimizer = torch.optim.Adam(groups)
    scheduler = None if schedule is None else schedule(optimizer)
    return trainer(
        rows(), folder, model=model, optimizers=(optimizer, scheduler),
        settings={**CHANGED, "save_steps": 2, **settings},
    )  # fmt: skip


def by_hand(schedule: Any) -> list[float]:
    """The same run as a plain loop: whole global batches, gradients clipped to 1."""
    run = own(schedule=schedule)
    model = Line()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.01}]
    optimizer = torch.optim.Adam(groups)
    scheduler = schedule(optimizer)
    run.fit()
    for step in range(9):
        ids = run.session.plan.global_batch(step)
        batch = [rows()[n] for n in ids]
        x, y = (torch.stack([row[name] for row in batch]) for name in ("x", "labels"))
        (model(x) - y).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return [float(p.detach()) for p in model.parameters()]


SCHEDULES = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
    "chained": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, [0.1, 0.02], total_steps=9),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_optimizer_and_schedule_are_used_and_resumed(tmp_path: Path, name: str) -> None:
    whole = own(tmp_path / "whole", SCHEDULES[name])
    whole.fit()
    assert np.allclose(weights(whole), by_hand(SCHEDULES[name]), rtol=1e-9)
    cut = own(tmp_path / "cut", SCHEDULES[name])
    cut.callbacks.append(KillAt(5))
    with pytest.raises(Killed):
        cut.fit()
    again = own(tmp_path / "cut", SCHEDULES[name])
    again.fit()
    assert weights(again) == weights(whole)


def test_without_a_scheduler_ours_multiplies_its_rates(tmp_path: Path) -> None:
    run = own(tmp_path, max_steps=4, lr_scheduler="constant", warmup_steps=1, save_steps=0)
    run.fit()
    assert [row["learning_rate"] for row in logged(tmp_path) if "loss" in row][0] == 2.5e-5
    rates = [group["lr"] for group in run.session.optimizer.param_groups]
    assert rates == pytest.approx([0.1, 0.01])


def test_a_second_fit_begins_with_them_as_they_were_given() -> None:
    run, fresh = (own(schedule=SCHEDULES["chained"]) for _ in range(2))
    run.fit()
    with torch.no_grad():
        for parameter, other in zip(run.model.parameters(), fresh.model.parameters(), strict=True):
            parameter.copy_(other)
    run.fit()
    fresh.fit()
    assert weights(run) == weights(fresh)


def test_a_run_is_not_continued_with_another_optimizer(tmp_path: Path) -> None:
    own(tmp_path, SCHEDULES["lambda"], max_steps=2).fit()
    run = trainer(rows(), tmp_path, settings={**CHANGED, "max_steps": 3, "save_steps": 2})
    with pytest.raises(InputError, match="trainer.optimizer"):
        run.fit()


def test_a_schedule_that_is_shorter_than_the_run_ends_it_in_a_line(tmp_path: Path) -> None:
    def short(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3)

    assert own(tmp_path / "a", short, max_steps=3).fit()["steps"] == 3
    with pytest.raises(InputError, match="^optimizers: OneCycleLR before step 5: Tried to step 4"):
        own(tmp_path / "b", short, max_steps=5).fit()


def test_what_is_refused() -> None:
    model = Line()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    part = torch.optim.SGD([model.bias], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd)
    for optimizers, message in (
        ((torch.optim.SGD(Line().parameters(), lr=1.0), None), "2 of its 2 parameters are not the"),
        ((part, None), "optimizers: weight would not be trained"),
        ((sgd, plateau), "found ReduceLROnPlateau, which depends on metrics; accepted: None, with"),
        ((sgd, SCHEDULES["chained"](part)), "found a scheduler of another optimizer"),
        ((None, SCHEDULES["chained"](sgd)), "optimizers: found NoneType first"),
        ((sgd, SimpleNamespace(optimizer=sgd)), "found SimpleNamespace second, without step, "),
        (3, "optimizers: found int; accepted"),
    ):
        with pytest.raises(InputError, match=message):
            trainer(rows(), model=model, optimizers=optimizers, settings=CHANGED)
    with pytest.raises(InputError, match="^trainer.optimizer: found 'sgd' with your own optimizer"):
        trainer(rows(), model=model, optimizers=(sgd, None))
    with pytest.raises(InputError, match="^trainer.warmup_steps: found 2 with"):
        own(schedule=SCHEDULES["chained"], warmup_steps=2)
    assert trainer(rows(), optimizers=(None, None)).setup.seams.optimizer is None
