"""Our own optimizers: their parameters, their averages, and bitwise equal resumed runs."""

import importlib.util
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.test_exactness import tiny_model
from tests.unit.test_trainer import fit_with_kills, trainer, weights
from trainer.checkpoint.state import load_optimizer_tensors, optimizer_tensors
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.freezing import trainable
from trainer.training.moving_average import shipped_weights
from trainer.training.optim import build_optimizer, elementwise_optimizers, set_learning_rate
from trainer.training.optimizers.schedule_free import ScheduleFree

NEEDS = {"schedule_free": "schedulefree", "adamw_8bit": "bitsandbytes"}
NAMES = [*elementwise_optimizers(), "adafactor", "muon", "adamw_8bit"]


def installed(name: str) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"pip install {NEEDS[name]}")


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(tmp_path: Path, name: str) -> None:
    installed(name)
    settings = {
        "optimizer": name,
        "lr_scheduler": "constant" if name == "schedule_free" else "linear",
        "max_steps": 5,
        "eval_steps": 2,
        "save_steps": 2,
        "parameter_groups": {"classifier.*": {"lr_scale": 3}},
        "layer_decay": 0.7,
        "warmup_steps": 2,
    }
    whole = trainer(tmp_path / "whole", **settings)
    whole.fit()
    again = fit_with_kills(tmp_path / "again", [3], **settings)
    assert again.state.step == 5 and torch.equal(weights(again), weights(whole))
    shipped = [
        (tmp_path / each / "model/model.safetensors").read_bytes() for each in ("whole", "again")
    ]
    assert shipped[0] == shipped[1]


def stepped(
    optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor], steps: range
) -> None:
    for _ in steps:
        optimizer.zero_grad()
        loss().backward()
        set_learning_rate(optimizer, 0.1)
        optimizer.step()


def test_muon_steps_the_matrices_of_layers_alone() -> None:
    model = tiny_model()
    optimizer = build_optimizer(trainable(model), TrainSettings(optimizer="muon"), model)
    for name, parameter in trainable(model):
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        hidden = name.startswith("body.layers.") and parameter.ndim == 2
        assert group["algorithm"] == ("muon" if hidden else "adamw"), name


def test_muon_is_torchs_and_the_rest_torchs_adamw() -> None:
    torch.manual_seed(0)
    mine, yours = (nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)).double() for _ in range(2))
    yours.load_state_dict(mine.state_dict())
    options = {"momentum": 0.9, "betas": [0.8, 0.9]}
    settings = TrainSettings(optimizer="muon", optimizer_options=options, weight_decay=0.1)
    ids = torch.tensor([1, 2, 2])
    optimizer = build_optimizer(trainable(mine), settings, mine)
    stepped(optimizer, lambda: mine(ids).square().sum(), range(3))
    alone = [
        torch.optim.Muon([yours[1].weight], 0.1, 0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([yours[0].weight], 0.1, (0.8, 0.9), weight_decay=0.1),
        torch.optim.AdamW([yours[1].bias], 0.1, (0.8, 0.9), weight_decay=0.0),
    ]
    for _ in range(3):
        yours.zero_grad()
        yours(ids).square().sum().backward()
        for each in alone:
            each.step()
    for a, b in zip(mine.parameters(), yours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def free(model: nn.Module) -> ScheduleFree:
    settings = TrainSettings(optimizer="schedule_free", lr_scheduler="constant", weight_decay=0.1)
    optimizer = build_optimizer(trainable(model), settings, model)
    assert isinstance(optimizer, ScheduleFree)
    return optimizer


def test_schedule_free_is_the_librarys_and_looking_at_the_average_changes_nothing() -> None:
    installed("schedule_free")
    from schedulefree import AdamWScheduleFree

    torch.manual_seed(0)
    mine, yours = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    yours.load_state_dict(mine.state_dict())
    inputs = torch.randn(5, 4)
    optimizer = free(mine)
    library = AdamWScheduleFree(yours.parameters(), lr=0.1, weight_decay=0.1)
    library.train()
    for _ in range(4):
        stepped(optimizer, lambda: mine(inputs).square().sum(), range(1))
        before = mine.weight.detach().clone()
        with optimizer.averaged():
            assert not torch.equal(mine.weight, before) or not optimizer.param_groups[0]["k"] > 1
        assert torch.equal(mine.weight, before)
        library.zero_grad()
        yours(inputs).square().sum().backward()
        library.step()
        assert torch.equal(mine.weight, yours.weight)
    library.eval()
    with optimizer.averaged():
        assert torch.equal(mine.weight, yours.weight)


@pytest.mark.parametrize("name", NEEDS)
def test_a_restored_optimizer_of_a_library_goes_on_bit_for_bit(name: str) -> None:
    installed(name)
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 3)) for _ in range(2)]
    inputs = torch.randn(5, 128)
    settings = TrainSettings(optimizer=name, lr_scheduler="constant")
    optimizers = [build_optimizer(trainable(model), settings, model) for model in models]
    stepped(optimizers[0], lambda: models[0](inputs).square().sum(), range(3))
    models[1].load_state_dict(models[0].state_dict())
    saved = optimizer_tensors(optimizers[0], dict(trainable(models[0])))
    if name == "adamw_8bit":
        assert saved["0.weight"]["state1"].dtype == torch.uint8
        assert saved["1.weight"]["state1"].dtype == torch.float32
    load_optimizer_tensors(optimizers[1], dict(trainable(models[1])), saved)
    for model, optimizer in zip(models, optimizers, strict=True):
        stepped(optimizer, lambda model=model: model(inputs).square().sum(), range(3))
    with shipped_weights(None, optimizers[0]), shipped_weights(None, optimizers[1]):
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(a, b)
    damaged = saved | {
        "0.weight": {k: v[:1] if v.dim() else v for k, v in saved["0.weight"].items()}
    }
    with pytest.raises(InputError, match=r"^optimizer.safetensors: .*0.weight"):
        load_optimizer_tensors(optimizers[1], dict(trainable(models[1])), damaged)


