"""Reading facts a step later gives the same numbers as reading them at once.

Tested on a CPU, whose fused optimizers skip a step as those of CUDA do.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.distributed.stopping import build, read_late
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.callbacks.callback import Ask, Callback
from trainer.checkpoint.publish import published
from trainer.devices.ranks import Ranks
from trainer.errors import Interrupted, NumericsError
from trainer.training.device_update import can_skip_on_device
from trainer.training.evaluator import Evaluator
from trainer.training.moving_average import ExponentialMovingAverage
from trainer.training.step import StepFacts, Stepper
from trainer.training.steps import Steps

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2),
}


class WithStatistics(nn.Module):
    """A model whose forward pass changes buffers; the column `poison` is added to its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.norm = tiny_model(), nn.BatchNorm1d(4)
        self.poison = 0.0

    def forward(self, **inputs: Any) -> Any:
        outputs = self.model(**inputs)
        self.norm(torch.full((3, 4), 1.0 + self.poison) * torch.arange(3).unsqueeze(1))
        outputs.logits = outputs.logits + self.poison
        return outputs


def run(late: bool, optimizer: str, scaled: bool, clip: float, bad: tuple[int, ...]) -> Any:
    """The state after six steps, and their facts."""
    torch.manual_seed(0)
    model, table = WithStatistics().train(), ragged_table()
    step = OPTIMIZERS[optimizer](model.parameters())
    average = ExponentialMovingAverage(list(model.named_parameters()), 0.9)
    scaler = torch.amp.GradScaler("cpu", growth_interval=2) if scaled else None
    stepper = Stepper(
        model,
        RECIPES["single_label"],
        step,
        ranks=Ranks(),
        global_batch_size=8,
        max_grad_norm=clip,
        ema=average,
        scaler=scaler,
    )
    stepper.reads_late = late
    facts, unread = [], None
    for number in range(6):
        batch = table.collate(np.arange(number * 4, number * 4 + 8)).for_step(0, number)
        model.poison = float("nan") if number in bad else 0.0
        sums = stepper.accumulate([(batch, True)], 1)
        if unread is not None:
            facts.append(unread())
        unread = stepper.update(sums, 1e-2 / (number + 1))
    facts.append(unread())
    moments = [v for state in step.state.values() for v in state.values() if v is not None]
    tensors = [*model.state_dict().values(), *moments, *average.shadow.values()]
    return tensors, facts, scaler.state_dict() if scaler else None


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_skipped_bit_for_bit(optimizer: str, scaled: bool, clip: float) -> None:
    for bad in ((), (2, 3), (5,), (0,)):
        at_once = run(False, optimizer, scaled, clip, bad)
        late = run(True, optimizer, scaled, clip, bad)
        assert [facts.finite for facts in late[1]] == [number not in bad for number in range(6)]
        assert all(a.equal(b) for a, b in zip(at_once[0], late[0], strict=True)), bad
        assert repr(at_once[1]) == repr(late[1])  # NaN equals itself there
        assert at_once[2] == late[2]


def test_what_cannot_skip_is_asked_at_once() -> None:
    device, weight = torch.device("cpu"), nn.Parameter(torch.ones(3))
    able = {name: can_skip_on_device(make([weight]), device) for name, make in OPTIMIZERS.items()}
    assert able == {
        "adamw": True,
        "amsgrad": True,
        "sgd": True,
        "momentum": False,
        "rmsprop": False,
    }
    momentum = OPTIMIZERS["momentum"]([weight])
    weight.grad = torch.ones(3)
    momentum.step()
    assert can_skip_on_device(momentum, device), "from its second step on"
    assert not can_skip_on_device(OPTIMIZERS["adamw"]([weight]), torch.device("cuda"))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Any:
    def switch(on: bool) -> None:
        monkeypatch.setattr(Stepper, "__init__", read_late(on))

    return switch


def contents(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.safetensors")
    }
    times = ("samples_per_second", "tokens_per_second", "data_wait")
    times += ("memory_gib", "peak_memory_gib")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]
    return found | {"rows": rows}


def test_a_run_is_the_same_to_its_last_row(late: Any, folder: Path) -> None:
    settings = {"save_steps": 3, "eval_steps": 4, "logging_steps": 2, "ema_decay": 0.9}
    for on in (False, True):
        late(on)
        build(folder / str(on), load_best_model_at_end=True, **settings).fit()
    assert contents(folder / "True") == contents(folder / "False")
    assert len(contents(folder / "True")["rows"]) == 5 + 3


