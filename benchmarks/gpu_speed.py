"""The parts of the GPU check that measure throughput, peers' throughput, memory, and a profile.

    python benchmarks/gpu_speed.py throughput bert-128 [--cpu]

Weights are random and created on the device. Floating point operations of a step are counted as in
benchmarks/encoder_throughput.py: for each token, 6 per trained weight, 4 per frozen weight, and
12 layers x D x L for attention (half of this for causal attention). The MFU is relative to the data
sheet's peak for dense bf16.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.encoder_throughput import peak_tflops
from benchmarks.gpu_parts import WRONG, check, device_of, row, skip
from trainer.callbacks.callback import Callback
from trainer.data.tokens import TokenTable


@dataclass(frozen=True)
class Size:
    """The shapes of a model and of the step to measure."""

    entries: dict[str, Any]
    """Of config.json."""
    batch: int
    length: int
    adapters: bool = False
    recomputed: bool = False
    """Whether the step uses gradient checkpointing."""

    @property
    def decoder(self) -> bool:
        return self.entries["model_type"] == "llama"


LLAMA = {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 4096}
LLAMA |= {"num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0}
ONE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
EIGHT = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
BERT = {"model_type": "bert", "vocab_size": 30522, "num_labels": 2}
MODERN = {"model_type": "modernbert", "num_labels": 2}
SIZES = {
    "bert-128": Size(BERT, 32, 128),
    "bert-512": Size(BERT, 32, 512),
    "modernbert-512": Size(MODERN, 32, 512),
    "llama-1b": Size({**LLAMA, **ONE, "tie_word_embeddings": True}, 8, 2048),
    "lora-8b": Size({**LLAMA, **EIGHT}, 2, 2048, adapters=True, recomputed=True),
}
TINY = {
    "vocab_size": 512,
    "pad_token_id": 0,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
}
TINY |= {"num_attention_heads": 4}
STEPS, UNTIMED = 14, 4


@dataclass
class Timed(Callback):
    """Measures the seconds from the end of one step to the end of another.

    It waits for the device only at these two steps: a wait after each step would keep the host from
    launching the next step in advance.
    """

    first: int
    last: int
    times: list[float] = field(default_factory=list)

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step in (self.first, self.last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]


def size_of(name: str, cpu: bool) -> Size:
    """The size with this name, or on a CPU a tiny size of the same kind."""
    size = SIZES[name]
    if not cpu:
        return size
    further = {"num_key_value_heads": 2} if size.decoder else {}
    modern = size.entries["model_type"] == "modernbert"
    tokens = dict.fromkeys(["bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"], 1)
    entries = {**size.entries, **TINY, **further, **(tokens if modern else {})}
    return Size(entries, 4, 32, size.adapters, size.recomputed)


def sized_model(name: str, device: torch.device, cpu: bool, numbers: torch.dtype) -> Any:
    """A model of a named size, with random weights that are created on the device."""
    from trainer.models import auto
    from trainer.models.config import ModelConfig
    from trainer.models.formats.loading import materialize

    size = size_of(name, cpu)
    head = "AutoModelForCausalLM" if size.decoder else "AutoModelForSequenceClassification"
    model = getattr(auto, head)._on_meta(ModelConfig(size.entries))
    torch.manual_seed(0)
    materialize(model, {n: random_like(p, device, numbers) for n, p in model.named_parameters()})
    return model


def random_like(
    parameter: nn.Parameter, device: torch.device, numbers: torch.dtype
) -> torch.Tensor:
    """Small random numbers for a matrix, ones for a vector."""
    tensor = torch.ones(parameter.shape, device=device, dtype=numbers)
    return tensor.normal_(0.0, 0.02) if tensor.dim() > 1 else tensor


def trainer_of(name: str, cpu: bool, callbacks: tuple[Any, ...] = (), **settings: Any) -> Any:
    """A Trainer of a named size on random texts of one length."""
    from recipes.causal_lm import CausalLM
    from recipes.sequence_classification import SequenceClassification
    from trainer.models.adapters.lora_settings import LoRASettings
    from trainer.settings import TrainSettings
    from trainer.trainer import Trainer

    size, device = size_of(name, cpu), device_of(cpu)
    numbers = torch.bfloat16 if size.adapters else torch.float32
    model = sized_model(name, device, cpu, numbers)
    if size.adapters:
        model.add_lora(LoRASettings(rank=16), "random weights")
    values = {"global_batch_size": size.batch, "max_steps": STEPS, "precision": "bf16"}
    values |= {"gradient_checkpointing": size.recomputed, "micro_batch_size": size.batch}
    values |= {"save_steps": 0, "logging_steps": 0, **settings}
    labels = ["no", "yes"]
    recipe = (
        CausalLM()
        if size.decoder
        else SequenceClassification(problem="single_label", labels=labels)
    )
    table = texts(size, values["global_batch_size"] * min(values["max_steps"], STEPS), recipe)
    return Trainer(
        model, recipe, TrainSettings(**values), train_dataset=table, callbacks=list(callbacks)
    )


def texts(size: Size, count: int, recipe: Any) -> TokenTable:
    """`count` texts of random token ids, all of the size's length."""
    rng = np.random.default_rng(0)
    vocabulary = size.entries.get("vocab_size", 50368)
    zeros = np.zeros(count, np.int64)
    return TokenTable(
        input_ids=rng.integers(5, vocabulary, count * size.length).astype(np.int32),
        token_type_ids=None,
        sequence_offsets=np.arange(count + 1) * size.length,
        sample_offsets=np.arange(count + 1),
        fields={"context": zeros} if size.decoder else {"labels": rng.integers(0, 2, count)},
        axes=recipe.fields,
    )


