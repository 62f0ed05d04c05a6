"""Trainings on one GPU: number formats, compilation, resuming, low memory, CPU offload."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from trainer.callbacks.callback import Ask, Callback
from trainer.devices.options import DeviceOptions
from trainer.runs.context import RunContext
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

pytestmark = pytest.mark.gpu


def built(
    output_dir: Path | None = None,
    model: Any = None,
    callbacks: tuple[Callback, ...] = (),
    table: Any = None,
    cpu_offload: bool = False,
    **settings: Any,
) -> Trainer:
    """A tiny model in fp32, with dropout, and 64 ragged samples, unless others are given."""
    values = {
        "global_batch_size": 16,
        "max_steps": 10,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "precision": "fp32",
        "save_steps": 0,
        "eval_steps": 0,
        "logging_steps": 1,
    }
    devices = DeviceOptions(strategy="fsdp" if cpu_offload else "auto", cpu_offload=cpu_offload)
    return Trainer(
        tiny_model().float() if model is None else model,
        RECIPES["single_label"],
        TrainSettings(**{**values, **settings}),
        train_dataset=ragged_table(64) if table is None else table,
        callbacks=callbacks,
        output_dir=output_dir,
        context=RunContext(devices=devices),
    )


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten().double().cpu() for p in trainer.model.parameters()])


def trained(**settings: Any) -> torch.Tensor:
    trainer = built(**settings)
    assert trainer.ranks.device.type == "cuda"
    trainer.fit()
    return weights(trainer)


def moved_apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The distance of two trainings' weights relative to the change of one."""
    start = torch.cat([p.detach().flatten().double() for p in tiny_model().float().parameters()])
    return float((one - other).norm() / (other - start).norm())


@pytest.mark.parametrize("precision,most", [("bf16", 0.03), ("fp16", 0.005)])
def test_half_precision_goes_the_way_of_fp32(precision: str, most: float) -> None:
    trainer = built(precision=precision)
    trainer.fit()
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert (trainer.session.scaler is not None) == (precision == "fp16")
    assert trainer.state.skipped == 0
    assert moved_apart(weights(trainer), trained()) < most


def test_a_step_that_overflows_in_fp16_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", partial(scaler, init_scale=2.0**60))
    once = built(precision="fp16", max_steps=1, optimizer="adamw")
    before = weights(once)
    once.fit()
    assert once.state.skipped == 1 and once.session.scaler.get_scale() == 2.0**59
    assert torch.equal(weights(once), before)
    moments = [m for state in once.session.optimizer.state.values() for m in state.values()]
    assert not any(m.any() for m in moments)  # including the step counters


def test_fp16_finds_a_scale_and_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", partial(scaler, init_scale=2.0**30))
    trainer = built(precision="fp16", max_steps=30)
    before = weights(trainer)
    trainer.fit()
    assert 0 < trainer.state.skipped < 20
    after = weights(trainer)
    assert after.isfinite().all() and not torch.equal(after, before)


def test_a_compiled_model_trains_as_an_eager_one() -> None:
    assert moved_apart(trained(compile=True), trained()) < 1e-4


@dataclass
class Stop(Callback):
    """Saves and stops after a step, as a kill between two steps would."""

    step: int = 4

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        if step == self.step:
            raise KeyboardInterrupt
        return None


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(
    precision: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "precision": precision,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "deterministic": True,
        "ema_decay": 0.9,
        "save_steps": 3,
    }
    try:
        whole = trained(output_dir=tmp_path / "whole", **settings)
        with pytest.raises(KeyboardInterrupt):
            trained(output_dir=tmp_path / "cut", callbacks=(Stop(),), **settings)
        cut = trained(output_dir=tmp_path / "cut", **settings)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(cut, whole)


@pytest.fixture
def little_memory() -> Iterator[int]:
    """Limit this process's GPU memory to 1 GiB more than it uses."""
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved() + (1 << 30)
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.mem_get_info()[1])
    yield most
    torch.cuda.set_per_process_memory_fraction(1.0)


WIDE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
"""7 M parameters per layer, and about 60 KB of activations per token and layer in fp32."""