def poisoned(folder: Path, **settings: Any) -> Any:
    """A run whose loss is NaN only in step 4."""
    run = build(folder, logging_steps=1, save_steps=2, eval_steps=0, **settings)
    usual = run.recipe.loss

    def loss(outputs: Any, batch: Any, **options: Any) -> Any:
        sums, counts = usual(outputs, batch, **options)
        return (sums * torch.nan if run.state.step == 3 else sums), counts

    run.setup = replace(run.setup, recipe=_WithLoss(run.recipe, loss))
    run.evaluator = Evaluator(run.setup)
    return run


class _WithLoss:
    def __init__(self, recipe: Any, loss: Any) -> None:
        self._recipe, self.loss = recipe, loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recipe, name)


def test_a_run_stops_before_the_weights_change_and_names_the_samples(
    late: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.runs.state.recipe_to_json", lambda recipe: {})
    monkeypatch.setattr("trainer.tasks.recipe_file.recipe_to_json", lambda recipe: {})
    said, weights = [], []
    for on in (False, True):
        late(on)
        run = poisoned(folder / str(on))
        with pytest.raises(NumericsError, match=r"^step 4: loss nan, .*; samples \d+, ") as caught:
            run.fit()
        said.append(str(caught.value).replace(f"/{on}/", "/"))
        weights.append(nn.utils.parameters_to_vector(run.model.parameters()))
    assert said[0] == said[1] and said[0].endswith("checkpoint-2")
    assert torch.equal(*weights)
    assert contents(folder / "True")["rows"] == contents(folder / "False")["rows"]


def test_skipped_steps_count_as_before(
    late: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.runs.state.recipe_to_json", lambda recipe: {})
    monkeypatch.setattr("trainer.tasks.recipe_file.recipe_to_json", lambda recipe: {})
    for on in (False, True):
        late(on)
        run = poisoned(folder / str(on), non_finite="skip", ema_decay=0.9)
        run.fit()
        assert (run.state.step, run.state.skipped) == (10, 1)
    assert contents(folder / "True") == contents(folder / "False")


def test_facts_are_read_when_the_next_passes_are_launched(late: Any) -> None:
    """Except when a checkpoint, an evaluation or the end needs them."""
    late(True)
    run, order = build(None, logging_steps=1, eval_steps=4, save_steps=0), []
    usual = Stepper.accumulate, Stepper._facts

    def accumulate(self: Any, *arguments: Any) -> Any:
        order.append(f"passes {run.state.step + 1}")
        return usual[0](self, *arguments)

    def facts(self: Any, numbers: list[float]) -> StepFacts:
        order.append(f"read {run.state.step}")
        return usual[1](self, numbers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "accumulate", accumulate)
        patch.setattr(Stepper, "_facts", facts)
        run.fit()
    at = {what: number for number, what in enumerate(order)}
    for step in range(1, 10):
        later = at[f"read {step}"] > at[f"passes {step + 1}"]
        assert later is (step not in (4, 8)), step
    assert order[-1] == "read 10"


def test_a_signal_stops_with_the_state_of_its_step(late: Any, folder: Path) -> None:
    for on in (False, True):
        late(on)
        run = build(folder / str(on), save_steps=0, eval_steps=0, logging_steps=1, ema_decay=0.9)
        usual = Steps.advance

        def advance(steps: Steps, facts: Any, usual: Any = usual, run: Any = run) -> None:
            usual(steps, facts)
            if run.state.step == 3:
                signal_itself()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Steps, "advance", advance)
            with pytest.raises(Interrupted):
                run.fit()
        run = build(folder / str(on), save_steps=0, eval_steps=0, logging_steps=1, ema_decay=0.9)
        run.fit()
    model = "model/model.safetensors"
    assert (folder / "True" / model).read_bytes() == (folder / "False" / model).read_bytes()


@dataclass
class StopsAt(Callback):
    """Asks to stop after a step."""

    step: int

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        return Ask(stop=True) if step == self.step else None


@pytest.mark.parametrize("on", [False, True])
def test_a_run_that_is_to_stop_first_repeats_a_step_that_did_not_fit(
    late: Any, folder: Path, on: bool
) -> None:
    late(on)
    run, failed = build(folder, save_steps=0, eval_steps=0), []
    run.callbacks.append(StopsAt(3))

    def lack(*_: Any) -> None:
        if run.model.training and run.state.step == 2 and not failed:
            failed.append("step 3")
            raise torch.OutOfMemoryError("CUDA out of memory.")

    run.model.register_forward_pre_hook(lack)
    results = run.fit()
    assert failed and results["steps"] == 3 and results["stopped"]
    assert list(published(folder)) == [3]


def signal_itself() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
