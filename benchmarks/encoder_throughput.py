"""Measures the tokens per second of training an encoder, and the share of the device's peak.

    python benchmarks/encoder_throughput.py                     # BERT-base, 32 texts of 512 tokens
    python benchmarks/encoder_throughput.py --ragged --length 128 --batch 256

A Trainer trains a model of BERT-base's size with random weights. The first steps are not timed. For
each token of a sequence of length L, a training step takes

    6 layers (4 D^2 + 2 D I) + 12 layers D L

floating point operations, where D is the hidden size and I the size of the feed-forward layer: 2
for each weight in the forward pass and 4 in the backward pass, plus the products of queries with
keys and of probabilities with values (Chowdhery et al., 2022, arXiv:2204.02311, appendix B).
Embeddings, head, norms, softmax and recomputation are not counted. The peak is that of the data
sheet for dense products in half precision, or else the speed of one large matrix product.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from recipes.sequence_classification import SequenceClassification
from trainer import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainSettings
from trainer.callbacks.callback import Callback
from trainer.data.tokens import TokenTable
from trainer.devices.precision import DTYPES

PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "T4": 65,
    "V100": 125,
}
"""Part of a GPU's name -> TFLOP/s of dense products in half precision, by its data sheet."""
VOCABULARY = 30522


def main() -> None:
    options = parse()
    trainer, clock = build(options)
    trainer.fit()
    device, precision = trainer.ranks.device, trainer.setup.placement.precision
    lengths = trainer.train_samples.lengths
    plan = trainer.session.plan
    timed = np.concatenate(
        [lengths[plan.global_batch(step)] for step in range(options.warmup, options.steps)]
    )
    seconds = clock.times[-1] - clock.times[options.warmup - 1]
    tflops = flops(trainer.model.config, timed) / seconds / 1e12
    peak, source = peak_tflops(options.peak_tflops, device, precision)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {precision}, {options.batch} texts a step, micro batches of up to ", end="")
    print(f"{trainer.session.max_tokens} tokens, {options.steps - options.warmup} steps")
    print(f"{timed.sum() / seconds:.0f} tokens/s, {seconds:.1f} s")
    print(f"{tflops:.3f} of {peak:.3f} TFLOP/s ({source}): {tflops / peak:.1%}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32, help="texts of an optimizer step")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest text")
    parser.add_argument("--ragged", action="store_true", help="random lengths from 1 to --length")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5, help="steps that are not timed")
    parser.add_argument(
        "--max-tokens", type=int, help="tokens of a micro batch; default: as many as fit"
    )
    parser.add_argument("--precision", default="auto", choices=["auto", *DTYPES])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--peak-tflops", type=float)
    return parser.parse_args()


@dataclass
class Clock(Callback):
    """Records the time at which each step ended."""

    times: list[float] = field(default_factory=list)

    def on_step_end(self, step: int, total_steps: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def build(options: argparse.Namespace) -> tuple[Trainer, Clock]:
    """A Trainer over random ids, and the callback that measures it."""
    torch.manual_seed(0)
    labels = ["no", "yes"]
    config = AutoConfig(
        {
            "model_type": "bert",
            "vocab_size": VOCABULARY,
            "num_hidden_layers": options.layers,
            "num_labels": len(labels),
            "attention_probs_dropout_prob": options.attention_dropout,
        }
    )
    clock = Clock()
    settings = TrainSettings(
        global_batch_size=options.batch,
        max_steps=options.steps,
        max_tokens_per_micro_batch=options.max_tokens,
        precision=options.precision,
        compile=options.compile,
        save_steps=0,
        logging_steps=0,
    )
    trainer = Trainer(
        AutoModelForSequenceClassification.from_config(config),
        SequenceClassification(problem="single_label", labels=labels),
        settings,
        train_dataset=random_texts(options),
        callbacks=[clock],
    )
    return trainer, clock


def random_texts(options: argparse.Namespace) -> TokenTable:
    rng = np.random.default_rng(0)
    count = options.batch * options.steps
    shortest = 1 if options.ragged else options.length
    lengths = rng.integers(shortest, options.length + 1, count)
    return TokenTable(
        input_ids=rng.integers(0, VOCABULARY, lengths.sum()).astype(np.int32),
        token_type_ids=None,
        sequence_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        sample_offsets=np.arange(count + 1),
        fields={"labels": rng.integers(0, 2, count)},
        axes=SequenceClassification.fields,
    )


def flops(config: Any, lengths: np.ndarray) -> float:
    """The floating point operations of training once on texts of these lengths."""
    size, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * size**2 + 2 * size * config.intermediate_size)
    lengths = lengths.astype(np.float64)
    return float(6 * weights * lengths.sum() + 12 * layers * size * np.square(lengths).sum())


def peak_tflops(given: float | None, device: torch.device, precision: str) -> tuple[float, str]:
    """The device's peak performance, and its source."""
    if given is not None:
        return given, "as given"
    if device.type == "cuda" and precision != "fp32":
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in PEAKS.items() if part in name), None)
        if known is not None:
            return known, "data sheet"
    return measured_peak(device, DTYPES[precision]), "a large matrix product"


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of the fastest of ten products of large square matrices."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(10):
        wait()
        started = time.perf_counter()
        a @ b
        wait()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e12


if __name__ == "__main__":
    main()
