"""Learning rate schedules and their warm-up."""

import math

import pytest

from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.training.schedules import learning_rate


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


def test_schedules_equal_those_of_transformers() -> None:
    """After the warm-up, which starts above 0 here, but at 0 in transformers."""
    import torch
    from transformers import get_scheduler

    total, warmup = 60, 12
    theirs = {
        "linear": ("linear", {}),
        "cosine": ("cosine", {}),
        "cosine_with_restarts": ("cosine_with_restarts", {"cycles": ("num_cycles", 3)}),
        "polynomial": ("polynomial", {"power": ("power", 2.0)}),
        "inverse_sqrt": ("inverse_sqrt", {"timescale": ("timescale", 7)}),
        "constant": ("constant_with_warmup", {}),
    }
    for name, (spelled, options) in theirs.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        kwargs = {key: value for key, value in options.values()}
        if name == "polynomial":
            kwargs["lr_end"] = 0.25
        scheduler = get_scheduler(
            spelled, optimizer, warmup, total, scheduler_specific_kwargs=kwargs
        )
        expected = []
        for _ in range(total):
            expected.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        own = rates(
            total,
            warmup_steps=warmup,
            lr_scheduler=name,
            lr_scheduler_options={key: value for key, (_, value) in options.items()},
            min_learning_rate=0.25 if name == "polynomial" else 0.0,
        )
        assert own[warmup:] == pytest.approx(expected[warmup:], abs=1e-12), name
        climbs = [(step + 1) / (warmup + 1) for step in range(warmup)]
        assert own[:warmup] == pytest.approx(climbs), name


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "cosine_with_restarts", "polynomial", "wsd", "inverse_sqrt"]
)
def test_a_floor(name: str) -> None:
    found = rates(5000, lr_scheduler=name, min_learning_rate=0.9)
    assert found[0] == 1.0 and min(found) >= 0.9
    assert found[-1] == pytest.approx(0.9, abs=1e-3)


def test_inverse_sqrt_takes_the_warm_up_as_its_timescale() -> None:
    found = rates(400, lr_scheduler="inverse_sqrt", warmup_steps=100)
    assert found[100] == 1.0 and found[300] == pytest.approx(1 / math.sqrt(3))


def test_the_share_that_wsd_decays_over() -> None:
    found = rates(100, lr_scheduler="wsd", lr_scheduler_options={"decay": 0.5})
    assert (
        found[50] == 1.0 and found[51] == pytest.approx(0.98) and found[99] == pytest.approx(0.02)
    )


def test_other_names_for_schedules() -> None:
    assert TrainSettings(lr_scheduler="constant_with_warmup").lr_scheduler == "constant"
    assert TrainSettings(lr_scheduler="reduce_lr_on_plateau").lr_scheduler == "reduce_on_plateau"
    with pytest.raises(InputError, match="here it is cosine with trainer.min_learning_rate"):
        TrainSettings(lr_scheduler="cosine_with_min_lr")
