"""The program of every rank in `test_out_of_memory.py`: trainings with one rank short of memory."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.distributed.sharded import build, flat
from tests.distributed.stopping import read_late
from trainer.trainer import Trainer
from trainer.training.step import Stepper

CASES = [
    (moment, layer, accumulation, strategy)
    for moment in ("forward", "backward")
    for layer in (0, 1)
    for accumulation in (1, 3)
    for strategy in ("ddp", "fsdp")
]
STEPS = 4
"""An epoch whose last batch is a single sample, and one more step."""


def main(folder: Path) -> None:
    undisturbed = build("token_classification", "ddp", max_steps=STEPS)
    undisturbed.fit()
    found: dict[str, Any] = {"undisturbed": [flat(undisturbed), undisturbed.session.max_tokens]}
    alone = undisturbed.ranks.world_size == 1
    for moment, layer, accumulation, strategy in CASES:
        # a single process shards only to keep weights on the host
        options = {"cpu_offload": alone and strategy == "fsdp", "max_steps": STEPS}
        options["reduce_gradients"] = ("step", "micro_batch")[layer]
        Stepper.__init__ = read_late(accumulation == 3)  # type: ignore[method-assign]
        trainer = build("token_classification", strategy, accumulation, **options)
        # if there are several ranks, the last one has the least memory
        if trainer.ranks.rank == trainer.ranks.world_size - 1:
            limit(trainer, moment, layer, tokens=45)
        trainer.fit()
        name = f"{moment} {layer} {accumulation} {strategy}"
        found[name] = [flat(trainer), trainer.session.max_tokens]
    if trainer.ranks.is_main:
        (folder / f"{trainer.ranks.world_size}.json").write_text(json.dumps(found))


def limit(trainer: Trainer, moment: str, layer: int, tokens: int) -> None:
    """Raise CUDA's error in one layer if a training pass has more tokens than these."""

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def after(module: Any, inputs: Any, outputs: Any) -> None:
        if module.training and len(inputs[0]) > tokens:
            refuse() if moment == "forward" else outputs[0].register_hook(refuse)

    trainer.model.body.layers[layer].register_forward_hook(after)
