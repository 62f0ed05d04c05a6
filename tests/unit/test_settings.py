"""TrainSettings: derived quantities, and every contradiction refused in one line."""

from typing import Any

import pytest

from trainer.errors import InputError
from trainer.precision import check_same_precision
from trainer.settings import TrainSettings


def test_steps() -> None:
    settings = TrainSettings(num_epochs=2.5, global_batch_size=10)
    assert settings.steps_per_epoch(95) == 10
    assert settings.total_steps(95) == 25
    assert TrainSettings(max_steps=7).total_steps(95) == 7
    assert TrainSettings(num_epochs=0.001).total_steps(95) == 1


@pytest.mark.parametrize(
    ("value", "steps"), [("epoch", 10), (7, 7), (0, 0), (0.25, 5), (0.0001, 1), (3.0, 3)]
)
def test_intervals(value: Any, steps: int) -> None:
    settings = TrainSettings(num_epochs=2, global_batch_size=10, eval_steps=value)
    assert settings.interval("eval_steps", 100) == steps


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
    ({"warmup_steps": 2.5}, "whole steps or a share"),
    ({"warmup_steps": 9, "max_steps": 8}, r"at most max_steps \(8\)"),
    ({"label_smoothing": 1.0}, "trainer.label_smoothing"),
    ({"ema_decay": 1.0}, "trainer.ema_decay"),
    ({"save_total_limit": 1}, "accepted: 2 or more"),
    ({"save_total_limit": None}, "trainer.save_total_limit: found None; accepted: 2 or more"),
    ({"lr_scheduler": "cosin"}, "accepted: linear, cosine, constant, wsd"),
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


def test_ranks_that_resolved_auto_differently_are_refused() -> None:
    check_same_precision(["bf16", "bf16"])
    with pytest.raises(InputError, match="auto is bf16 on rank 0 and fp32 on rank 2; accepted: "):
        check_same_precision(["bf16", "bf16", "fp32"])
