"""Micro batches that fit: the search for the largest, and what is said where none is left."""

import numpy as np
import pytest
import torch

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.errors import EnvironmentFault
from trainer.memory import largest_budget, smaller_budget
from trainer.ranks import Ranks
from trainer.settings import TrainSettings
from trainer.step import Stepper
from trainer.trainer import Trainer


def limited_model(most: int, always: bool = False):
    """A model that lacks the memory for a training pass, or any, of more tokens."""
    model = tiny_model()

    def before(module, inputs):
        if (module.training or always) and len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.body.layers[1].register_forward_pre_hook(before)
    return model.train()


@pytest.mark.parametrize("most", [40, 100, 333, 10_000])
def test_the_longest_samples_are_tried_and_halved_until_they_fit(most: int) -> None:
    model, table, tried = limited_model(most), ragged_table(64), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stepper = Stepper(model, RECIPES["single_label"], optimizer, ranks=Ranks(), global_batch_size=8)

    def fits(ids: np.ndarray) -> bool:
        tried.append(int(table.lengths[ids].sum()))
        batch = table.collate(ids).for_step(0, 0)
        return stepper.fits(batch, table.placeholder)

    budget = largest_budget(fits, table.lengths, 32, Ranks())
    assert tried[0] == np.sort(table.lengths)[-32:].sum()
    assert tried == sorted(tried, reverse=True) and tried[-1] == budget <= most
    assert all(tokens > most for tokens in tried[:-1])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sample_that_does_not_fit_alone_is_named() -> None:
    with pytest.raises(EnvironmentFault, match="a sample of 39 tokens does not fit"):
        largest_budget(lambda ids: False, np.array([7, 39, 12]), 3, Ranks())


def test_half_of_the_largest_that_can_be_divided() -> None:
    assert smaller_budget([np.array([500]), np.array([60, 50]), np.array([30, 20])]) == 55


def test_a_run_that_cannot_be_split_further_ends() -> None:
    trainer = Trainer(
        limited_model(10),
        RECIPES["single_label"],
        TrainSettings(global_batch_size=8, max_steps=2, precision="fp32", save_steps=0),
        train_dataset=ragged_table(16),
    )
    with pytest.raises(EnvironmentFault, match="out of memory: a sample of .* accepted: shorter"):
        trainer.fit()


def test_memory_for_not_even_one_token_is_told_in_one_line() -> None:
    settings = TrainSettings(max_steps=2, precision="fp32", save_steps=0)
    recipe = RECIPES["single_label"]
    trainer = Trainer(limited_model(0), recipe, settings, train_dataset=ragged_table(16))
    with pytest.raises(EnvironmentFault, match="^step 1: out of memory .* accepted: a smaller"):
        trainer.fit()


def test_an_evaluation_that_does_not_fit_is_told_in_one_line() -> None:
    settings = TrainSettings(precision="fp32", max_tokens_per_micro_batch=50)
    trainer = Trainer(limited_model(40, always=True), RECIPES["single_label"], settings)
    said = "^evaluation: out of memory in batches of up to 50 tokens; accepted: a smaller trainer"
    for job in (trainer.evaluate, trainer.predict):
        with pytest.raises(EnvironmentFault, match=said):
            job(ragged_table(16))


def test_a_search_without_room_for_the_optimizer_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_room(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("trainer.trainer.room_for_moments", no_room)
    monkeypatch.setattr(Trainer, "_searches_budget", lambda _: True)  # as on a GPU
    settings = TrainSettings(max_steps=2, precision="fp32", save_steps=0)
    recipe = RECIPES["single_label"]
    trainer = Trainer(tiny_model(), recipe, settings, train_dataset=ragged_table(16))
    with pytest.raises(EnvironmentFault, match="^out of memory: weights, .* more memory$"):
        trainer.fit()


@pytest.mark.gpu
def test_a_gpu_takes_as_many_tokens_as_fit() -> None:
    trainer = Trainer(
        tiny_model(),
        RECIPES["single_label"],
        TrainSettings(global_batch_size=32, max_steps=2, save_steps=0),
        train_dataset=ragged_table(64),
    )
    trainer.fit()
    assert trainer.step_tokens == np.sort(ragged_table(64).lengths)[-32:].sum()
