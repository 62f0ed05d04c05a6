"""What every rank of `test_decoders.py` runs: text and chats, whole and sharded, and resumed."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.distributed.stopping import leave
from tests.unit.text_runs import CASES, KillAt, Killed
from trainer.callbacks.samples import Samples
from trainer.generation.settings import GenerationSettings
from trainer.ranks import Ranks
from trainer.sharding import whole_weights
from trainer.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "eval_steps": 3}
ADAM = {"save_steps": 2, "eval_steps": 2, "ema_decay": 0.9, "load_best_model_at_end": True}
KILLS = {1: (1, 3, 5), 2: (1, 5), 4: (3,)}
"""Processes -> the steps that a run is killed after: before anything is saved, and later."""


def main(folder: Path) -> None:
    world_size = CASES["blocks, llama"].trainer().ranks.world_size  # the first makes the group
    found: dict[str, Any] = {}
    for name in cases(world_size):
        for strategy in strategies(world_size):
            for accumulation in (1, 3):
                key = f"{name}, {strategy}, {accumulation}"
                own = folder / f"{world_size}, {key}"
                micro = -(-5 // (world_size * 3)) if accumulation == 3 else None
                trainer = run(name, strategy, own, **SGD, micro_batch_size=micro)
                trainer.fit()
                found[key] = [flat(trainer), trainer.evaluations[""].metrics, samples(own)]
            own = folder / f"{world_size}, {name}, {strategy}"
            found[f"{name}, {strategy}, resumed"] = resumed(name, strategy, own, KILLS[world_size])
    if trainer.ranks.is_main:
        (folder / f"{world_size}.json").write_text(json.dumps(found))


def cases(world_size: int) -> list[str]:
    """On 4 processes one family does: 1 and 2 tell how families and recipes differ."""
    return list(CASES) if world_size < 4 else ["blocks, llama", "chats, adapters"]


def strategies(world_size: int) -> tuple[str, ...]:
    return ("ddp",) if world_size == 1 else ("ddp", "fsdp")


def run(name: str, strategy: str, folder: Path, kill: int = 0, **settings: Any) -> Trainer:
    how = GenerationSettings(max_new_tokens=5, temperature=0.7)
    watching = [Samples(["hello", "why so?"], how), *([KillAt(kill)] if kill else [])]
    return CASES[name].trainer(folder, watching, strategy=strategy, **settings)


def resumed(name: str, strategy: str, folder: Path, kills: tuple[int, ...]) -> list[bool]:
    """Whether a run that was killed at these steps has the undisturbed one's bits, and samples."""
    whole = run(name, strategy, folder / "whole", **ADAM)
    whole.fit()
    for step in kills:
        killed = run(name, strategy, folder / "cut", step, **ADAM)
        try:
            killed.fit()
        except Killed:
            Ranks().barrier()
    again = run(name, strategy, folder / "cut", **ADAM)
    again.fit()
    return [flat(again) == flat(whole), samples(folder / "cut") == samples(folder / "whole")]


def flat(trainer: Trainer) -> list[float]:
    """All weights, on rank 0."""
    weights = whole_weights(trainer.model)
    values = trainer.model.parameters() if weights is None else weights.values()
    parts = [value.detach().flatten() for value in values]
    return torch.cat(parts).tolist() if trainer.ranks.is_main else []


def samples(folder: Path) -> list[str]:
    return (folder / "samples.jsonl").read_text().splitlines()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave()
