"""Counts the kernel launches, memory traffic, copies and waits of a training step, without a GPU.

    python benchmarks/cuda_launches.py [--only NAME ...] [--root ANOTHER_CHECKOUT]

Traces steps on the simulated H100 of tests/cuda: whole models in bf16 with their usual dropout,
AdamW, clipping and fp32 weights. An operation counts once, even if it runs several kernels
(`_foreach_mul_`, an optimizer's step), and so does a compiled function. The bytes are those that
all operations read and write, without caches. `--root` measures another version of this package.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
INSIDE = "TEMPERING_LAUNCHES"
LLAMA_1B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
QWEN3_600M = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}
MODERNBERT = {
    "model_type": "modernbert",
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
}
BERT = {"model_type": "bert"}
RUNS: dict[str, tuple[dict[str, Any], int, int]] = {
    "BERT-base 32 x 128": (BERT, 32, 128),
    "BERT-base 32 x 512": (BERT, 32, 512),
    "ModernBERT-base 32 x 512": (MODERNBERT, 32, 512),
    "Qwen3-0.6B 8 x 2048": (QWEN3_600M, 8, 2048),
    "Llama-1B 8 x 2048": (LLAMA_1B, 8, 2048),
}
"""Name -> config, sequences in a batch, tokens in a sequence."""
COLUMNS = ("forward", "loss", "backward", "optimizer", "all", "GB", "copies", "waits")


def main() -> None:
    """Print the table, measured in a process in which torch sees a simulated GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="*", default=[], help="measure only runs whose names have these parts"
    )
    parser.add_argument("--root", type=Path, default=HERE, help="the checkout to measure")
    parser.add_argument(
        "--detail", action="store_true", help="also list the operations by launches and bytes"
    )
    options = parser.parse_args()
    if INSIDE not in os.environ:
        raise SystemExit(in_pretended_process(options.root.resolve()))
    print(f"| model | {' | '.join(COLUMNS)} |")
    print(f"|---|{'---|' * len(COLUMNS)}")
    for name, (entries, sequences, length) in RUNS.items():
        for lora in (False, True):
            full_name = name + ", LoRA" * lora
            if not options.only or any(part in full_name for part in options.only):
                row = measured(entries, sequences, length, lora, options.detail)
                print(f"| {full_name} | {' | '.join(row)} |", flush=True)
    sys.stdout.flush()
    os._exit(0)  # torch's threads may wait for the simulated device forever


def in_pretended_process(root: Path) -> int:
    """Run this script again in a process with the simulated device; returns the exit code."""
    sys.path[:0] = [str(HERE)]
    from tests.cuda.pretended import built_guard, environment

    cache = Path(tempfile.gettempdir(), f"tempering_cuda_guard_{os.getuid()}")
    cache.mkdir(mode=0o700, exist_ok=True)
    variables = environment({"LD_PRELOAD": str(built_guard(cache)), INSIDE: "1"})
    variables["PYTHONPATH"] = os.pathsep.join([str(root), str(HERE)])
    command = [sys.executable, __file__, *sys.argv[1:]]
    return subprocess.run(command, env=variables, cwd=root).returncode


def measured(
    entries: dict[str, Any], sequences: int, length: int, lora: bool, detail: bool
) -> list[str]:
    """The cells of a row."""
    import torch

    from tests.cuda.device import CUDA, Device

    with Device() as device:
        stepper, batch = prepared(device, entries, sequences, length, lora)
        for _ in range(2):  # the first step also creates moments and buffers; the second counts
            placed = batch.for_step(1, 2).pinned()
            with device.traced() as moving:
                placed = placed.to(CUDA)
            with device.traced() as passes:
                sums = stepper.accumulate([(placed, True)], 1)
            with device.traced() as optimizer:
                stepper.apply(sums, 1e-4)
        forward, loss, backward = by_phase(device, stepper, placed)
    torch._dynamo.reset()
    traces = (moving, passes, optimizer)
    if detail:
        for kinds in (passes.launches, passes.bytes):
            print(f"    {dict(kinds.most_common(30))}")
    launches = [t.num_launches for t in (forward, loss, backward, optimizer)]
    launches.append(passes.num_launches + optimizer.num_launches)
    gigabytes = sum(t.num_bytes for t in traces) / 1e9
    counts = [sum(t.copies.total() for t in traces), sum(t.waits.total() for t in traces)]
    return [f"{n:,}" for n in launches] + [f"{gigabytes:.1f}", *map(str, counts)]


def by_phase(device: Any, stepper: Any, batch: Any) -> list[Any]:
    """Traces of a forward pass, its loss and its backward pass."""
    import torch

    with device.traced() as forward, torch.autocast("cuda", torch.bfloat16):
        outputs = stepper.model(**batch.inputs())
    with device.traced() as loss:
        total = stepper.recipe.loss(outputs, batch)[0].sum()
    with device.traced() as backward:
        total.backward()
    return [forward, loss, backward]


def prepared(
    device: Any, entries: dict[str, Any], sequences: int, length: int, lora: bool
) -> tuple[Any, Any]:
    """A stepper over a fake model on the device, and a batch on the CPU."""
    from recipes.causal_lm import CausalLM
    from recipes.sequence_classification import SequenceClassification
    from tests.cuda.device import CUDA
    from trainer.devices.ranks import Ranks
    from trainer.models.adapters.lora_settings import LoRASettings
    from trainer.models.auto import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trainer.models.config import ModelConfig
    from trainer.settings import TrainSettings
    from trainer.training.freezing import trainable
    from trainer.training.optim import build_optimizer
    from trainer.training.step import Stepper

    is_decoder = entries["model_type"] in ("llama", "qwen3")
    config = ModelConfig({**entries, "num_labels": 2})
    kind = AutoModelForCausalLM if is_decoder else AutoModelForSequenceClassification
    model = device.place(kind._on_meta(config).train())
    if lora:
        model.add_lora(LoRASettings(rank=16, dropout=0.05), base="none")
    recipe: Any = CausalLM()
    if not is_decoder:
        recipe = SequenceClassification(problem="single_label", labels=["no", "yes"])
    settings = TrainSettings(global_batch_size=sequences)
    stepper = Stepper(
        model,
        recipe,
        build_optimizer(trainable(model), settings),
        ranks=Ranks(CUDA),
        global_batch_size=sequences,
        precision="bf16",
        max_grad_norm=1.0,
    )
    return stepper, batch_of(sequences, length, config.vocab_size, is_decoder)


def batch_of(sequences: int, length: int, vocab_size: int, is_decoder: bool) -> Any:
    """A flat batch of sequences of `length` tokens."""
    import numpy as np

    from recipes.causal_lm import CausalLM
    from recipes.sequence_classification import SequenceClassification
    from trainer.data.tokens import TokenTable

    rng = np.random.default_rng(0)
    lengths = np.full(sequences, length)
    zeros = np.zeros(sequences, dtype=np.int64)
    table = TokenTable(
        input_ids=rng.integers(5, vocab_size, lengths.sum()).astype(np.int32),
        token_type_ids=None,
        sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        sample_offsets=np.arange(sequences + 1),
        fields={"context": zeros} if is_decoder else {"labels": zeros},
        axes=CausalLM.fields if is_decoder else SequenceClassification.fields,
    )
    return table.collate(np.arange(sequences))


if __name__ == "__main__":
    main()
