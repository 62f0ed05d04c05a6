"""The search for the largest micro batch that fits, and the error if none does."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.data.batch import Batch
from trainer.data.stacked_samples import StackedSamples
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training.memory import is_out_of_memory, largest_budget, smaller_budget
from trainer.training.step import Stepper

ERRORS = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cublas": RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cublas handle": RuntimeError(
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
    ),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "driver": torch.AcceleratorError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
    ),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, max allowed: 9.07 GB)"),
}
"""Errors for lack of memory, by library."""


def limited_model(most: int, always: bool = False, error: Exception = ERRORS["torch"]):
    """A model that runs out of memory in a training pass (or any pass) with more tokens."""
    model = tiny_model()

    def before(module, inputs):
        if (module.training or always) and len(inputs[0]) > most:
            raise error.with_traceback(None)

    model.body.layers[1].register_forward_pre_hook(before)
    return model.train()


def test_lack_of_memory_is_known_whoever_reports_it() -> None:
    assert all(map(is_out_of_memory, ERRORS.values()))
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(found.value)
    others = [
        "CUDA error: an illegal memory access was encountered",
        "CUBLAS_STATUS_EXECUTION_FAILED",
    ]
    assert not any(is_out_of_memory(RuntimeError(text)) for text in others)
    assert not is_out_of_memory(EnvironmentFault("out of memory: a sample does not fit"))


@pytest.mark.parametrize("most", [40, 100, 333, 10_000])
@pytest.mark.parametrize("kind", ERRORS)
def test_the_longest_samples_are_tried_and_halved_until_they_fit(most: int, kind: str) -> None:
    model, table, tried = limited_model(most, error=ERRORS[kind]), ragged_table(64), []
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


def test_samples_that_share_no_batch_are_not_tried_together() -> None:
    rows = [{"x": [1.0] * (1 + n % 3 // 2), "labels": 0.0} for n in range(12)]
    samples, tried = StackedSamples(rows, ["x"]), []

    def fits(ids: np.ndarray) -> bool:
        tried.append(samples.collate(ids)["x"].shape[1])
        return len(ids) <= 3

    assert largest_budget(fits, samples.lengths, 6, Ranks(), kinds=samples.kinds) == 3
    assert tried == [1, 1], "of the shape that most rows have"
    lengths, kinds, longest = np.array([9, 5, 7, 8]), np.array([0, 1, 1, 1]), []
    largest_budget(lambda ids: not longest.append(ids.tolist()), lengths, 2, Ranks(), 1, kinds)  # type: ignore[func-returns-value]
    assert longest == [[3, 2]]


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


@pytest.mark.parametrize("kind", ERRORS)
def test_memory_for_not_even_one_token_is_told_in_one_line(kind: str) -> None:
    settings = TrainSettings(max_steps=2, precision="fp32", save_steps=0)
    recipe, model = RECIPES["single_label"], limited_model(0, error=ERRORS[kind])
    trainer = Trainer(model, recipe, settings, train_dataset=ragged_table(16))
    with pytest.raises(EnvironmentFault, match="^step 1: out of memory .* accepted: a smaller"):
        trainer.fit()


@pytest.mark.parametrize("kind", ERRORS)
def test_an_evaluation_that_does_not_fit_is_told_in_one_line(kind: str) -> None:
    settings = TrainSettings(precision="fp32", max_tokens_per_micro_batch=50)
    model = limited_model(40, always=True, error=ERRORS[kind])
    trainer = Trainer(model, RECIPES["single_label"], settings)
    said = "^evaluation: out of memory in batches of up to 50 tokens; accepted: a smaller trainer"
    for job in (trainer.evaluate, trainer.predict):
        with pytest.raises(EnvironmentFault, match=said):
            job(ragged_table(16))


def test_a_search_without_room_for_the_optimizer_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("trainer.training.budget_search.reserved_for_update", no_room)
    # as on a GPU
    monkeypatch.setattr("trainer.training.budget_search.is_searched", lambda *_: True)
    settings = TrainSettings(max_steps=2, precision="fp32", save_steps=0)
    recipe = RECIPES["single_label"]
    trainer = Trainer(tiny_model(), recipe, settings, train_dataset=ragged_table(16))
    with pytest.raises(EnvironmentFault, match="^out of memory: weights, .* more memory$"):
        trainer.fit()


def test_a_search_comes_after_a_first_pass_and_counts_what_a_step_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of a step's samples are tried while the gradients of the other half take memory."""
    happened: list[tuple[str, int]] = []

    def warm_up(self: Stepper, batch: Batch, usual: Any = Stepper.warm_up) -> None:
        happened.append(("warm up", 0))
        usual(self, batch)

    def fits(self: Stepper, batch: Batch, placeholder: Any, beside: int) -> bool:
        happened.append(("try", beside))
        return len(happened) > 3

    monkeypatch.setattr(Stepper, "warm_up", warm_up)
    monkeypatch.setattr(Stepper, "fits", fits)
    # as on a GPU
    monkeypatch.setattr("trainer.training.budget_search.is_searched", lambda *_: True)
    monkeypatch.setattr("trainer.training.budget_search.reserved_for_update", lambda *_: None)
    settings = TrainSettings(global_batch_size=16, max_steps=1, precision="fp32", save_steps=0)
    model = tiny_model().float()
    trainer = Trainer(model, RECIPES["single_label"], settings, train_dataset=ragged_table(16))
    trainer.fit()
    gradients = sum(p.numel() * 4 for p in model.parameters())
    assert happened == [("warm up", 0), ("try", 0), ("try", gradients), ("try", gradients)]


@pytest.mark.gpu
def test_a_gpu_takes_as_many_tokens_as_fit() -> None:
    trainer = Trainer(
        tiny_model(),
        RECIPES["single_label"],
        TrainSettings(global_batch_size=32, max_steps=2, save_steps=0),
        train_dataset=ragged_table(64),
    )
    trainer.fit()
    assert trainer.session.max_tokens == np.sort(ragged_table(64).lengths)[-32:].sum()