def larger(**settings: Any) -> Trainer:
    """An optimizer that needs some GB at once for a step."""
    model = tiny_model(**WIDE, num_hidden_layers=4).float()
    return built(
        model=model, table=ragged_table(1024), global_batch_size=512, max_steps=3, **settings
    )


def test_a_micro_batch_as_large_as_memory_allows_is_found(little_memory: int) -> None:
    trainer = larger()
    trainer.fit()
    most = np.sort(trainer.train_samples.lengths)[-512:].sum()
    assert 128 < trainer.session.max_tokens < most


@dataclass
class Hoard(Callback):
    """Takes most of the remaining memory after the first step."""

    limit: int
    held: list[torch.Tensor] = field(default_factory=list)

    def on_step_end(self, step: int, total_steps: int) -> Ask | None:
        if step == 1:
            torch.cuda.empty_cache()
            left = self.limit - torch.cuda.memory_reserved()
            self.held.append(torch.empty(left * 7 // 10, dtype=torch.uint8, device="cuda"))
        return None


def test_a_micro_batch_that_fits_no_more_is_split_and_the_step_repeated(
    little_memory: int, caplog: pytest.LogCaptureFixture
) -> None:
    hoard = Hoard(little_memory)
    short = larger(callbacks=(hoard,))
    start = weights(short)
    short.fit()
    assert "step 2: out of memory; micro batches: <= " in caplog.text
    found = weights(short)
    hoard.held.clear()
    del short
    torch.cuda.empty_cache()
    wanted = trained(
        model=tiny_model(**WIDE, num_hidden_layers=4).float(),
        table=ragged_table(1024),
        global_batch_size=512,
        max_steps=3,
        max_tokens_per_micro_batch=512,
    )
    assert (found - wanted).norm() <= 1e-3 * (wanted - start).norm()


@pytest.fixture
def no_group_left() -> Iterator[None]:
    """A single process that shards creates a process group, which other tests should not find."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_state_on_the_host_changes_no_number(no_group_left: None, tmp_path: Path) -> None:
    """Momentum and an average; a run without offload continues from the checkpoint."""
    settings: dict[str, Any] = {"optimizer_options": {"momentum": 0.9}, "ema_decay": 0.9}
    wanted = trained(**settings)
    trainer = built(tmp_path / "host", cpu_offload=True, save_steps=5, **settings)
    trainer.fit()
    rows = trainer.session.resumable.parameters
    moments = [m for state in trainer.session.optimizer.state.values() for m in state.values()]
    assert all(t.device.type == "cpu" for t in (*trainer.model.parameters(), *moments))
    assert all(t.is_pinned() for t in rows.values())
    found = torch.cat([t.detach().flatten().double() for t in rows.values()])
    assert moved_apart(found, wanted) < 1e-4
    half = tmp_path / "host" / "checkpoint-5"
    resumed = trained(output_dir=tmp_path / "gpu", resume=str(half), **settings)
    assert moved_apart(resumed, wanted) < 1e-4


def test_the_gpu_holds_less_where_state_is_on_the_host(no_group_left: None) -> None:
    peaks = []
    for cpu_offload in (False, True):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model = tiny_model(**WIDE, num_hidden_layers=24).float()
        size = 4 * sum(p.numel() for p in model.parameters())
        options = {"optimizer": "adamw", "micro_batch_size": 2, "max_steps": 2}
        built(model=model, cpu_offload=cpu_offload, **options).fit()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del model
        gc.collect()
    assert peaks[0] > 4 * size  # weights, gradients and two moments
    assert peaks[1] < size


def test_an_evaluation_counts_and_finds_what_the_cpu_finds() -> None:
    table = ragged_table(61, seed=3)
    trainer = built()
    found, predicted = trainer.evaluate(table), trainer.predict(table)
    assert all(len(values) == 61 for values in predicted.values())
    model = tiny_model().eval()
    batch = table.collate(range(61))
    with torch.no_grad():
        sums, counts = trainer.recipe.loss(model(**batch.inputs()), batch)
    loss = float(sums.sum() / torch.as_tensor(counts).sum())
    assert found["eval_loss"] == pytest.approx(loss, rel=1e-5)
