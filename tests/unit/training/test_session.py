"""The session: plans with groups of samples, and plans without an end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.test_trainer import KillAt, Killed, rows, without_speed
from tests.unit.training.test_memory import limited_model
from trainer.data.batch import Batch, Samples
from trainer.data.plan import GlobalBatchPlan, Plan
from trainer.errors import EnvironmentFault, InputError
from trainer.settings import TrainSettings
from trainer.tasks.plain_recipes import LossOnly
from trainer.tasks.recipe import Head, Recipe
from trainer.trainer import Trainer
from trainer.training.setup import Setup

GROUP = 4


@dataclass(frozen=True)
class Contrast(Recipe):
    """Classifies each sample among those of its group, as losses with in-batch negatives do."""

    @property
    def head(self) -> Head:
        return Head("sequence_classification")

    @property
    def group_size(self) -> int:
        return GROUP

    def loss(
        self, outputs: Any, batch: Batch, *, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        groups = outputs.logits[:, 0].split(GROUP)
        sums = [len(group) * group.logsumexp(0) - group.sum() for group in groups]
        return torch.stack(sums).sum(), torch.tensor(len(outputs.logits))


def contrasted(model: Any = None, **settings: Any) -> Trainer:
    """45 samples in global batches of 12: the last group of an epoch has a single one."""
    values = {"global_batch_size": 12, "optimizer": "sgd", "learning_rate": 0.1, "save_steps": 0}
    return Trainer(
        model or tiny_model(),
        Contrast(),
        TrainSettings(**{**values, "precision": "fp32", "num_epochs": 2, **settings}),
        train_dataset=ragged_table(45),
        eval_dataset=ragged_table(13, seed=1),
    )


def test_a_loss_over_groups_is_the_same_in_any_micro_batches() -> None:
    found, losses = [], []
    for split in ({}, {"micro_batch_size": 4}, {"max_tokens_per_micro_batch": 70}):
        run = contrasted(**split)
        run.fit()
        found.append(torch.nn.utils.parameters_to_vector(run.model.parameters()).detach())
        losses.append(run.evaluate()["eval_loss"])
    start = torch.nn.utils.parameters_to_vector(tiny_model().parameters()).detach()
    assert (found[0] - start).norm() > 1e-3
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-10 * (found[0] - start).norm()
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-9)


def test_a_group_that_does_not_fit_ends_the_run() -> None:
    """A micro batch of one group cannot be split, even with several samples."""
    with pytest.raises(EnvironmentFault, match="does not fit; accepted: shorter samples"):
        contrasted(limited_model(20), max_steps=2, eval_steps=0).fit()


def test_sizes_that_would_divide_a_group_are_refused_before_the_first_step() -> None:
    for settings, said in (
        ({"global_batch_size": 10}, "trainer.global_batch_size: found 10; accepted: a multiple"),
        ({"micro_batch_size": 3}, "trainer.micro_batch_size: found 3; accepted: at least 4"),
    ):
        with pytest.raises(InputError, match=said):
            contrasted(**settings).fit()


class Endless(GlobalBatchPlan):
    """A plan without a known length, like that of a stream."""

    steps_per_epoch = None  # type: ignore[assignment]

    def samples_before(self, step: int) -> int:
        return step * self.global_batch_size

    def global_batch(self, step: int) -> np.ndarray:
        return (np.arange(self.global_batch_size) + step * 7) % len(self.lengths)

    def imbalance(self, world_size: int, micro_batch_size: int | None = None) -> float:
        return 0.0


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings have a plan without an end."""

    def make_plan(setup: Setup, samples: Samples) -> Plan:
        return Endless(samples.lengths, setup.settings.global_batch_size, setup.seed)

    monkeypatch.setattr("trainer.training.session.make_plan", make_plan)


def without_size(table: Any) -> Any:
    """The same samples, without a length."""

    def refuse(self: Any) -> int:
        raise AssertionError("data without an end was asked for its size")

    kind = type(table)
    table.__class__ = type(kind.__name__, (kind,), {"__len__": refuse})
    return table


def streaming(folder: Path | None, **settings: Any) -> Trainer:
    values = {"global_batch_size": 16, "logging_steps": 1, "precision": "fp32"}
    return Trainer(
        tiny_model().float(),
        RECIPES["single_label"],
        TrainSettings(**{**values, **settings}),
        train_dataset=without_size(ragged_table(45)),
        eval_dataset=ragged_table(9, seed=1),
        output_dir=folder,
    )


def test_data_without_an_end_trains_and_resumes(endless: None, tmp_path: Path) -> None:
    settings = {"max_steps": 6, "eval_steps": 3, "save_steps": 2, "warmup_steps": 0.5}
    results = streaming(tmp_path / "whole", **settings).fit()
    assert (results["steps"], results["samples"], results["epochs"]) == (6, 96, None)
    assert all("epoch" not in row for row in rows(tmp_path / "whole"))
    cut = streaming(tmp_path / "cut", **settings)
    cut.callbacks.append(KillAt(5))
    with pytest.raises(Killed):
        cut.fit()
    streaming(tmp_path / "cut", **settings).fit()
    found = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "cut"))
    assert len({path.read_bytes() for path in found}) == 1
    assert without_speed(rows(tmp_path / "cut")) == without_speed(rows(tmp_path / "whole"))


def test_data_without_an_end_needs_a_number_of_steps(endless: None) -> None:
    with pytest.raises(InputError, match="^trainer.max_steps: found null, but the data has no end"):
        streaming(None).fit()


def test_the_epoch_of_data_without_an_end_is_the_run(endless: None, tmp_path: Path) -> None:
    streaming(tmp_path, max_steps=3).fit()
    assert [row["step"] for row in rows(tmp_path) if "eval_loss" in row] == [3]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_plain_loss_compares_no_samples() -> None:
    assert LossOnly(lambda outputs, batch: (outputs.sum(), len(outputs))).group_size == 1
