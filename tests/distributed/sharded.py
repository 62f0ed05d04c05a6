"""The program of every rank in `test_sharded.py`: replicated and sharded trainings."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tests.distributed.heads import CASES
from tests.distributed.layouts import KillAt, Killed
from tests.unit.test_exactness import SIZES
from trainer.devices.options import DeviceOptions
from trainer.devices.precision import autocast
from trainer.devices.sharding import whole_weights
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.models.quantization.quantize import find_code
from trainer.models.sharded import is_sharded, local
from trainer.runs.context import RunContext
from trainer.settings import TrainSettings
from trainer.trainer import Trainer
from trainer.training.optim import elementwise_optimizers

CPU = torch.device("cpu")
STEPS = 7
"""Two epochs, each ending with a short batch, and one more step."""
ADAPTED = ("token_classification", "masked_lm")
QUANTIZED = {"int8": "ddp", "nf4": "fsdp"}
"""Kinds of quantized weights, each with the strategy that it is trained with."""
if not (find_spec("torchao") and find_spec("bitsandbytes")):
    QUANTIZED = {}
for kind in QUANTIZED:
    find_code(kind)  # imports its package once, before the ranks are forked
OFFLOADED = ("token_classification", "causal_lm, tied")
SAVED = 4
"""The step whose checkpoint other runs continue from, in the second epoch."""
MOMENTUM = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "learning_rate": 0.05}


def main(folder: Path) -> None:
    world_size = build("masked_lm", "ddp").ranks.world_size
    found: dict[str, Any] = {}
    for head in CASES:
        for strategy in ("ddp", "fsdp") if world_size > 1 else ("ddp",):
            for accumulation in (1, 3) if world_size > 1 else (1,):
                trainer = build(head, strategy, accumulation)
                trainer.fit()
                name = f"{head} {strategy} {accumulation}"
                found[name] = [flat(trainer), facts(trainer), state_bytes(trainer)]
        trainer.save(folder / f"{world_size} {head}")
    found |= offloaded()
    found |= adapted(folder, world_size)
    found |= scaled(folder, world_size)
    found |= quantized(folder, world_size)
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


SHARDED = RunContext(devices=DeviceOptions(strategy="fsdp"))

handed = {**MOMENTUM, "save_steps": SAVED}


def build(
    head: str,
    strategy: str,
    accumulation: int = 1,
    folder: Path | None = None,
    cpu_offload: bool = False,
    lora: LoRASettings | None = None,
    quantized: tuple[Path, str] | None = None,
    wide: bool = True,
    reduce_gradients: str | None = None,
    **settings: Any,
) -> Trainer:
    """23 ragged samples in global batches of 11, the last one of a single sample.

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
        "eval_steps": 5,
        "save_steps": 0,
    }
    model = case.model() if wide else case.model().float()
    if quantized is not None:
        base, kind = quantized
        model = type(model).from_pretrained(base, quantization=kind, dtype="float64")
        torch.manual_seed(1)
    if lora is not None:
        model.add_lora(lora)
    if reduce_gradients is None:  # heads take turns
        reduce_gradients = ("step", "micro_batch")[list(CASES).index(head) % 2]
    return Trainer(
        model,
        case.recipe,
        TrainSettings(**{**values, **settings}),
        train_dataset=case.table(23),
        eval_dataset=case.table(13, seed=1),
        output_dir=folder,
        context=RunContext(devices=DeviceOptions(None, strategy, cpu_offload, reduce_gradients)),
    )


def flat(trainer: Trainer) -> list[float]:
    """All weights but packed ones, on rank 0."""
    weights = whole_weights(trainer.model)
    values = trainer.model.parameters() if weights is None else weights.values()
    parts = [value.detach().flatten() for value in values if value.is_floating_point()]
    return torch.cat(parts).tolist() if trainer.ranks.is_main else []


def facts(trainer: Trainer) -> dict[str, Any]:
    """The evaluation's loss, and checksums of losses and columns by position."""
    evaluation = trainer.evaluations[""]
    columns = evaluation.predictions
    found = dict(evaluation.metrics)
    if evaluation.losses is not None:
        found["losses"] = checksum(np.nan_to_num(evaluation.losses))
    for name, column in columns.items():
        found[f"{name} samples"] = len(column)
        found[f"{name} values"] = checksum(column.values)
        if column.offsets is not None:
            found[f"{name} offsets"] = checksum(column.offsets)
    return found


def checksum(values: np.ndarray) -> float:
    """A number that depends on each value and on the order of values."""
    return float(values.reshape(-1) @ np.arange(1.0, values.size + 1))


def state_bytes(trainer: Trainer) -> list[int]:
    """Bytes of weights, moments and average on each rank."""
    session = trainer.session
    moments = [value for state in session.optimizer.state.values() for value in state.values()]
    average = session.ema.shadow.values() if session.ema else ()
    tensors = [*trainer.model.parameters(), *(m for m in moments if m is not None), *average]
    own = sum(local(t).numel() * t.element_size() for t in tensors)
    return trainer.ranks.gather(own)


