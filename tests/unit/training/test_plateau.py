"""Lower learning rates on a plateau, compared with torch's scheduler, and across a resume."""

import math
import random

import pytest
import torch

from trainer.settings import TrainSettings
from trainer.training.plateau import ReduceOnPlateau, plateau_scale, watchers
from trainer.training.schedules import learning_rate

NAME = "eval_loss"


@pytest.mark.parametrize("greater_is_better", [False, True])
@pytest.mark.parametrize("cooldown", [0, 3])
def test_the_rules_are_torchs(greater_is_better: bool, cooldown: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    mode = "max" if greater_is_better else "min"
    options = {"factor": 0.5, "patience": 2, "threshold": 0.05, "cooldown": cooldown}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, eps=0.0, **options)
    ours, best, seen = ReduceOnPlateau(NAME, **options), math.nan, set()
    numbers = random.Random(3)
    for step in range(200):
        value = numbers.uniform(1, 1.2) if step % 3 else 1 + 1 / (step + 1)
        improved = not (value <= best if greater_is_better else value >= best)
        best = value if improved else best
        theirs.step(value)
        ours.on_evaluate(step, {NAME: value}, improved)
        assert ours.scale == optimizer.param_groups[0]["lr"]
        seen.add(ours.scale)
        again = ReduceOnPlateau(NAME, **options)
        again.load_state(ours.state())
        assert again.state() == ours.state()
        ours = again
    assert len(seen) > 5


def test_the_floor_holds_and_warm_up_comes_first() -> None:
    settings = TrainSettings(
        learning_rate=1.0, lr_scheduler="reduce_on_plateau", min_learning_rate=0.2, warmup_steps=1
    )
    (rule,) = watchers(settings, lambda: "eval_loss")
    assert rule == ReduceOnPlateau("eval_loss", 0.1, 10, 1e-4, 0)
    assert watchers(TrainSettings(), lambda: "eval_loss") == []
    assert plateau_scale([]) == plateau_scale([rule]) == 1.0
    assert [learning_rate(step, 9, settings, 0.5) for step in (0, 1, 8)] == [0.5, 0.5, 0.5]
    assert learning_rate(8, 9, settings, 0.1) == 0.2


def test_a_value_that_is_not_finite_is_no_better() -> None:
    rule = ReduceOnPlateau(NAME, 0.5, 0, 0.0, 0)
    rule.on_evaluate(1, {NAME: 1.0}, True)
    rule.on_evaluate(2, {NAME: math.nan}, False)
    assert rule.scale == 0.5
