"""The program of every rank in `test_tensor.py`: ranks that split each layer."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.distributed.context import flat, until_killed
from tests.distributed.heads import TIMEOUT, Adversarial, Case, NextToken, timeouts
from tests.unit.test_exactness import RECIPES
from trainer.devices.options import DeviceOptions
from trainer.errors import InputError
from trainer.models.sharded import local
from trainer.runs.context import RunContext
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe
from trainer.trainer import Trainer

STEPS, SAVED = 4, 2
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
OLMO2 = {"model_type": "olmo2", "num_attention_heads": 4, "num_key_value_heads": 2}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **HEADS, "attention_bias": True, "mlp_bias": True},
    "qwen2, tied": {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"tie_word_embeddings": True},
    "qwen3, normed heads": {"model_type": "qwen3", **HEADS},
    "gemma2, cap": {"model_type": "gemma2", **HEADS, "sliding_window": 6, "attention_dropout": 0.0},
}
NEXT = NextToken()
MOMENTUM = {"optimizer_options": {"momentum": 0.9}, "ema_decay": 0.9, "save_steps": SAVED}


def main(folder: Path) -> None:
    first = build("llama")
    world_size = first.ranks.world_size
    found: dict[str, Any] = {}
    for name in cases(world_size):
        trainer = build(name, min(2, world_size), micro_batch_size=2)
        trainer.fit()
        found[name] = [flat(trainer), trainer.evaluate(), held(trainer)]
        if name == "llama":
            trainer.save(folder / f"saved by {world_size}")
    found |= handed_on(folder, world_size)
    if world_size == 2:
        found["refused"] = refusals()
    found["timeouts"] = timeouts()
    if trainer.ranks.is_main:
        (folder / f"{world_size}.json").write_text(json.dumps(found))


def cases(world_size: int) -> list[str]:
    """Two groups of ranks that split layers run two families only."""
    return ["gemma2, cap", "llama"] if world_size == 4 else [*CASES]


def build(
    name: str,
    size: int = 1,
    folder: Path | None = None,
    strategy: str = "auto",
    recipe: Recipe = NEXT,
    **settings: Any,
) -> Trainer:
    """9 ragged samples in global batches of 5."""
    case = Case("causal_lm", recipe, CASES[name])
    values = {
        "global_batch_size": 5,
        "max_steps": STEPS,
        "precision": "fp32",
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 0.5,
        "gradient_checkpointing": name == "llama",
        "eval_steps": 0,
        "save_steps": 0,
    }
    return Trainer(
        case.model(),
        case.recipe,
        TrainSettings(**{**values, **settings}),
        train_dataset=case.table(9),
        eval_dataset=case.table(5, seed=1),
        output_dir=folder,
        context=RunContext(devices=DeviceOptions(TIMEOUT, strategy, tensor_parallel=size)),
    )


def held(trainer: Trainer) -> list[int]:
    """The numbers of weights of the layers on each rank."""
    layers = trainer.model.body.layers  # type: ignore[union-attr]
    return trainer.ranks.gather(sum(local(p).numel() for p in layers.parameters()))


def handed_on(folder: Path, world_size: int) -> dict[str, Any]:
    """Runs that were killed with one layout, and continued with another."""
    found = {}
    if world_size == 4:
        until_killed(build("llama", 2, folder / "by 2 x 2", **MOMENTUM))
        until_killed(build("llama", 1, folder / "by fsdp", "fsdp", **MOMENTUM))
        until_killed(build("llama", 2, folder / "by 2 x 2, alone", **MOMENTUM))
    if world_size == 2:
        for start, size, strategy in (("by 2 x 2", 2, "auto"), ("by fsdp", 2, "auto")):
            taken = build("llama", size, folder / start, strategy, **MOMENTUM)
            taken.fit()
            found[f"tensor {start}"] = [flat(taken), norms(folder / start)]
        until_killed(build("llama", 2, folder / "by 2", **MOMENTUM))
    if world_size == 1:
        for start in ("by 2", "by 2 x 2, alone", "whole"):
            taken = build("llama", 1, folder / start, **MOMENTUM)
            taken.fit()
            found[f"one {start}"] = [flat(taken), norms(folder / start)]
    return found


def norms(folder: Path) -> dict[str, float]:
    """The norms of the moments and averages in a run's last checkpoint, over all of its files."""
    totals: dict[str, float] = {}
    for file in (folder / f"checkpoint-{STEPS}" / "state").glob("*.safetensors"):
        kind = file.name.partition("-")[0].partition(".")[0]
        squares = sum(float(t.double().square().sum()) for t in load_file(file).values())
        totals[kind] = totals.get(kind, 0.0) + squares
    return totals


def refusals() -> list[str]:
    """What each impossible request is answered with."""
    llama = CASES["llama"]
    cases: list[tuple[dict[str, Any], int, str, dict[str, Any]]] = [
        (llama, 3, "auto", {}),
        (llama, 2, "ddp", {}),
        (llama, 2, "auto", {"activation_offload": True}),
        ({**llama, "num_key_value_heads": 1}, 2, "auto", {}),
        ({**llama, "intermediate_size": 41}, 2, "auto", {}),
        ({**llama, "attention_dropout": 0.1}, 2, "auto", {}),
        (OLMO2, 2, "auto", {}),
        ({"model_type": "mixtral", "num_key_value_heads": 3}, 2, "auto", {}),
        ({"model_type": "bert"}, 2, "auto", {}),
    ]
    found = []
    for entries, size, strategy, settings in cases:
        task = "masked_lm" if entries["model_type"] == "bert" else "causal_lm"
        model = Case(task, RECIPES["single_label"], entries).model()
        context = RunContext(devices=DeviceOptions(None, strategy, tensor_parallel=size))
        try:
            Trainer(model, NextToken(), TrainSettings(**settings), context=context)
        except InputError as error:
            found.append(str(error))
    try:
        build("llama", 2, recipe=Adversarial()).fit()
    except InputError as error:
        found.append(str(error))
    return found
