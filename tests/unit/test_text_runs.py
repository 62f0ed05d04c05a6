"""Text recipes on tiny models: any split gives equal results, and resuming is bitwise exact."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.text_runs import CASES, SLOW, KillAt, Killed, weights
from trainer.tasks.recipe import Recipe

NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES]
EVERYTHING = {"save_steps": 2, "eval_steps": 2, "ema_decay": 0.9, "load_best_model_at_end": True}


@pytest.mark.parametrize("name", NAMES)
def test_any_split_of_a_global_batch_gives_the_same_weights(name: str) -> None:
    """Micro batches of one or three samples or a token budget; with and without recomputed layers.

    Samples that the loss compares with each other stay together.
    """
    group = CASES[name].recipe.group_size
    sgd = {"optimizer": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0}
    before = weights(CASES[name].trainer())
    runs = [
        CASES[name].trainer(**sgd, **split)
        for split in (
            {},
            {"micro_batch_size": max(1, group)},
            {"micro_batch_size": max(3, group), "gradient_checkpointing": True},
            {"max_tokens_per_micro_batch": 40},
        )
    ]
    whole, *others = [(run.fit()["metrics"], weights(run)) for run in runs]
    assert (whole[1] - before).norm() > 1e-2
    for metrics, found in others:
        assert (found - whole[1]).norm() <= 1e-12 * (whole[1] - before).norm()
        assert metrics == pytest.approx(whole[0], rel=1e-9)


@pytest.mark.parametrize("name", ["blocks, llama", "blocks, window", "blocks, gpt2"])
def test_a_block_teaches_what_its_documents_alone_teach(name: str) -> None:
    """Packed documents and separate ones give equal losses and gradients in float64."""
    trainer = CASES[name].trainer()
    model, recipe = trainer.model.eval(), trainer.recipe
    batch = trainer.train_samples.collate(range(5))
    packed = gradients(model, recipe, batch)
    pieces = batch.input_ids.split(batch.sequence_lengths.tolist())
    alone = torch.zeros_like(packed[0])
    total = 0.0
    for ids, context in zip(pieces, batch["context"], strict=True):
        labels = torch.where(torch.arange(len(ids)) < context, -100, ids)
        loss = model(ids[None], labels=labels[None]).loss
        learnt = int((labels[1:] != -100).sum())
        if learnt:
            alone += flat(model, loss * learnt)
            total += loss.item() * learnt
    assert len(pieces) > 5
    assert packed[1] == pytest.approx(total, rel=1e-12)
    assert (packed[0] - alone).norm() <= 1e-12 * alone.norm()


def gradients(model: Any, recipe: Recipe, batch: Any) -> tuple[torch.Tensor, float]:
    total, _ = recipe.loss(model(**batch.inputs()), batch)
    return flat(model, total), total.item()


def flat(model: Any, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(tmp_path: Path, name: str) -> None:
    """Killed within an epoch before a save, right after a save, and at the end of an epoch."""
    whole = CASES[name].trainer(tmp_path / "whole", **EVERYTHING)
    whole.fit()
    for step in (1, 2, 3, 5):
        run = CASES[name].trainer(tmp_path / "cut", [KillAt(step)], **EVERYTHING)
        with pytest.raises(Killed):
            run.fit()
    again = CASES[name].trainer(tmp_path / "cut", **EVERYTHING)
    again.fit()
    assert torch.equal(weights(again), weights(whole))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    model = tmp_path / "whole" / "model"
    for file in sorted(model.rglob("*")):
        if file.is_file() and file.name != "manifest.json":
            other = tmp_path / "cut" / "model" / file.relative_to(model)
            assert other.read_bytes() == file.read_bytes()


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if not k.endswith(("per_second", "data_wait", "memory_gib"))}
        for row in found
    ]
