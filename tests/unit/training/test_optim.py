"""Optimizers by name: their groups, their memory, and errors."""

from typing import Any

import pytest
import torch
from torch import nn

from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training import optim
from trainer.training.freezing import trainable
from trainer.training.optim import build_optimizer, bytes_of_state, moments_per_weight


def test_any_torch_optimizer_by_name() -> None:
    parameters = trainable(nn.Linear(2, 2))
    for name in ("adamw", "AdamW", "sgd", "RAdam", "Adagrad", "NAdam"):
        assert (
            type(build_optimizer(parameters, TrainSettings(optimizer=name))).__name__.lower()
            == name.lower()
        )
    with pytest.raises(InputError, match="found 'adamv'.*did you mean 'adam"):
        build_optimizer(parameters, TrainSettings(optimizer="adamv"))
    for closed in ("Optimizer", "LBFGS", "SparseAdam"):
        with pytest.raises(InputError, match="accepted"):
            build_optimizer(parameters, TrainSettings(optimizer=closed))
    with pytest.raises(InputError, match="optimizer_options: adamw: list index out of range"):
        build_optimizer(parameters, TrainSettings(optimizer_options={"betas": [0.9]}))
    with pytest.raises(InputError, match="optimizer_options.*momentumm"):
        build_optimizer(
            parameters, TrainSettings(optimizer="sgd", optimizer_options={"momentumm": 1})
        )


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("mine", "accepted: a GPU"), ("Paged_Mine", "accepted: a GPU, or trainer.optimizer=mine")],
)
def test_an_optimizer_that_needs_a_gpu_is_not_its_own_replacement(
    name: str, accepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(parameters: Any, settings: Any) -> Any:
        raise AssertionError("not built")

    kind = optim.OptimizerKind(name, build, needs_accelerator=True)
    monkeypatch.setattr(optim, "find_optimizer", lambda name: kind)
    with pytest.raises(InputError, match=f"{name} needs a GPU, and this is a CPU; {accepted}$"):
        optim.check_device(name, torch.device("cpu"))


KEPT = [
    ("adamw", {}),
    ("adamw", {"amsgrad": True}),
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("rmsprop", {}),
    ("rmsprop", {"momentum": 0.9, "centered": True}),
    *((name, {}) for name in ("adadelta", "adagrad", "adamax", "asgd", "nadam", "radam", "rprop")),
    ("muon", {}),
    ("adafactor", {}),
]


@pytest.mark.parametrize("name,options", KEPT, ids=str)
def test_how_much_an_optimizer_keeps_is_known_beforehand(name: str, options: dict) -> None:
    weight = nn.Parameter(torch.ones(16, 16))
    settings = TrainSettings(optimizer=name, optimizer_options=options)
    optimizer = build_optimizer([("weight", weight)], settings)
    before = build_optimizer([("weight", weight)], settings)
    if name == "adagrad":  # it allocates at once
        before.state.clear()
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [v for v in optimizer.state[weight].values() if torch.is_tensor(v) and v.dim() == 2]
    expected = sum(v.nbytes for v in kept)
    assert bytes_of_state(before) == expected and bytes_of_state(optimizer) == 0
    assert round(moments_per_weight(settings), 1) == expected // weight.nbytes
