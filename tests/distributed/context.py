"""The program of each rank in `test_context.py`: the ranks share the tokens of each text."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.distributed.heads import TIMEOUT, Adversarial, Case, NextToken, timeouts
from tests.distributed.layouts import KillAt, Killed
from tests.unit.test_exactness import RECIPES, SIZES, ragged_table
from trainer.devices.options import DeviceOptions
from trainer.devices.sharding import whole_weights
from trainer.errors import InputError
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.models.context_share import PartLayout
from trainer.runs.context import RunContext
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe
from trainer.trainer import Trainer

STEPS, SAVED = 3, 2
NEXT = NextToken()
GROUPED = {"num_key_value_heads": 1, "attention_dropout": 0.2}
CASES = {
    "llama": {"model_type": "llama", **GROUPED},
    "llama, adapters": {"model_type": "llama", "num_key_value_heads": 3},
    "mistral, window": {"model_type": "mistral", **GROUPED, "sliding_window": 5},
    "gemma2, cap": {
        "model_type": "gemma2",
        "num_key_value_heads": 3,
        "head_dim": 8,
        "sliding_window": 6,
        "attn_logit_softcapping": 5.0,
        "attention_dropout": 0.0,
    },
    "mixtral": {"model_type": "mixtral", "num_key_value_heads": 3, "num_local_experts": 4},
    "llama, dynamic": {
        "model_type": "llama",
        "num_key_value_heads": 3,
        "max_position_embeddings": 8,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": 64,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
    },
}
"""Decoders with dropout, windows, capped scores, experts and positions that depend on lengths"""


def main(folder: Path) -> None:
    world_size = build("llama").ranks.world_size
    found: dict[str, Any] = {}
    for name in CASES:
        for size in sharing(name, world_size):
            for strategy in ("ddp", "fsdp") if world_size > 1 and name == "llama" else ("ddp",):
                trainer = build(name, size, strategy)
                trainer.fit()
                found[f"{name} {size} {strategy}"] = [flat(trainer), trainer.evaluate()]
    found["whole sequences"] = [flat(classifier(world_size)), {}]
    found |= handed_on(folder, world_size)
    if world_size == 2:
        found["split"] = split_calls()
        found["refused"] = refusals()
    found["timeouts"] = timeouts()
    if trainer.ranks.is_main:
        (folder / f"{world_size}.json").write_text(json.dumps(found))


def sharing(name: str, world_size: int) -> tuple[int, ...]:
    """How many ranks share texts; two by two only for one case, since others would be alike."""
    two_by_two = (2,) if name == "llama" else ()
    return {1: (1,), 2: (2,), 4: (*two_by_two, 4)}[world_size]


def build(
    name: str,
    size: int = 1,
    strategy: str = "ddp",
    folder: Path | None = None,
    recipe: Recipe = NEXT,
    **settings: Any,
) -> Trainer:
    """9 ragged samples in global batches of 5; one of the last step's batches is tiny."""
    entries = CASES[name]
    case = Case("causal_lm", recipe, entries)
    values = {
        "global_batch_size": 5,
        "max_steps": STEPS,
        "micro_batch_size": 3,
        "precision": "fp32",
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "gradient_checkpointing": strategy == "fsdp",
        "activation_offload": name == "mixtral",
        "eval_steps": 0,
        "save_steps": 0,
    }
    started = model(case)
    if name.endswith("adapters"):
        started.add_lora(LoRASettings(rank=3, dropout=0.2))
    return Trainer(
        started,
        case.recipe,
        TrainSettings(**{**values, **settings}),
        train_dataset=case.table(9),
        eval_dataset=case.table(5, seed=1),
        output_dir=folder,
        context=RunContext(devices=DeviceOptions(TIMEOUT, strategy, context_parallel=size)),
    )


def model(case: Case) -> Any:
    if case.entries["model_type"] == "gpt2":
        torch.manual_seed(1)
        sizes = {"vocab_size": SIZES["vocab_size"], **case.entries}
        return TASKS["causal_lm"].from_config(ModelConfig(sizes)).double()
    return case.model()


