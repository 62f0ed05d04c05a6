"""Which runs are sharded: those that ask for it and can be, and those that a GPU cannot hold."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.unit.test_exactness import tiny_model
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.sharding import chosen_strategy

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
        chosen_strategy("fsdp", tiny_model(), TrainSettings(**settings), CPU)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_a_plain_module_and_an_unknown_strategy_are_refused() -> None:
    with pytest.raises(InputError, match="fsdp shards this package's own models"):
        chosen_strategy("fsdp", nn.Linear(2, 2), TrainSettings(), CPU)
    with pytest.raises(InputError, match="found 'fsdp2'; accepted: auto, ddp, fsdp"):
        chosen_strategy("fsdp2", tiny_model(), TrainSettings(), CPU)


def test_state_goes_to_the_host_only_where_the_model_is_sharded() -> None:
    for strategy in ("auto", "ddp"):
        with pytest.raises(InputError) as refused:
            chosen_strategy(strategy, tiny_model(), TrainSettings(), CUDA, cpu_offload=True)
        said = f"launch.cpu_offload: found true with launch.strategy={strategy}; accepted: "
        assert str(refused.value).startswith(said)
    assert chosen_strategy("fsdp", tiny_model(), TrainSettings(), CUDA, True) == "fsdp"


def test_auto_shards_what_a_gpu_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = tiny_model(), TrainSettings()
    needed = 16 * sum(p.numel() for p in model.parameters())  # weight, gradient, two moments
    for memory, expected in ((1.2 * needed, "fsdp"), (1.3 * needed, "ddp")):
        gpu = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, gpu=gpu: gpu)
        assert chosen_strategy("auto", model, settings, CUDA) == expected
        assert chosen_strategy("ddp", model, settings, CUDA) == "ddp"
    assert chosen_strategy("auto", model, TrainSettings(ema_decay=0.9), CUDA) == "fsdp"
    assert chosen_strategy("auto", model, TrainSettings(optimizer="adafactor"), CUDA) == "ddp"
    assert chosen_strategy("auto", model, settings, CPU) == "ddp"
