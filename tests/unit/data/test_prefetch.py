"""Prefetched batches equal those that would be made on demand, in the same order."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.distributed.stopping import build
from tests.unit.test_exactness import ragged_table
from trainer.data.prefetch import DEPTH, Part, Prefetcher
from trainer.data.tokens import TokenTable
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training import throughput
from trainer.training.reporting import Reporter
from trainer.training.step import Stepper


class Watched:
    """Samples that record which thread collates what."""

    def __init__(self, pure: bool = True, broken: int = -1) -> None:
        self.table, self.pure, self.broken = ragged_table(40), pure, broken
        self.calls: list[tuple[str, list[int]]] = []

    def collate(self, sample_ids: Any) -> Any:
        ids = np.asarray(sample_ids).tolist()
        self.calls.append((threading.current_thread().name, ids))
        if self.broken in ids:
            raise ValueError(f"row {self.broken} cannot be read")
        return self.table.collate(sample_ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.table, name)


def parts(first: int, number: int, step: int = 3) -> list[Part]:
    return [Part(step, np.arange(n, n + 2)) for n in range(first, first + 2 * number, 2)]


def equal(one: Any, other: Any) -> bool:
    tensors = zip(one.inputs().items(), other.inputs().items(), strict=True)
    return np.array_equal(one.sample_ids, other.sample_ids) and all(
        a == b and (torch.equal(x, y) if isinstance(x, torch.Tensor) else True)
        for (a, x), (b, y) in tensors
    )


@pytest.fixture
def ahead() -> Any:
    made = []

    def make(samples: Any) -> Prefetcher:
        made.append(Prefetcher(samples, seed=7, steps_per_epoch=10))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_thread_makes_the_next_ones_and_no_more(ahead: Any) -> None:
    samples = Watched()
    batches = ahead(samples)
    wanted = parts(0, 6)
    batches.expect(wanted)
    for number, part in enumerate(wanted, start=1):
        batch = batches.take(part)
        assert equal(batch, samples.table.collate(part.sample_ids).for_step(7, 3))
        time.sleep(0.01)
        assert len(samples.calls) <= number + DEPTH
    assert [ids for _, ids in samples.calls] == [part.sample_ids.tolist() for part in wanted]
    assert all(name.startswith("batches") for name, _ in samples.calls)


def test_plans_that_change_and_calls_in_between(ahead: Any) -> None:
    """Micro batches are halved after a lack of memory, and a placeholder replaces one."""
    samples = Watched()
    batches = ahead(samples)
    batches.expect(parts(0, 3) + parts(0, 2, step=4))
    batches.take(parts(0, 1)[0])
    placeholder = batches.take(Part(3, np.empty(0, np.int64)))
    assert placeholder.num_tokens == 1
    halves = [Part(3, np.array([n])) for n in range(4)]
    batches.expect(halves)
    for part in halves:
        assert batches.take(part).sample_ids.tolist() == part.sample_ids.tolist()
    batches.expect(parts(8, 3, step=5))
    batches.expect(parts(8, 3, step=5) + parts(0, 1, step=6))
    for part in parts(8, 3, step=5) + parts(0, 1, step=6):
        assert equal(
            batches.take(part), samples.table.collate(part.sample_ids).for_step(7, part.step)
        )
    assert samples.calls[-1][0].startswith("batches")


def test_what_is_not_a_function_is_made_when_asked(ahead: Any) -> None:
    samples = Watched(pure=False)
    batches = ahead(samples)
    batches.expect(parts(0, 3))
    assert samples.calls == []
    for part in parts(0, 3):
        batches.take(part)
    assert {name for name, _ in samples.calls} == {threading.current_thread().name}


@pytest.mark.parametrize("pure", [True, False])
def test_an_error_comes_with_its_own_batch(ahead: Any, pure: bool) -> None:
    batches = ahead(Watched(pure, broken=3))
    batches.expect(parts(0, 3))
    batches.take(parts(0, 1)[0])
    with pytest.raises(ValueError, match="^row 3 cannot be read$"):
        batches.take(parts(2, 1)[0])


def test_a_run_is_the_same_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, threads = [], set()
    usual = TokenTable.collate

    def watched(self: Any, *given: Any) -> Any:
        threads.add(threading.current_thread().name.partition("_")[0])
        return usual(self, *given)

    monkeypatch.setattr(TokenTable, "collate", watched)
    for pure in (True, False):
        threads.clear()
        run = build(None, max_tokens_per_micro_batch=60, logging_steps=1, eval_steps=0)
        run.train_samples.pure = pure  # type: ignore[union-attr]
        run.fit()
        found.append(nn.utils.parameters_to_vector(run.model.parameters()))
        assert run.session.batches._thread is None and ("batches" in threads) == pure
    assert torch.equal(*found)


def test_random_rows_of_a_plain_data_set_are_a_function_of_the_run() -> None:
    """They draw from torch's generator, which dropout also uses in forward passes."""

    class Noisy:
        def __len__(self) -> int:
            return 24

        def __getitem__(self, number: int) -> dict[str, Any]:
            return {"x": torch.randn(4) + number, "y": float(number % 2)}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x).squeeze(1)

    def loss(outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return (outputs - batch["y"]).square().sum(), torch.tensor(len(outputs))

    def weights() -> torch.Tensor:
        torch.manual_seed(0)
        net = Net()
        settings = TrainSettings(max_steps=8, global_batch_size=6, micro_batch_size=2)
        Trainer(net, loss=loss, settings=settings, train_dataset=Noisy()).fit()
        return nn.utils.parameters_to_vector(net.parameters())

    assert torch.equal(weights(), weights())


def test_the_share_of_waiting_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which only batches and updates take time: one second each."""
    usual, update, now = TokenTable.collate, Stepper.update, [0.0]

    def slowly(self: Any, sample_ids: Any, seed: int = 0, epoch: int | None = None) -> Any:
        now[0] += 1
        return usual(self, sample_ids, seed, epoch)

    def updated(self: Any, *given: Any) -> Any:
        now[0] += 1
        return update(self, *given)

    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(TokenTable, "collate", slowly)
    monkeypatch.setattr(Stepper, "update", updated)
    rows: list[Any] = []
    run = build(None, max_steps=2, logging_steps=1, eval_steps=0)
    run.train_samples.pure = False  # type: ignore[union-attr]
    monkeypatch.setattr(Reporter, "log", lambda self, values: rows.append(values))
    run.fit()
    assert [row["data_wait"] for row in rows] == [0.5, 0.5]
