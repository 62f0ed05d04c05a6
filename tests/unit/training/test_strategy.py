"""The strategy: fsdp on request if possible, and automatically if a GPU cannot hold the run."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.unit.test_exactness import tiny_model
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.strategy import bytes_of_ddp, chosen_strategy

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "settings,said",
    [
        ({"compile": True}, "trainer.compile: found true with launch.strategy=fsdp"),
        ({"precision": "fp16"}, "trainer.precision: found fp16 with launch.strategy=fsdp"),
        ({"optimizer": "Adafactor"}, "trainer.optimizer: found 'Adafactor', whose step needs"),
        ({"optimizer": "muon"}, "trainer.optimizer: found 'muon', whose step needs"),
    ],
)
def test_what_cannot_be_sharded_is_refused_in_one_line(settings: dict, said: str) -> None:
    with pytest.raises(InputError) as refused:
        chosen_strategy("fsdp", False, tiny_model(), TrainSettings(**settings), CPU, "fp32")
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_a_plain_module_and_an_unknown_strategy_are_refused() -> None:
    with pytest.raises(InputError, match="found fsdp, and the layers of Linear are not known"):
        chosen_strategy("fsdp", False, nn.Linear(2, 2), TrainSettings(), CPU, "fp32")
    with pytest.raises(InputError, match="found 'fsdp2'; accepted: auto, ddp, fsdp"):
        chosen_strategy("fsdp2", False, tiny_model(), TrainSettings(), CPU, "fp32")


def test_state_goes_to_the_host_only_where_the_model_is_sharded() -> None:
    for strategy in ("auto", "ddp"):
        with pytest.raises(InputError) as refused:
            chosen_strategy(strategy, True, tiny_model(), TrainSettings(), CUDA, "fp32")
        said = f"launch.cpu_offload: found true with launch.strategy={strategy}; accepted: "
        assert str(refused.value).startswith(said)
    assert chosen_strategy("fsdp", True, tiny_model(), TrainSettings(), CUDA, "fp32") == "fsdp"


@pytest.mark.parametrize(
    "values,precision,bytes_each",
    [
        ({}, "bf16", 22),  # weight, gradient, DDP's bucket, two moments, autocast's copy
        ({}, "fp32", 20),
        ({"ema_decay": 0.9}, "bf16", 26),
        ({"optimizer": "sgd"}, "fp16", 14),
        ({"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}}, "fp32", 16),
    ],
)
def test_auto_shards_what_a_gpu_cannot_hold(
    values: dict, precision: str, bytes_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = tiny_model().float(), TrainSettings(**values)
    needed = bytes_each * sum(p.numel() for p in model.parameters())
    for memory, expected in ((1.24 * needed, "fsdp"), (1.26 * needed, "ddp")):
        gpu = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, gpu=gpu: gpu)
        chosen = partial(
            chosen_strategy,
            cpu_offload=False,
            model=model,
            settings=settings,
            precision=precision,
        )
        assert chosen("auto", device=CUDA) == expected
        assert chosen("ddp", device=CUDA) == "ddp"
        assert chosen("auto", device=CPU) == "ddp"


def test_auto_shards_no_optimizer_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(total_memory=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    settings = TrainSettings(optimizer="adafactor")
    assert chosen_strategy("auto", False, tiny_model(), settings, CUDA, "fp32") == "ddp"


def test_frozen_weights_count_as_they_are() -> None:
    model = tiny_model().bfloat16().requires_grad_(False)
    assert bytes_of_ddp(model, TrainSettings(), "bf16") == 4 * model.num_parameters()
