"""The program of every rank in `test_foreign.py`: models of transformers, and experts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recipes.causal_lm import CausalLM
from recipes.seq2seq import Seq2Seq
from recipes.sequence_classification import SequenceClassification
from tests.distributed.sharded import facts, flat, state_bytes, until_killed
from tests.interop.foreign import WRITERS, save_foreign, still
from tests.unit.text_runs import tokenizer
from trainer.devices.options import DeviceOptions
from trainer.interop.padded_loading import load_padded
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS as TASKS_OF_MODELS
from trainer.models.config import ModelConfig
from trainer.runs.context import RunContext
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

SMALL = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}
TASKS = {
    "roformer": "sequence_classification",
    "opt": "causal_lm",
    "gpt_neox": "causal_lm",
    "gpt_neox with adapters": "causal_lm",
    "pegasus": "seq2seq_lm",
    "longt5": "seq2seq_lm",
    "longt5 with adapters": "seq2seq_lm",
    "mixtral": "causal_lm",
    "mixtral with adapters": "causal_lm",
}
"""Model type -> the head to train. OPT's output weights are tied, GPT-NeoX's are not."""

RESUMED = (
    ("roformer", "fsdp"), ("opt", "ddp"), ("pegasus", "ddp"),
    ("longt5", "fsdp"), ("gpt_neox with adapters", "fsdp"), ("mixtral", "fsdp"),
    ("mixtral with adapters", "fsdp"),
)  # fmt: skip


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    for name in TASKS:
        for strategy in ("ddp", "fsdp"):
            trainer = build(folder, name, strategy, gradient_checkpointing=strategy == "fsdp")
            world_size = trainer.ranks.world_size
            trainer.fit()
            trainer.save(folder / f"{name} {strategy} {world_size}")
            found[f"{name} {strategy}"] = [flat(trainer), facts(trainer), state_bytes(trainer)]
            if world_size > 1 and (name, strategy) in RESUMED:
                found[f"{name} {strategy} resumed"] = resumed(folder, name, strategy)
    if world_size > 1:
        found["bf16"] = in_bf16(folder)
    if trainer.ranks.is_main:
        (folder / f"{world_size}.json").write_text(json.dumps(found))


def build(
    folder: Path, name: str, strategy: str, output_dir: Path | None = None, **settings: Any
) -> Trainer:
    """13 ragged samples in global batches of 6, in fp64 without dropout unless it is resumed."""
    rows: list[dict[str, Any]] = [{"input_ids": [1, *range(5, 6 + n % 7), 2]} for n in range(13)]
    recipe: Any = CausalLM(max_length=16)
    if TASKS[name] == "sequence_classification":
        rows = [{**row, "labels": len(row["input_ids"]) % 2} for row in rows]
        recipe = SequenceClassification(labels=["a", "b"], problem="single_label")
    if TASKS[name] == "seq2seq_lm":
        rows = [{"source": "one " * (1 + n % 4), "target": "two" * (1 + n % 3)} for n in range(13)]
        recipe = Seq2Seq(max_source_length=16, max_target_length=16)
    load: Callable[..., Any] = still if output_dir is None else load_in_fp32
    load = experts if name.startswith("mixtral") else load
    model = load(folder / name.split()[0], recipe.head.task, **recipe.head.config)
    model = model.double() if output_dir is None else model
    if name == "mixtral with adapters":
        targets = ["q_proj", "experts.gate_up_proj", "experts.down_proj"]
        model.add_lora(LoRASettings(rank=2, targets=targets, base_name="a/mixture"))
    elif "adapters" in name:
        model.add_lora(LoRASettings(rank=2, dropout=0.1 * (output_dir is not None)))
    values = {
        "global_batch_size": 6, "max_steps": 4, "learning_rate": 0.1, "optimizer": "sgd",
        "precision": "fp32", "ema_decay": 0.9, "eval_steps": 0, "save_steps": 0,
        "layer_decay": 0.8, "micro_batch_size": 2,
    }  # fmt: skip
    return Trainer(
        model,
        recipe,
        TrainSettings(**{**values, **settings}),
        tokenizer=tokenizer() if TASKS[name] == "seq2seq_lm" else None,
        train_dataset=rows,
        eval_dataset=rows[:7],
        output_dir=output_dir,
        context=RunContext(devices=DeviceOptions(None, strategy)),
    )


def experts(folder: Path, task: str) -> Any:
    """A native mixture of experts with the routers' loss."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 20, "num_local_experts": 4}
    router = {"output_router_logits": True, "router_aux_loss_coef": 0.1}
    config = ModelConfig({"model_type": "mixtral", **SMALL, **sizes, **router})
    return TASKS_OF_MODELS[task].from_config(config)


def load_in_fp32(folder: Path, task: str, **overrides: Any) -> Any:
    """A model with its dropout."""
    torch.manual_seed(1)
    return load_padded(folder, task, overrides)


def resumed(folder: Path, name: str, strategy: str) -> list[list[float]]:
    """The weights of a run that was killed after step 3, and of an undisturbed one."""
    settings = {"optimizer": "adamw", "learning_rate": 1e-3, "save_steps": 2}
    whole = build(folder, name, strategy, folder / f"{name} {strategy} whole", **settings)
    whole.fit()
    cut = folder / f"{name} {strategy} cut"
    until_killed(build(folder, name, strategy, cut, **settings), 3)
    again = build(folder, name, strategy, cut, **settings)
    again.fit()
    return [flat(whole), flat(again)]


def in_bf16(folder: Path) -> list[list[float]]:
    """The weights of a replicated and of a sharded training in bf16."""
    found = []
    for strategy in ("ddp", "fsdp"):
        own = folder / f"bf16 {strategy}"
        trainer = build(folder, "gpt_neox", strategy, own, precision="bf16", learning_rate=0.02)
        trainer.fit()
        found.append(flat(trainer))
    return found


def save_all(folder: Path) -> None:
    """The models that the ranks train."""
    for name in {name.split()[0] for name in TASKS} - {"mixtral"}:
        own = {"vocab_size": 310, "decoder_start_token_id": 2} if name in WRITERS else {}
        save_foreign(name, folder / name, **{**SMALL, **own})
