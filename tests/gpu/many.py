"""The program of every rank in `test_many.py`: trainings with one device per rank."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.distributed.layouts import KillAt, Killed
from tests.distributed.sharded import build, flat
from tests.distributed.stopping import leave
from trainer.devices.collectives import can_make_up
from trainer.models.sharded import is_sharded

HEADS = ("sequence_classification", "causal_lm, tied")
LAYOUTS = [(strategy, parts) for strategy in ("ddp", "fsdp") for parts in (1, 3)]
SHORT = {"max_steps": 5, "eval_steps": 5}


def main(folder: Path) -> None:
    first = build(HEADS[0], "ddp", **SHORT)
    world_size, main_rank = first.ranks.world_size, first.ranks.is_main
    strategies = ("ddp", "fsdp") if world_size > 1 else ("ddp",)
    found: dict[str, Any] = {"devices": first.ranks.gather(str(first.ranks.device))}
    for head in HEADS:
        for strategy in strategies:
            for parts in (1, 3):
                trainer = build(head, strategy, parts, **SHORT)
                trainer.fit()
                name = f"{head} {strategy} {parts}"
                found[name] = [flat(trainer), trainer.evaluations[""].metrics["loss"]]
            found[f"{head} {strategy} bf16"] = in_bf16(head, strategy)
    for strategy in strategies:
        found[f"resumed {strategy}"] = resumed(folder / f"{world_size} {strategy}", strategy)
        found[f"short of memory {strategy}"] = short_of_memory(strategy)
    if main_rank:
        (folder / f"{world_size}.json").write_text(json.dumps(found))


def in_bf16(head: str, strategy: str) -> list[float]:
    """Weights in fp32 after steps in bf16."""
    options = {"precision": "bf16", "learning_rate": 0.02, "wide": False}
    trainer = build(head, strategy, 3, **options, **SHORT)
    trainer.fit()
    return flat(trainer)


def resumed(folder: Path, strategy: str) -> bool:
    """Whether a run that was killed and resumed equals an undisturbed one bit for bit."""
    settings = {"optimizer": "adamw", "learning_rate": 1e-3, "save_steps": 3, "max_steps": 7}
    settings |= {"deterministic": True, "eval_steps": 0}
    try:
        whole = build("causal_lm", strategy, 3, folder=folder / "whole", **settings)
        whole.fit()
        cut = build("causal_lm", strategy, 3, folder=folder / "cut", **settings)
        cut.callbacks.append(KillAt(5))
        try:
            cut.fit()
        except Killed:
            cut.ranks.barrier()
        cut = build("causal_lm", strategy, 3, folder=folder / "cut", **settings)
        cut.fit()
    finally:
        torch.use_deterministic_algorithms(False)
    return flat(whole) == flat(cut)


def short_of_memory(strategy: str) -> list[float] | None:
    """Weights of a run whose last rank cannot fit its first micro batches; None: unsupported."""
    trainer = build("causal_lm, tied", strategy, 1, **SHORT)
    if is_sharded(trainer.model) and not can_make_up(trainer.model):
        return None

    def refuse(module: Any, inputs: Any) -> None:
        if module.training and len(inputs[0]) > 45:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    if trainer.ranks.rank == trainer.ranks.world_size - 1:
        trainer.model.body.layers[1].register_forward_pre_hook(refuse)
    trainer.fit()
    return flat(trainer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave()