@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_paged_optimizers_are_refused_on_a_cpu(tmp_path: Path, name: str) -> None:
    installed("adamw_8bit")
    accepted = name.removeprefix("paged_")
    with pytest.raises(InputError, match=rf"{name} needs a GPU, .* trainer.optimizer={accepted}$"):
        trainer(tmp_path / "run", optimizer=name).fit()


def test_what_is_measured_and_shipped_is_the_average(tmp_path: Path) -> None:
    """Also the average of the best step, which is not the last one."""
    installed("schedule_free")
    settings = {"optimizer": "schedule_free", "lr_scheduler": "constant", "save_steps": 1}
    settings |= {"eval_steps": 1, "learning_rate": 1e-3, "metric_for_best_model": "loss"}
    run = trainer(tmp_path / "a", **settings, load_best_model_at_end=True)
    results = run.fit()
    best = results["model_step"]
    assert 0 < best < results["steps"]
    alone = trainer(tmp_path / "b", **settings, max_steps=best)
    found = alone.fit()
    files = [tmp_path / each / "model/model.safetensors" for each in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    raw = tmp_path / f"b/checkpoint-{best}/model.safetensors"
    assert raw.read_bytes() != files[1].read_bytes()
    assert found["metrics"]["eval_loss"] == results["metrics"]["eval_loss"]
    with alone.session.optimizer.averaged():  # nested contexts keep the average
        assert alone.evaluate()["eval_loss"] == found["metrics"]["eval_loss"]
    assert alone.evaluate()["eval_loss"] == found["metrics"]["eval_loss"]


def test_options_that_would_not_be_heeded_are_refused() -> None:
    installed("schedule_free")
    for options, message in (
        ({"warmup_steps": 3}, "accepted: trainer.warmup_steps"),
        ({"betas": [0.0, 0.9]}, "accepted: a first value above 0"),
    ):
        settings = TrainSettings(
            optimizer="schedule_free", lr_scheduler="constant", optimizer_options=options
        )
        with pytest.raises(InputError, match=message):
            build_optimizer(trainable(nn.Linear(2, 2)), settings)


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_package_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def without(package: str, *further: str) -> object:
        return None if package == NEEDS[name] else found(package, *further)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    settings = TrainSettings(optimizer=name, lr_scheduler="constant")
    with pytest.raises(InputError, match=rf"{NEEDS[name]}, which is not installed; .*\[optimizers"):
        build_optimizer(trainable(nn.Linear(2, 2)), settings)
