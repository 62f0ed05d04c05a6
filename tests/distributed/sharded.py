"""What every rank of `test_sharded.py` runs: whole and sharded trainings, compared by the test."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tests.distributed.heads import CASES
from tests.distributed.layouts import KillAt, Killed
from tests.distributed.stopping import leave
from tests.unit.test_exactness import SIZES
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.models.lora_settings import LoRASettings
from trainer.models.sharded import is_sharded, local
from trainer.precision import autocast
from trainer.settings import TrainSettings
from trainer.sharding import ELEMENTWISE, whole_weights
from trainer.trainer import Trainer

CPU = torch.device("cpu")
STEPS = 12
"""Two epochs, each ending with a short batch, and two steps more."""
ADAPTED = ("token_classification", "masked_lm")
OFFLOADED = ("token_classification", "causal_lm, tied")
MOMENTUM = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "learning_rate": 0.05}


def main(folder: Path) -> None:
    world_size = build("masked_lm", "ddp").ranks.world_size
    found: dict[str, Any] = {}
    for head in CASES:
        for strategy in ("ddp", "fsdp") if world_size > 1 else ("ddp",):
            for accumulation in (1, 3):
                trainer = build(head, strategy, accumulation)
                trainer.fit()
                name = f"{head} {strategy} {accumulation}"
                found[name] = [flat(trainer), facts(trainer), state_bytes(trainer)]
        trainer.save(folder / f"{world_size} {head}")
    found |= offloaded()
    found |= adapted(folder, world_size)
    if world_size == 4:
        for strategy in ("ddp", "fsdp"):
            until_killed(build("causal_lm", strategy, folder=folder / f"by 4 {strategy}", **handed))
    else:
        found |= handed_on(folder, world_size)
    if world_size == 2:
        found |= resumed(folder)
        found |= by_optimizer()
        found["auto"] = on_unlike_devices()
        found |= in_bf16()
        found |= {f"drawn {how}": drawn(how) for how in ("lazily", "at once")}
        found |= {f"read {how}": read(folder / "2 masked_lm", how) for how in ("lazily", "at once")}
    if trainer.ranks.is_main:
        (folder / f"{world_size}.json").write_text(json.dumps(found))


handed = {**MOMENTUM, "save_steps": 7}


def build(
    head: str,
    strategy: str,
    accumulation: int = 1,
    folder: Path | None = None,
    cpu_offload: bool = False,
    lora: LoRASettings | None = None,
    wide: bool = True,
    reduce_gradients: str | None = None,
    **settings: Any,
) -> Trainer:
    """45 ragged samples in global batches of 11, the last one of a single sample.

    `wide`: the weights are in fp64, else in fp32.
    """
    case = CASES[head]
    world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    values = {
        "global_batch_size": 11,
        "micro_batch_size": -(-11 // (world_size * 3)) if accumulation == 3 else None,
        "max_steps": STEPS,
        "precision": "fp32",
        "gradient_checkpointing": accumulation == 3,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "ema_decay": 0.9,
        "eval_steps": 8,
        "save_steps": 0,
    }
    model = case.model() if wide else case.model().float()
    if lora is not None:
        model.add_lora(lora)
    return Trainer(
        model,
        case.recipe,
        TrainSettings(**{**values, **settings}),
        train_dataset=case.table(45),
        eval_dataset=case.table(13, seed=1),
        output_dir=folder,
        strategy=strategy,
        cpu_offload=cpu_offload,
        # where nothing is said heads take turns
        reduce_gradients=reduce_gradients or ("step", "micro_batch")[list(CASES).index(head) % 2],
    )


def flat(trainer: Trainer) -> list[float]:
    """All weights, on rank 0."""
    weights = whole_weights(trainer.model)
    values = trainer.model.parameters() if weights is None else weights.values()
    parts = [value.detach().flatten() for value in values]
    return torch.cat(parts).tolist() if trainer.ranks.is_main else []


def facts(trainer: Trainer) -> dict[str, Any]:
    """What the evaluation found: its loss, and how many samples it saw."""
    evaluation = trainer.evaluations[""]
    counts = {name: len(values) for name, values in evaluation.predictions.items()}
    return {**evaluation.metrics, **counts}


def state_bytes(trainer: Trainer) -> list[int]:
    """Bytes of weights, moments and average on each rank."""
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    average = trainer.ema.shadow.values() if trainer.ema else ()
    tensors = [*trainer.model.parameters(), *(m for m in moments if m is not None), *average]
    own = sum(local(t).numel() * t.element_size() for t in tensors)
    return trainer.ranks.gather(own)


def on_unlike_devices() -> list[bool]:
    """Whether each rank shards unasked where the last one's device alone cannot hold the model."""
    with patch("trainer.sharding._too_large", lambda *_: os.environ["RANK"] == "1"):
        trainer = build("masked_lm", "auto")
    return trainer.ranks.gather(is_sharded(trainer.model))


def offloaded() -> dict[str, Any]:
    """Trainings whose state is on the host; of one process too, which shares with nobody."""
    found = {}
    for head in OFFLOADED:
        trainer = build(head, "fsdp", 3, cpu_offload=True)
        trainer.fit()
        found[f"{head} offloaded"] = [flat(trainer), facts(trainer)]
    return found