def on_unlike_devices() -> list[bool]:
    """Whether all ranks shard if only the last rank's device cannot hold the model."""
    with patch("trainer.training.strategy._too_large", lambda *_: os.environ["RANK"] == "1"):
        trainer = build("masked_lm", "auto")
    return trainer.ranks.gather(is_sharded(trainer.model))


def offloaded() -> dict[str, Any]:
    """Trainings with state in host memory, also in a single process."""
    found = {}
    for head in OFFLOADED:
        trainer = build(head, "fsdp", 3, cpu_offload=True)
        trainer.fit()
        found[f"{head} offloaded"] = [flat(trainer), facts(trainer)]
    return found


def adapted(folder: Path, world_size: int) -> dict[str, Any]:
    """Adapters on a frozen model, killed and resumed; saved alone and merged."""
    found = {}
    for head in ADAPTED:
        for merge in (False, True):
            settings = LoRASettings(
                rank=3,
                dropout=0.1,
                targets=["query", "value"],
                trainable_tokens=[5, 9],
                dora=merge,
                init="default" if merge else "pissa",
                merge=merge,
            )
            name = f"{world_size} {head} adapted{', merged' * merge}"
            options = {**handed, "learning_rate": 1.0, "lora": settings}
            options["folder"] = folder / f"{name} run"
            until_killed(build(head, "fsdp", 3, **options), 5)
            trainer = build(head, "fsdp", 3, **options)
            trainer.fit()
            trainer.save(folder / name)
            found[name[2:]] = [flat(trainer), facts(trainer)]
    return found


def scaled(folder: Path, world_size: int) -> dict[str, Any]:
    """The scales of (IA)^3 on a frozen model that is sharded, killed and resumed."""
    lora = LoRASettings(ia3=True)
    options = {**handed, "learning_rate": 1.0, "lora": lora, "folder": folder / f"{world_size} ia3"}
    until_killed(build("token_classification", "fsdp", 3, **options), 5)
    trainer = build("token_classification", "fsdp", 3, **options)
    trainer.fit()
    trainer.save(folder / f"{world_size} scales")
    return {"scales": [flat(trainer), facts(trainer)]}


def quantized(folder: Path, world_size: int) -> dict[str, Any]:
    """Adapters beside weights in 8 and 4 bits, killed and gone on with; merged where sharded."""
    base, found = folder / f"{world_size} base", {}
    ranks = build("token_classification", "ddp").ranks
    if ranks.is_main:
        CASES["token_classification"].model().save_pretrained(base)
    ranks.barrier()
    for kind, strategy in QUANTIZED.items():
        lora = LoRASettings(rank=3, dropout=0.1, merge=strategy == "fsdp")
        options = {**handed, "learning_rate": 1.0, "lora": lora, "quantized": (base, kind)}
        options["folder"] = folder / f"{world_size} {kind} run"
        until_killed(build("token_classification", strategy, 3, **options), 5)
        trainer = build("token_classification", strategy, 3, **options)
        trainer.fit()
        trainer.save(folder / f"{world_size} {kind}")
        found[kind] = [flat(trainer), facts(trainer), is_sharded(trainer.model)]
    return found


def until_killed(trainer: Trainer, step: int = 6) -> None:
    trainer.callbacks.append(KillAt(step))
    try:
        trainer.fit()
    except Killed:
        trainer.ranks.barrier()


def handed_on(folder: Path, world_size: int) -> dict[str, Any]:
    """The runs of 4 processes, each continued by both strategies."""
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
    """A sharded run that was killed twice, and an undisturbed one, of the same two processes.

    One of its parts keeps its state on the host.
    """
    settings = {"optimizer": "adamw", "learning_rate": 1e-3, "save_steps": 2}
    whole = build("masked_lm", "fsdp", folder=folder / "whole", **settings)
    whole.fit()
    for step, offload in ((3, True), (6, False)):
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
    return flat(Trainer(model, case.recipe, context=SHARDED))


def drawn(how: str) -> list[float]:
    """The weights of a sharded model from scratch, drawn layer by layer, or at once."""
    torch.manual_seed(3)
    config = ModelConfig({"model_type": "llama", **SIZES, "tie_word_embeddings": False})
    model = TASKS["causal_lm"].from_config(config, lazily=how == "lazily")
    assert next(model.parameters()).is_meta == (how == "lazily")
    return flat(Trainer(model, CASES["causal_lm"].recipe, context=SHARDED))


def by_optimizer() -> dict[str, Any]:
    found = {}
    for name in elementwise_optimizers():
        for strategy in ("ddp", "fsdp"):
            settings = {"optimizer": name, "learning_rate": 1e-3, "max_grad_norm": 0.0}
            settings |= {"lr_scheduler": "constant", "ema_decay": 0}  # required by schedule_free
            trainer = build("masked_lm", strategy, max_steps=3, **settings)
            trainer.fit()
            found[f"{name} {strategy}"] = flat(trainer)
    return found


def in_bf16() -> dict[str, Any]:
    """Trainings in bf16, and the bytes of gathered layers that remain after a forward pass."""
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
    """The tensors as large as layers' weights that a forward pass keeps for the backward pass."""
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
