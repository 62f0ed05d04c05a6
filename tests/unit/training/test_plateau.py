"""Lower learning rates on a plateau, compared with torch's scheduler, and across a resume."""

import math
import random

import pytest
import torch

from trainer.callbacks.early_stopping import EarlyStopping
from trainer.settings import TrainSettings
from trainer.training.plateau import ReduceOnPlateau, plateau_scale, restart, watchers
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


def test_counts_start_anew_for_another_metric_at_the_reduced_rate() -> None:
    before = ReduceOnPlateau(NAME, 0.5, 1, 0.0, 4)
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0)):
        before.on_evaluate(step, {NAME: value}, step == 0)
    state = before.state()
    assert state == {"scale": 0.5, "best": 1.0, "waited": 0, "cooling": 3, "metric": NAME}
    earlier = {name: value for name, value in state.items() if name != "metric"}
    for saved in (state, earlier):
        same = ReduceOnPlateau(NAME, 0.5, 1, 0.0, 4)
        same.load_state(saved)
        assert same.state() == state
    other = ReduceOnPlateau("eval_accuracy", 0.5, 1, 0.0, 4)
    other.load_state(state)
    anew = {"best": None, "waited": 0, "cooling": 0, "metric": "eval_accuracy"}
    assert other.state() == {"scale": 0.5, **anew}


def test_a_second_training_counts_anew() -> None:
    callbacks = [ReduceOnPlateau(NAME, 0.5, 0, 0.0, 0), EarlyStopping(2, 0.5, NAME)]
    fresh = [each.state() for each in callbacks]
    for each in callbacks:
        each.on_evaluate(1, {NAME: 1.0}, True)
        each.on_evaluate(2, {NAME: 2.0}, False)
    assert [each.state() for each in callbacks] != fresh
    restart(callbacks)
    assert [each.state() for each in callbacks] == fresh


def test_an_evaluation_without_the_metric_is_no_better() -> None:
    rule = ReduceOnPlateau(NAME, 0.5, 0, 0.0, 0)
    rule.on_evaluate(1, {}, False)  # some metrics are not computed from logits that are not finite
    assert rule.scale == 0.5


def test_a_value_that_is_not_finite_is_no_better() -> None:
    rule = ReduceOnPlateau(NAME, 0.5, 0, 0.0, 0)
    rule.on_evaluate(1, {NAME: 1.0}, True)
    rule.on_evaluate(2, {NAME: math.nan}, False)
    assert rule.scale == 0.5
