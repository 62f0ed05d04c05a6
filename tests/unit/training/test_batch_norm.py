"""BatchNorm and batches of one row: refused before the first step, with a size that fits."""

from typing import Any

import numpy as np
import pytest
import torch

from trainer.data.arrays import ArraySamples
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.tasks.plain_recipes import LossOnly
from trainer.trainer import Trainer
from trainer.training.step import Stepper


class Normed(torch.nn.Module):
    """A linear layer over normalised inputs: [B, 3] to [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(x)).squeeze(-1)


class OfImages(Normed):
    """The same over [B, 3, 2, 2], where one row has several values per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(x).mean((2, 3))).squeeze(-1)


def build(model: torch.nn.Module, shape: tuple[int, ...] = (3,), **settings: Any) -> Trainer:
    rows = [{"x": torch.randn(shape), "y": torch.tensor(1.0)} for _ in range(33)]
    chosen = TrainSettings(**{"num_epochs": 1, "global_batch_size": 32, **settings})
    return Trainer(
        model,
        loss=lambda o, b: ((o - b["y"]).square().sum(), len(o)),
        settings=chosen,
        train_dataset=rows,
    )


def test_a_last_batch_of_one_row_is_refused_with_a_size_that_fits() -> None:
    run = build(Normed())
    statistics = run.model.norm.running_mean.clone()
    accepted = r"found 32, which leaves a batch of one row \(of 33 .*accepted: 33, for example"
    with pytest.raises(InputError, match=accepted):
        run.fit()
    assert torch.equal(run.model.norm.running_mean, statistics)
    assert run.model.norm.num_batches_tracked == 0
    assert build(Normed(), global_batch_size=33).fit()["steps"] == 1


def test_samples_of_arrays_are_checked_too() -> None:
    """Like those of an image recipe: not only `StackedSamples` lack tokens."""
    rows = {"x": np.ones((33, 3), np.float32), "y": np.ones(33, np.float32)}
    for patches in (1, 5):
        run = build(Normed())
        samples = ArraySamples(rows, ["x"], tokens_per_sample=patches)
        with pytest.raises(InputError, match=r"found 32, which leaves .*accepted: 33, for example"):
            Trainer(run.model, run.recipe, run.settings, train_dataset=samples).fit()


def test_micro_batches_of_one_row_are_refused_too() -> None:
    with pytest.raises(
        InputError, match="accepted: another size, or a micro_batch_size of 2 or more"
    ):
        build(Normed(), global_batch_size=33, micro_batch_size=1).fit()


def test_the_search_for_a_batch_that_fits_keeps_the_statistics() -> None:
    model = Normed().train()
    samples = ArraySamples({"x": np.ones((8, 3), np.float32)}, ["x"])
    recipe = LossOnly(lambda outputs, batch: (outputs.square().sum(), len(outputs)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepper = Stepper(model, recipe, optimizer, ranks=Ranks(), global_batch_size=8)
    assert stepper.fits(samples.collate(range(8)), samples.placeholder)
    assert not model.norm.running_mean.any() and model.norm.num_batches_tracked == 0


def test_one_row_with_several_values_a_channel_is_fine() -> None:
    run = build(OfImages(), shape=(3, 2, 2))
    assert run.fit()["steps"] == 2
    assert run.model.norm.num_batches_tracked == 2