def flops_of_a_step(model: Any, size: Size) -> float:
    """The floating point operations of a step, without recomputation."""
    config, tokens = model.config, size.batch * size.length
    total = 0.0
    for name, parameter in model.named_parameters():
        is_output = size.decoder and config.tie_word_embeddings and "embeddings" in name
        if parameter.dim() == 2 and ("embeddings" not in name or is_output):
            total += (6 if parameter.requires_grad else 4) * parameter.numel() * tokens
    attention = 12 * config.num_hidden_layers * config.hidden_size * size.length * tokens
    return total + attention * (0.5 if size.decoder else 1)


def print_speed(seconds: float, flops: float, size: Size, device: torch.device) -> None:
    """Print rows with the time, throughput and memory of a step."""
    row("time per step", f"{1000 * seconds:.1f} ms")
    row("tokens/s", f"{size.batch * size.length / seconds:.0f}")
    if device.type == "cuda":
        peak, source = peak_tflops(None, device, "bf16")
        share = flops / seconds / 1e12 / peak
        row("MFU", f"{share:.1%} of {peak:.0f} TFLOP/s ({source})")
        row("peak memory", f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


# --- the parts ---


def throughput(name: str, cpu: bool) -> None:
    """Measure steps of our Trainer."""
    timed, size = Timed(UNTIMED, STEPS), size_of(name, cpu)
    trainer = trainer_of(name, cpu, callbacks=(timed,))
    row("step", f"{size.batch} x {size.length} tokens, bf16{', recomputed' * size.recomputed}")
    trainer.fit()
    seconds = timed.seconds / (STEPS - UNTIMED)
    print_speed(seconds, flops_of_a_step(trainer.model, size), size, trainer.ranks.device)


def peer(name: str, cpu: bool) -> None:
    """Measure the same step with transformers (and peft): bf16 autocast, sdpa, fused AdamW."""
    try:
        import transformers
    except ImportError:
        skip("transformers is not installed")
    size, device = size_of(name, cpu), device_of(cpu)
    model = peers_model(name, size, device)
    if size.recomputed:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    vocabulary = model.config.vocab_size
    ids = torch.randint(5, vocabulary, (size.batch, size.length), device=device)
    labels = ids if size.decoder else ids[:, 0] % 2

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    row("peer", f"transformers {transformers.__version__}{', peft' * size.adapters}")
    for _ in range(UNTIMED):
        step()
    repeats = STEPS - UNTIMED
    seconds = seconds_of(lambda: [step() for _ in range(repeats)], device) / repeats
    print_speed(seconds, flops_of_a_step(meta_model(name, cpu), size), size, device)


def meta_model(name: str, cpu: bool) -> Any:
    """Our model on the meta device, to count its weights."""
    from trainer.models.adapters.lora_settings import LoRASettings

    meta = torch.device("meta")
    model = sized_model(name, meta, cpu, torch.bfloat16)
    if size_of(name, cpu).adapters:
        model.requires_grad_(False)
        rank = LoRASettings(rank=16).rank or 0
        for layer in [m for m in model.body.layers.modules() if isinstance(m, nn.Linear)]:
            width = sum(layer.weight.shape)
            layer.adapter = nn.Parameter(torch.empty(rank, width, device=meta))
    return model


def peers_model(name: str, size: Size, device: torch.device) -> Any:
    """transformers' model of the same size with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    entries = {k: v for k, v in size.entries.items() if k != "model_type"}
    if "rope_theta" in entries:
        theta = entries.pop("rope_theta")
        entries["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    config = AutoConfig.for_model(size.entries["model_type"], **entries)
    kind = AutoModelForCausalLM if size.decoder else AutoModelForSequenceClassification
    numbers = torch.bfloat16 if size.adapters else torch.float32
    with device:
        model = kind.from_config(config, attn_implementation="sdpa", dtype=numbers)
    if size.adapters:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    return model.to(device).train()


def memory(cpu: bool) -> None:
    """Compare the memory of a step with the plan, and find the largest micro batch."""
    from trainer.training.strategy import bytes_of_ddp

    device = device_of(cpu)
    for name in ("bert-512", "llama-1b"):
        trainer = trainer_of(name, cpu, max_steps=3, eval_steps=0)
        trainer.fit()
        number = sum(p.numel() for p in trainer.model.parameters())
        if device.type == "cuda":
            at_rest = torch.cuda.memory_allocated(device) / number
            found = f"{at_rest:.1f} bytes per parameter, planned 12"
            check(f"{name}, between steps", at_rest < 13, found)
            peak = torch.cuda.max_memory_allocated(device) / number
            planned = bytes_of_ddp(trainer.model, trainer.settings, "bf16") / number
            found = f"{peak:.1f} bytes per parameter, {planned:.0f} planned without activations"
            row(f"{name}, peak", found)
        del trainer
        free(device)
    batch = 16 if cpu else 8192
    settings = {"micro_batch_size": None, "global_batch_size": batch, "max_steps": 2}
    trainer = trainer_of("bert-128", cpu, **settings, eval_steps=0)
    began = time.perf_counter()
    trainer.fit()
    row("largest micro batch", f"{trainer.session.max_tokens} tokens")
    row("search and two steps", f"{time.perf_counter() - began:.1f} s")
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        row("share of the memory used", f"{torch.cuda.max_memory_reserved(device) / total:.0%}")
        retries = torch.cuda.memory_stats(device)["num_alloc_retries"]
        row("allocations that were retried", retries)


def free(device: torch.device) -> None:
    """Free the memory that the device's allocator caches, and reset its peak."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def profile(cpu: bool) -> None:
    """Profile training steps: the number of kernels, the busy share, and the longest kernels."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    device = device_of(cpu)
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (device.type == "cuda")]
    for name in ("bert-512", "llama-1b"):
        trainer_of(name, cpu, max_steps=3, eval_steps=0).fit()  # compiles and selects kernels
        free(device)
        trainer = trainer_of(name, cpu, max_steps=6, eval_steps=0)
        with profiling(activities=activities) as found:
            seconds = seconds_of(trainer.fit, device)
        on_device = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        if on_device:
            busy = sum(e.device_time for e in on_device) / 1e6
            row(f"{name}, launches per step", f"{len(on_device) / 6:.0f}")
            row(f"{name}, device busy", f"{busy / seconds:.0%} of a run of six steps")
        key = "self_device_time_total" if on_device else "self_cpu_time_total"
        for average in sorted(found.key_averages(), key=lambda e: -getattr(e, key))[:8]:
            milliseconds = getattr(average, key) / 6000
            found_cost = f"{milliseconds:.2f} ms per step, {average.count / 6:.0f} launches"
            row(f"{name}: {average.key[:70]}", found_cost)
        del trainer
        free(device)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """The seconds that a function takes, including its work on the device."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


PARTS: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (throughput, peer, memory, profile)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    PARTS[options.part](*options.arguments, cpu=options.cpu)
    sys.exit(bool(WRONG))


if __name__ == "__main__":
    main()
