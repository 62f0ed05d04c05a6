"""TrainSettings: derived values, and a one-line error for every contradiction."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from trainer.devices.precision import check_same_precision
from trainer.errors import InputError
from trainer.settings import TrainSettings


def test_steps() -> None:
    settings = TrainSettings(num_epochs=2.5, global_batch_size=10)
    assert settings.steps_per_epoch(95) == 10
    assert settings.total_steps(10) == 25
    assert TrainSettings(max_steps=7).total_steps(10) == 7
    assert TrainSettings(num_epochs=0.001).total_steps(10) == 1


@pytest.mark.parametrize(
    ("value", "steps"), [("epoch", 10), (7, 7), (0, 0), (0.25, 5), (0.0001, 1), (3.0, 3)]
)
def test_intervals(value: Any, steps: int) -> None:
    settings = TrainSettings(num_epochs=2, global_batch_size=10, eval_steps=value)
    assert settings.interval("eval_steps", 10) == steps


BAD: list[tuple[dict[str, Any], str]] = [
    ({"learning_rate": 0}, "trainer.learning_rate: found 0; accepted: a number above 0"),
    ({"learning_rate": float("nan")}, "trainer.learning_rate: found nan"),
    ({"learning_rate": float("inf")}, "trainer.learning_rate: found inf"),
    ({"learning_rate": "3e-5"}, "trainer.learning_rate: found '3e-5'; accepted: a number above 0"),
    ({"num_epochs": 0}, "trainer.num_epochs"),
    ({"num_epochs": None}, "trainer.num_epochs: found None"),
    ({"max_steps": 0}, "trainer.max_steps"),
    ({"global_batch_size": 0}, "trainer.global_batch_size"),
    ({"max_steps": 2.5}, "trainer.max_steps: found 2.5; accepted: a whole number above 0"),
    ({"micro_batch_size": -1}, "trainer.micro_batch_size"),
    ({"warmup_steps": -1}, "trainer.warmup_steps"),
    ({"warmup_steps": 2.5}, "a whole number of steps, or a share"),
    ({"warmup_steps": 9, "max_steps": 8}, r"at most max_steps \(8\)"),
    ({"label_smoothing": 1.0}, "trainer.label_smoothing"),
    ({"layer_decay": 0}, "trainer.layer_decay: found 0; accepted: a number above 0 and at most 1"),
    ({"layer_decay": 1.1}, "trainer.layer_decay: found 1.1"),
    ({"parameter_groups": ["a"]}, "trainer.parameter_groups: found .*accepted: a mapping {name"),
    ({"parameter_groups": {"a": 2}}, "trainer.parameter_groups.a: found 2; accepted: a mapping"),
    ({"parameter_groups": {"a": {"lr": 2}}}, "found 'lr'; accepted: lr_scale, weight_decay"),
    ({"parameter_groups": {"a": {"lr_scale": -1}}}, "a.lr_scale: found -1; accepted: a number of"),
    ({"ema_decay": 1.0}, "trainer.ema_decay"),
    ({"save_total_limit": 1}, "accepted: 2 or more"),
    ({"save_total_limit": None}, "trainer.save_total_limit: found None; accepted: 2 or more"),
    ({"lr_scheduler": "cosin"}, "accepted: linear, cosine, .*did you mean 'cosine'"),
    (
        {"lr_scheduler_options": {"power": 2}},
        "found 'power'; accepted: none; linear has no options",
    ),
    (
        {"lr_scheduler": "polynomial", "lr_scheduler_options": {"power": 0}},
        "trainer.lr_scheduler_options.power: found 0; accepted: a number above 0",
    ),
    (
        {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_options": {"cycle": 2}},
        "found 'cycle'; accepted: cycles; did you mean 'cycles'",
    ),
    ({"min_learning_rate": -1}, "trainer.min_learning_rate: found -1"),
    ({"min_learning_rate": 1}, "trainer.min_learning_rate: found 1; accepted: at most"),
    ({"min_learning_rate": 1e-6, "lr_scheduler": "constant"}, "constant does not decay"),
    ({"lr_scheduler": "reduce_on_plateau", "eval_steps": 0}, "needs evaluations"),
    ({"optimizer": "schedule_free"}, "found 'linear'; optimizer schedule_free averages"),
    ({"optimizer": "adamw_torch_8bit"}, "found 'adamw_torch_8bit'; here it is adamw_8bit"),
    ({"early_stopping_threshold": -0.1}, "trainer.early_stopping_threshold"),
    ({"precision": "bf17"}, "accepted: auto, fp32, bf16, fp16"),
    ({"non_finite": "hide"}, "accepted: stop, skip"),
    ({"eval_steps": "steps"}, "accepted: a whole number of steps"),
    ({"eval_steps": None}, "trainer.eval_steps: found None; accepted: a whole number of steps"),
    ({"trackers": None}, "trainer.trackers: found None; accepted: a list of tensorboard"),
    ({"trackers": "wandb"}, "trainer.trackers: found 'wandb'; accepted: a list"),
    ({"save_steps": 2.5}, "accepted: a whole number of steps"),
    ({"logging_steps": -1}, "accepted: a whole number of steps"),
    ({"load_best_model_at_end": True, "eval_steps": 0}, "needs evaluations"),
    ({"early_stopping_patience": 2, "eval_steps": 0}, "needs evaluations"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=lambda value: str(value)[:40])
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        TrainSettings(**settings)
    assert "\n" not in str(error.value)


def test_other_tools_names_for_optimizers() -> None:
    spelled = {"adamw_torch_fused": "adamw", "adamw_bnb_8bit": "adamw_8bit", "AdamW": "AdamW"}
    spelled |= {"paged_adamw_32bit": "paged_adamw", "paged_adamw_8bit": "paged_adamw_8bit"}
    for name, own in spelled.items():
        assert TrainSettings(optimizer=name).optimizer == own


def test_ranks_that_resolved_auto_differently_are_refused() -> None:
    check_same_precision(["bf16", "bf16"])
    with pytest.raises(InputError, match="auto is bf16 on rank 0 and fp32 on rank 2; accepted: "):
        check_same_precision(["bf16", "bf16", "fp32"])


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("resume", True, "auto, must, never, or the path of a checkpoint"),
        ("optimizer", None, "text"),
        ("metric_for_best_model", 3, "text, or null"),
        ("greater_is_better", "max", "true, false, or null"),
        ("compile", "yes", "true, false"),
        ("deterministic", 2, "true, false"),
        ("activation_offload", 1.0, "true, false"),
        ("allow_changes", "seed", "a list"),
        ("optimizer_options", [1], "a mapping"),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: Any, accepted: str) -> None:
    """In Python, nothing else checks them: they were obeyed, ignored or ended in a traceback."""
    with pytest.raises(InputError) as caught:
        TrainSettings(**{name: value})
    assert str(caught.value) == f"trainer.{name}: found {value!r}; accepted: {accepted}"


def test_a_part_of_a_checkpoint_is_not_kept() -> None:
    with pytest.raises(
        InputError, match="trainer.save_total_limit: found 2.5; accepted: 2 or more"
    ):
        TrainSettings(save_total_limit=2.5)  # type: ignore[arg-type]


def test_a_checkpoint_may_be_a_path() -> None:
    assert TrainSettings(resume=Path("runs/a")).resume == "runs/a"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("allow_changes", OmegaConf.create(["seed"]), ["seed"]),
        ("allow_changes", {"seed", "data"}, ["data", "seed"]),
        ("allow_changes", {"seed": 1}.keys(), ["seed"]),
        ("trackers", OmegaConf.create([]), []),
        ("optimizer_options", OmegaConf.create({"betas": [0.5, 0.9]}), {"betas": [0.5, 0.9]}),
        ("optimizer_options", {"betas": (0.5, 0.9)}, {"betas": (0.5, 0.9)}),
        ("deterministic", np.True_, True),
        ("greater_is_better", np.False_, False),
        ("compile", 1, True),
        ("global_batch_size", np.int64(4), 4),
        ("global_batch_size", 8.0, 8),
        ("max_steps", np.float32(2), 2),
        ("micro_batch_size", 4.0, 4),
        ("save_total_limit", 3.0, 3),
        ("warmup_steps", 2.0, 2.0),
        ("learning_rate", torch.tensor(0.5), 0.5),
        ("max_steps", 100.0, 100),
        ("micro_batch_size", np.float64(8), 8),
        ("report", 0, False),
        *((name, None, False) for name in ("gradient_checkpointing", "load_best_model_at_end")),
        ("report", None, True),
        ("allow_changes", None, []),
        *((name, None, {}) for name in ("optimizer_options", "lr_scheduler_options")),
        ("resume", None, "auto"),
    ],
)
def test_values_of_the_same_meaning_are_converted(name: str, value: Any, expected: Any) -> None:
    found = getattr(TrainSettings(**{name: value}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 10**400) for name in ("max_steps", "eval_steps", "learning_rate", "ema_decay")),
        ("parameter_groups", {"a": {"lr_scale": 10**400}}),
        ("trackers", [1]),
        ("trackers", [["wandb"]]),
        ("lr_scheduler", ["linear"]),
        ("micro_batch_size", 1.5),
    ],
)
def test_values_that_no_check_can_compute_with_are_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^trainer\.{name}"):
        TrainSettings(**{name: value})  # type: ignore[arg-type]


def test_options_of_a_schedule_that_no_float_can_hold_are_refused() -> None:
    with pytest.raises(InputError, match=r"lr_scheduler_options\.power: found 1000"):
        TrainSettings(lr_scheduler="polynomial", lr_scheduler_options={"power": 10**400})
