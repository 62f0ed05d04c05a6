"""Parameter groups, optimizers, schedules, freezing and the moving average."""

import math

import pytest
import torch
from torch import nn

from tests.unit.test_exactness import tiny_model
from trainer.errors import InputError
from trainer.optim import (
    ExponentialMovingAverage,
    build_optimizer,
    freeze,
    learning_rate,
    name_pattern,
    num_moments,
    trainable,
)
from trainer.settings import TrainSettings


def rates(total: int, **settings: object) -> list[float]:
    chosen = TrainSettings(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(step, total, chosen) for step in range(total)]


def test_linear_and_warm_up() -> None:
    assert rates(4) == [1.0, 0.75, 0.5, 0.25]
    assert rates(10, warmup_steps=4)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates(10, warmup_steps=0.4) == rates(10, warmup_steps=4)


def test_cosine_constant_and_wsd() -> None:
    cosine = rates(8, lr_scheduler="cosine")
    assert cosine == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])
    assert rates(8, lr_scheduler="constant", warmup_steps=1) == [0.5] + [1.0] * 7
    wsd = rates(100, lr_scheduler="wsd")
    assert wsd[:90] == [1.0] * 90 and wsd[90:] == pytest.approx([1 - i / 10 for i in range(10)])


def test_biases_and_norms_do_not_decay() -> None:
    model = tiny_model()
    optimizer = build_optimizer(trainable(model), TrainSettings(weight_decay=0.3))
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        vector = name.endswith("bias") or "norm" in name
        assert decay[id(parameter)] == (0.0 if vector else 0.3), name


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
    with pytest.raises(InputError, match="optimizer_options.*momentumm"):
        build_optimizer(
            parameters, TrainSettings(optimizer="sgd", optimizer_options={"momentumm": 1})
        )


def test_freezing_by_the_hubs_names_and_by_ours() -> None:
    for pattern in ("bert.embeddings.*", "body.embeddings.*"):
        model = tiny_model()
        assert freeze(model, [pattern]) == 5
        names = [name for name, _ in trainable(model)]
        assert names and not any("embeddings" in name for name in names)
        optimizer = build_optimizer(trainable(model), TrainSettings())
        assert sum(len(g["params"]) for g in optimizer.param_groups) == len(names)


@pytest.mark.parametrize(
    ("patterns", "message"), [(["nothing*"], "matches no parameter"), (["*"], "nothing to train")]
)
def test_freezing_refuses(patterns: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        freeze(tiny_model(), patterns)


def test_moving_average() -> None:
    layer = nn.Linear(3, 1, bias=False)
    ema = ExponentialMovingAverage(trainable(layer), 0.75)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    ema.update()
    raw = layer.weight.detach().clone()
    with ema.applied():
        torch.testing.assert_close(layer.weight.detach(), start + 0.25)
    assert torch.equal(layer.weight.detach(), raw)
    with pytest.raises(ZeroDivisionError), ema.applied():
        raise ZeroDivisionError
    assert torch.equal(layer.weight.detach(), raw)


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
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [v for v in optimizer.state[weight].values() if torch.is_tensor(v) and v.dim() == 2]
    assert num_moments(name, options) == sum(v.numel() for v in kept) // weight.numel()


def test_brackets_of_a_pattern_are_whole_numbers() -> None:
    names = [f"layers.{n}.weight" for n in range(13)]

    def matched(pattern: str) -> list[int]:
        meant = name_pattern(pattern)
        return [n for n, name in enumerate(names) if meant.fullmatch(name)]

    assert matched("layers.[0-11].*") == list(range(12))
    assert matched("layers.[0, 10-12].weight") == [0, 10, 11, 12]
    assert matched("*.[3]*") == [3] and matched("layers.?.weight") == list(range(10))
    ambiguous = "layers.[01].*"
    for wrong in (
        ambiguous,
        "layers.[ab].*",
        "layers.[3-1].*",
        "layers.[3",
        "layers.[!0].*",
        "layers.[].*",
    ):
        with pytest.raises(InputError, match="accepted: whole numbers in brackets"):
            name_pattern(wrong)
    model = tiny_model()
    assert freeze(model, ["body.layers.[0-1].*", "bert.embeddings.*"]) > 5
    assert not any(name.startswith("body.layers.0.") for name, _ in trainable(model))