def classifier(world_size: int) -> Trainer:
    """A head that reads one vector of each text, whose token another rank may own."""
    torch.manual_seed(1)
    entries = {"model_type": "llama", **SIZES, "num_labels": 5, "pad_token_id": 0}
    body = TASKS["sequence_classification"].from_config(ModelConfig(entries)).double()
    settings = {"global_batch_size": 5, "max_steps": STEPS, "optimizer": "sgd"}
    trainer = Trainer(
        body,
        RECIPES["single_label"],
        {**settings, "learning_rate": 0.1, "eval_steps": 0, "precision": "fp32"},
        train_dataset=ragged_table(9),
        context=RunContext(devices=DeviceOptions(context_parallel=min(2, world_size))),
    )
    trainer.fit()
    return trainer


def handed_on(folder: Path, world_size: int) -> dict[str, Any]:
    """Runs that were killed with some number of sharing ranks, and continued with another."""
    adam = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}, "save_steps": SAVED}
    sizes = {1: 1, 2: 2, 4: 2}
    if world_size == 4:
        until_killed(build("llama", 2, "fsdp", folder / "by 4", **adam))
        return {}
    if world_size == 2:
        until_killed(build("llama", 2, "ddp", folder / "by 2", **adam))
        taken = build("llama", 1, "ddp", folder / "by 4", **adam)
        taken.fit()
        return {"from 4": [flat(taken), {}]}
    taken = build("llama", sizes[1], "ddp", folder / "by 2", **adam)
    taken.fit()
    whole = build("llama", 1, "ddp", **adam)
    whole.fit()
    return {"from 2": [flat(taken), {}], "never stopped": [flat(whole), {}]}


def until_killed(trainer: Trainer) -> None:
    trainer.callbacks.append(KillAt(SAVED + 1))
    try:
        trainer.fit()
    except Killed:
        trainer.ranks.barrier()


def flat(trainer: Trainer) -> list[float]:
    """All weights, on rank 0."""
    weights = whole_weights(trainer.model)
    values = trainer.model.parameters() if weights is None else weights.values()
    parts = [value.detach().flatten() for value in values]
    return torch.cat(parts).tolist() if trainer.ranks.is_main else []


def split_calls() -> dict[str, list[int]]:
    """Tokens of this rank's queries and of the whole batch, in each layer's call of a step."""
    trainer, seen = build("llama", 2, max_steps=1), []
    keys = PartLayout.gather_keys

    def spy(part: PartLayout, x: Any) -> Any:
        assert part.whole is not None
        seen.append([len(x), part.whole.num_tokens])
        return keys(part, x)

    PartLayout.gather_keys = spy  # type: ignore[method-assign]
    try:
        trainer.fit()
    finally:
        PartLayout.gather_keys = keys  # type: ignore[method-assign]
    own, whole = (sum(pair[n] for pair in seen) for n in (0, 1))
    return {"own": trainer.ranks.gather(own), "whole": trainer.ranks.gather(whole)}


def refusals() -> list[str]:
    """The error of each impossible request."""
    bert = Case("masked_lm", RECIPES["single_label"], {"model_type": "bert"})
    compiled = TrainSettings(compile=True)
    found = []
    balanced = {**CASES["mixtral"], "output_router_logits": True}
    for each, size, settings in (
        (model(Case("causal_lm", NextToken(), CASES["llama"])), 3, TrainSettings()),
        (bert.model(), 2, TrainSettings()),
        (model(Case("causal_lm", NextToken(), CASES["llama"])), 2, compiled),
        (model(Case("causal_lm", NextToken(), balanced)), 2, TrainSettings()),
    ):
        context = RunContext(devices=DeviceOptions(context_parallel=size))
        try:
            Trainer(each, NextToken(), settings, context=context)
        except InputError as error:
            found.append(str(error))
    try:
        build("llama", 2, recipe=Adversarial()).fit()
    except InputError as error:
        found.append(str(error))
    return found
