"""The program of every rank in `test_loading_memory.py`: measures the memory of loading shards."""

import ctypes
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.distributed.heads import CASES
from trainer.devices.options import DeviceOptions
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.models.sharded import local
from trainer.runs.context import RunContext
from trainer.trainer import Trainer

SIZES = {
    "vocab_size": 64,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 1408,
    "max_position_embeddings": 64,
}
EXPERTS = {
    "model_type": "mixtral",
    "num_local_experts": 4,
    "intermediate_size": 352,
    "num_key_value_heads": 8,
}
LORA = {
    "adapters": LoRASettings(rank=4, dropout=0.1),
    "dora": LoRASettings(rank=4, dora=True, trainable_tokens=[3, 5]),
    "scales": LoRASettings(ia3=True),
}
KINDS = ("plain", *LORA, "experts", "saved", "resized")


MMAP_THRESHOLD = -3
"""The C library's number for the size from which freed memory goes back to the system."""


def main(folder: Path) -> None:
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)  # peaks are those of live tensors
    case = CASES["causal_lm"]
    kind, rank = TASKS[case.task], Trainer(case.model(), case.recipe, context=SHARDED).ranks
    if rank.is_main:
        for name, own in (("dense", {"model_type": "llama"}), ("mixture", EXPERTS)):
            torch.manual_seed(0)
            model = kind.from_config(ModelConfig({**SIZES, **own}))
            model.save_pretrained(folder / name)
            if name == "dense":
                model.add_lora(LORA["adapters"], str(folder / name))
                model.save_pretrained(folder / "saved")
        del model
    rank.barrier()
    load(folder, "saved")  # imports what only adapter folders need
    found = {name: measured(lambda name=name: load(folder, name)) for name in KINDS}
    every = rank.gather(found)
    if rank.is_main:
        (folder / "2.json").write_text(json.dumps(every))


SHARDED = RunContext(devices=DeviceOptions(strategy="fsdp"))


def load(folder: Path, name: str) -> Trainer:
    """A sharded model that was loaded as a run loads it."""
    case = CASES["causal_lm"]
    home = {"experts": "mixture", "saved": "saved"}.get(name, "dense")
    torch.manual_seed(1)
    model: Any = TASKS[case.task].from_pretrained(folder / home, lazily=True)
    if name == "resized":
        model.resize_token_embeddings(80)
    if name == "experts" or name in LORA:
        model.add_lora(LORA.get(name, LORA["adapters"]))
    return Trainer(model, case.recipe, context=SHARDED)


def measured(work: Callable[[], Trainer]) -> list[int]:
    """The growth of this process' memory to its peak; the bytes of its shard, and of the model."""
    gc.collect()
    torch.distributed.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    trainer = work()
    peak = memory("VmHWM") - before
    weights = list(trainer.model.parameters())
    own = sum(local(p).numel() * p.element_size() for p in weights)
    return [peak, own, sum(p.numel() * p.element_size() for p in weights)]


def memory(name: str) -> int:
    """A number of bytes in this process' status: VmRSS is resident now, VmHWM was at most."""
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
