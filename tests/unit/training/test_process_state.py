"""The process state that a training changes and restores, and on which it depends."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.callbacks.callback import Callback
from trainer.data.in_memory_rows import all_rows
from trainer.data.stacked_samples import StackedSamples
from trainer.errors import InputError
from trainer.settings import TrainSettings
from trainer.trainer import Trainer


class Line(torch.nn.Linear):
    """Three numbers to one."""

    def __init__(self) -> None:
        super().__init__(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).squeeze(-1)


def squared(outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, int]:
    return (outputs - batch["y"]).square().sum(), len(outputs)


class Noisy:
    """64 rows, each with noise of all three global generators. Iteration never ends."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict[str, Any]:
        noise = torch.randn(3) + float(np.random.normal()) + random.gauss()
        return {"x": i % 64 / 64 + 0.1 * noise, "y": torch.tensor(i % 64 / 64)}


class CrashAt(Callback):
    """Ends a run after a step, without a checkpoint for it."""

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == 9:
            raise KeyError("crash")


def run(folder: Path | None, rows: Any, *callbacks: Callback, **settings: Any) -> torch.Tensor:
    torch.manual_seed(0)
    net = Line()
    chosen = {"num_epochs": 2, "global_batch_size": 8, "learning_rate": 0.05, "save_steps": 4}
    given = TrainSettings(**{**chosen, "precision": "fp32", **settings})
    Trainer(
        net, loss=squared, settings=given, train_dataset=rows, output_dir=folder,
        callbacks=callbacks,
    ).fit()  # fmt: skip
    return net.weight.detach().clone()


def plain_rows(number: int = 16, add: float = 0.0) -> list[dict[str, torch.Tensor]]:
    x = torch.randn(number, 3, generator=torch.Generator().manual_seed(1)) + add
    return [{"x": row, "y": row.sum()} for row in x]


def test_a_training_leaves_generators_and_switches_as_it_found_them() -> None:
    for deterministic in (False, True):
        torch.manual_seed(5)
        torch.use_deterministic_algorithms(not deterministic, warn_only=True)
        state = torch.get_rng_state()
        numpy, python = np.random.get_state()[1], random.getstate()
        try:
            settings = TrainSettings(num_epochs=1, deterministic=deterministic)
            Trainer(Line(), loss=squared, settings=settings, train_dataset=Noisy()).fit()
            assert torch.are_deterministic_algorithms_enabled() is not deterministic
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        finally:
            torch.use_deterministic_algorithms(False)
        # Line() drew its weights from it; the training drew nothing
        torch.manual_seed(5)
        Line()
        assert not torch.equal(torch.get_rng_state(), state)
        after = torch.get_rng_state()
        torch.manual_seed(5)
        Trainer(Line(), loss=squared, settings=settings, train_dataset=Noisy()).fit()
        assert torch.equal(torch.get_rng_state(), after)
        assert np.array_equal(np.random.get_state()[1], numpy) and random.getstate() == python


def test_the_members_of_an_ensemble_begin_differently() -> None:
    torch.manual_seed(0)
    starts = []
    for _ in range(3):
        net = Line()
        starts.append(net.weight.detach().clone())
        settings = TrainSettings(num_epochs=1)
        Trainer(net, loss=squared, settings=settings, train_dataset=plain_rows()).fit()
    assert not torch.equal(starts[1], starts[2]) and not torch.equal(starts[0], starts[1])


def test_rows_drawn_at_random_are_the_same_after_a_resume(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Noisy())
    with pytest.raises(KeyError):
        run(tmp_path / "cut", Noisy(), CrashAt())
    assert torch.equal(run(tmp_path / "cut", Noisy()), whole)
    samples = StackedSamples(Noisy(), ["x"])
    first, again = (samples.collate([3], seed=1, epoch=e)["x"] for e in (0, 0))
    other = samples.collate([3], seed=1, epoch=1)["x"]
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_plain_rows_with_other_values_are_other_data(tmp_path: Path) -> None:
    run(tmp_path, plain_rows(), max_steps=2, save_steps=1)
    with pytest.raises(InputError, match="dataset: found 16 samples"):
        run(tmp_path, plain_rows(add=1e-3), max_steps=3, save_steps=1)
    run(tmp_path, plain_rows(), max_steps=3, save_steps=1)


def test_rows_made_on_demand_are_told_apart_by_some_of_them() -> None:
    class OnDemand:
        def __init__(self, offset: float) -> None:
            self.offset = offset
            self.reads = 0

        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, i: int) -> dict[str, float]:
            self.reads += 1
            return {"x": i + self.offset}

    first, same, other = (StackedSamples(OnDemand(x), ["x"]) for x in (0.0, 0.0, 0.5))
    assert first.fingerprint == same.fingerprint != other.fingerprint
    assert first.rows.reads < 300


def test_rows_with_a_generator_of_their_own_are_warned_of(caplog: Any) -> None:
    class Own:
        draw = np.random.default_rng(0)

        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> dict[str, float]:
            return {"x": self.draw.normal()}

    first, again = StackedSamples(Own(), ["x"]), StackedSamples(Own(), ["x"])
    assert first.fingerprint == again.fingerprint
    assert "differ each time they are read" in caplog.text


def test_a_length_ends_rows_that_iterating_would_not() -> None:
    assert len(all_rows(Noisy())) == 64
    assert torch.equal(all_rows(Noisy())[5]["x"], all_rows(Noisy())[5]["x"])


def test_a_relative_folder_does_not_follow_the_process(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    class Leave(Callback):
        def on_step_end(self, step: int, total_steps: int) -> None:
            monkeypatch.chdir(tmp_path / "elsewhere")

    run(Path("run"), plain_rows(), Leave(), max_steps=2, save_steps=1)
    assert not list((tmp_path / "elsewhere").iterdir())
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoint-1", "checkpoint-2", "model", "results.json", "metrics.jsonl"} <= names
    monkeypatch.chdir(tmp_path)
    settings = TrainSettings(resume="run/checkpoint-2", max_steps=3, save_steps=1)
    resumed = Trainer(
        Line(), loss=squared, settings=settings, train_dataset=plain_rows(), output_dir="next"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="global_batch_size"):  # found, and compared
        resumed.fit()
