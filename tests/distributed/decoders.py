"""The program of every rank in `test_decoders.py`: text recipes, whole, sharded and resumed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from tests.unit.text_runs import CASES, SLOW, KillAt, Killed, distilled_cases, write_teachers
from trainer.callbacks.callback import Callback
from trainer.callbacks.samples import Samples
from trainer.devices.ranks import Ranks
from trainer.devices.sharding import whole_weights
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.runs.outcome import named_metrics
from trainer.trainer import Trainer

SGD = {"optimizer": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "eval_steps": 3}
ADAM = {"save_steps": 2, "eval_steps": 2, "ema_decay": 0.9, "load_best_model_at_end": True}
DISTILLED = tuple(distilled_cases(Path()))
"""Recipes whose teachers are in the test's folder."""
KILLS = (1, 3, 5)
"""The steps after which a run of the first case is killed: before the first save, and later. The
others are killed once."""


def main(folder: Path) -> None:
    world_size = CASES["blocks, llama"].trainer().ranks.world_size  # creates the group
    if Ranks().is_main and not (folder / "teachers").exists():
        write_teachers(folder / "teachers")
    Ranks().barrier()
    CASES.update(distilled_cases(folder / "teachers"))
    found: dict[str, Any] = {}
    for name in cases(world_size):
        for strategy in strategies(world_size, name):
            for accumulation in accumulations(world_size):
                key = f"{name}, {strategy}, {accumulation}"
                own = folder / f"{world_size}, {key}"
                micro = -(-5 // (world_size * 3)) if accumulation == 3 else None
                micro = max(micro, CASES[name].recipe.group_size) if micro else None
                trainer = run(name, strategy, own, **SGD, micro_batch_size=micro)
                trainer.fit()
                metrics = named_metrics(trainer.evaluations)
                found[key] = [flat(trainer), metrics, samples(own)]
            own = folder / f"{world_size}, {name}, {strategy}"
            kills = KILLS if name == "blocks, llama" else KILLS[1:2]
            found[f"{name}, {strategy}, resumed"] = resumed(name, strategy, own, kills)
    if world_size == 2:
        found["texts"] = refused_if_sharded()
    if trainer.ranks.is_main:
        (folder / f"{world_size}.json").write_text(json.dumps(found))


def refused_if_sharded() -> list[str]:
    """What each rank says of evaluations with texts if `auto` shards the model."""
    case = CASES["blocks, llama"]
    recipe = replace(case.recipe, evaluate_texts=True)  # type: ignore[type-var]
    said = ""
    with patch("trainer.training.strategy._too_large", lambda *_: True):
        try:
            replace(case, recipe=recipe).trainer(strategy="auto")
        except InputError as error:
            said = str(error)
    return Ranks().gather(said)


def cases(world_size: int) -> list[str]:
    """On 4 processes one family is enough, since 1 and 2 cover families and recipes."""
    several = [name for name in CASES if name not in SLOW]
    all_ = [*several, *DISTILLED] if DISTILLED[0] not in CASES else several
    return all_ if world_size < 4 else ["blocks, llama", "chats, adapters", *DISTILLED[1:]]


def accumulations(world_size: int) -> tuple[int, ...]:
    """One process with whole batches is the reference for the others."""
    return (1,) if world_size == 1 else (1, 3)


def strategies(world_size: int, name: str) -> tuple[str, ...]:
    whole = world_size == 1 or name == "embeddings, two texts a pass"
    return ("ddp",) if whole else ("ddp", "fsdp")


def run(name: str, strategy: str, folder: Path, kill: int = 0, **settings: Any) -> Trainer:
    how = GenerationSettings(max_new_tokens=5, temperature=0.7)
    writes = CASES[name].recipe.head.task == "causal_lm"
    watching: list[Callback] = [Samples(["hello", "why so?"], how)] if writes else []
    watching += [KillAt(kill)] if kill else []
    return CASES[name].trainer(folder, watching, strategy=strategy, **settings)


def resumed(name: str, strategy: str, folder: Path, kills: tuple[int, ...]) -> list[bool]:
    """Whether a run that was killed at these steps equals the undisturbed one bit for bit."""
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
    """The texts that a language model generated during the run; nothing for other models."""
    file = folder / "samples.jsonl"
    return file.read_text().splitlines() if file.exists() else []