def adapted(folder: Path, world_size: int) -> dict[str, Any]:
    """Adapters on a frozen model, killed and gone on with; alone and merged into its weights."""
    found = {}
    for head in ADAPTED:
        for merge in (False, True):
            settings = LoRASettings(rank=3, dropout=0.1, targets=["query", "value"], merge=merge)
            name = f"{world_size} {head} adapted{', merged' * merge}"
            options = {**handed, "learning_rate": 1.0, "lora": settings}
            options["folder"] = folder / f"{name} run"
            until_killed(build(head, "fsdp", 3, **options), 9)
            trainer = build(head, "fsdp", 3, **options)
            trainer.fit()
            trainer.save(folder / name)
            found[name[2:]] = [flat(trainer), facts(trainer)]
    return found


def until_killed(trainer: Trainer, step: int = 10) -> None:
    trainer.callbacks.append(KillAt(step))
    try:
        trainer.fit()
    except Killed:
        trainer.ranks.barrier()


def handed_on(folder: Path, world_size: int) -> dict[str, Any]:
    """The runs that 4 processes left after step 7, each gone on from by both strategies."""
    found = {}
    for before in ("ddp", "fsdp"):
        for after in ("ddp", "fsdp") if world_size > 1 else ("ddp",):
            own = folder / f"by 4 {before}, {world_size} {after}"
            trainer = build("causal_lm", after, folder=own, **handed)
            if trainer.ranks.is_main:
                shutil.copytree(folder / f"by 4 {before}", own)
            trainer.ranks.barrier()
            trainer.fit()
            found[own.name] = flat(trainer)
    alone = build("causal_lm", "ddp", **handed)
    alone.fit()
    return found | {"never handed on": flat(alone)}


def resumed(folder: Path) -> dict[str, Any]:
    """A sharded run that was killed twice, and one that was not, of the same two processes.

    One of its parts keeps its state on the host.
    """
    settings = {"optimizer": "adamw", "learning_rate": 1e-3, "save_steps": 3}
    whole = build("masked_lm", "fsdp", folder=folder / "whole", **settings)
    whole.fit()
    for step, offload in ((5, True), (11, False)):
        half = build("masked_lm", "fsdp", folder=folder / "cut", cpu_offload=offload, **settings)
        until_killed(half, step)
    cut = build("masked_lm", "fsdp", folder=folder / "cut", **settings)
    cut.fit()
    return {"whole": flat(whole), "cut": flat(cut)}


def read(directory: Path, how: str) -> list[float]:
    """The weights of a sharded model whose folder was read layer by layer, or at once."""
    case = CASES["masked_lm"]
    model = TASKS[case.task].from_pretrained(directory, lazily=how == "lazily")
    assert next(model.parameters()).is_meta == (how == "lazily")
    return flat(Trainer(model, case.recipe, strategy="fsdp"))


def drawn(how: str) -> list[float]:
    """The weights of a sharded model from scratch, drawn layer by layer, or at once."""
    torch.manual_seed(3)
    config = ModelConfig({"model_type": "llama", **SIZES, "tie_word_embeddings": False})
    model = TASKS["causal_lm"].from_config(config, lazily=how == "lazily")
    assert next(model.parameters()).is_meta == (how == "lazily")
    return flat(Trainer(model, CASES["causal_lm"].recipe, strategy="fsdp"))


def by_optimizer() -> dict[str, Any]:
    found = {}
    for name in ELEMENTWISE:
        for strategy in ("ddp", "fsdp"):
            settings = {"optimizer": name, "learning_rate": 1e-3, "max_grad_norm": 0.0}
            trainer = build("masked_lm", strategy, max_steps=3, **settings)
            trainer.fit()
            found[f"{name} {strategy}"] = flat(trainer)
    return found


def in_bf16() -> dict[str, Any]:
    """Trainings in bf16, and the bytes of gathered layers that a forward pass leaves behind."""
    found = {}
    for head in OFFLOADED:
        for strategy in ("ddp", "fsdp"):
            trainer = build(head, strategy, 3, precision="bf16", learning_rate=0.02, wide=False)
            trainer.fit()
            found[f"{head} {strategy} bf16"] = flat(trainer)
        for recomputed in (1, 3):
            trainer = build(head, "fsdp", recomputed, precision="bf16", wide=False)
            found[f"{head} bytes, {recomputed}"] = bytes_left(trainer)
    return found


def bytes_left(trainer: Trainer) -> int:
    """What a forward pass keeps, for the backward pass, of tensors as large as layers' weights."""
    layers = trainer.model.body.layers
    sizes = {p.numel() for p in layers.parameters() if p.dim() == 2}
    kept: list[Tensor] = []
    trainer.model.train()
    inputs = trainer.train_samples.placeholder().inputs()  # one token: its own tensors are small
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t), autocast("bf16", CPU):
        trainer.model(**inputs)
    storages = [t.untyped_storage() for t in kept if t.numel() in sizes]
    assert storages or trainer.settings.gradient_checkpointing
    return sum(storage.nbytes() for storage in storages)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave()
