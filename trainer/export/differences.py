"""Measures how far the outputs of two models differ, on random batches with a fixed seed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import NumericsError
from trainer.models.input_checks import max_sequence_length
from trainer.models.model import Model
from trainer.models.pretrained import PretrainedModel

MAX_LENGTH = 600
"""The number of tokens in the longest rows, unless the model has fewer positions."""
CHOICES = 3
IDS_SHAPE = (2, 16)
"""The number of sequences in `outputs_of`, and the number of random tokens in each."""
ACCEPTED = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""The largest accepted difference for each data type of the weights; see `Worst.compare`."""

Inputs = dict[str, Tensor]


@dataclass
class Worst:
    """The largest difference of several comparisons."""

    value: float = 0.0

    def compare(self, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        """Update the largest difference; it becomes inf if shapes differ or numbers are not finite.

        Each difference is divided by the largest absolute value of `wanted`, or by 1 if it is
        smaller.
        """
        for name, tensor in wanted.items():
            if found[name].shape != tensor.shape:
                self.value = float("inf")
                return
            scale = float(tensor.float().abs().max().clamp(min=1)) if tensor.numel() else 1.0
            gap = (found[name].float() - tensor.float()).abs()
            largest = float(gap.max()) / scale if gap.numel() else 0.0
            self.value = max(self.value, largest if largest == largest else float("inf"))

    def require(self, dtype: str, what: str) -> None:
        """Raise NumericsError if the difference is larger than accepted for weights of `dtype`."""
        if not self.value <= ACCEPTED[dtype]:
            found = f"{what} differ by {self.value:.2g}; accepted: {ACCEPTED[dtype]:g}"
            raise NumericsError(f"job=export: {found}; nothing was written")


def ragged_batches(model: PretrainedModel, has_types: bool) -> Iterator[Inputs]:
    """Yield batches of several sizes whose rows differ in length; every call yields the same ones.

    The first batch is a single token, the second has short rows, and the third has long rows. With
    `has_types`, batches contain token_type_ids.
    """
    generator = torch.Generator().manual_seed(0)
    longest = min(max_sequence_length(model.config), MAX_LENGTH)
    for rows, length in ((1, 1), (4, min(17, longest)), (2, longest)):
        yield ragged_batch(model, rows, length, has_types, generator)


def ragged_batch(
    model: PretrainedModel, rows: int, length: int, has_types: bool, generator: torch.Generator
) -> Inputs:
    """Make a batch of random ids [rows, length], padded so that the rows differ in length.

    For multiple choice, the shape is [rows, CHOICES, length].
    """
    shape = (rows, length)
    if model.task == "multiple_choice":
        shape = (rows, CHOICES, length)  # type: ignore[assignment]
    config = model.config
    ids = torch.randint(config.vocab_size, shape, generator=generator)
    if config.pad_token_id is not None:  # some families compute positions from the padding
        ids[ids == config.pad_token_id] = (config.pad_token_id + 1) % config.vocab_size
    mask = torch.ones(shape, dtype=torch.int64)
    step = max(1, length // 3)
    for number, row in enumerate(mask.view(-1, length)):
        row[max(1, length - number % 4 * step) :] = 0
    if config.pad_token_id is not None:
        ids.masked_fill_(mask == 0, config.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if has_types:
        types = (torch.arange(length).expand(shape) >= length // 2).long()
        inputs["token_type_ids"] = types.clamp(max=model.num_token_types - 1) * mask
    return inputs


def outputs_of(model: Model) -> Tensor:
    """The model's outputs for tokens drawn with a fixed seed, flattened and concatenated."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, IDS_SHAPE, generator=generator)
    if model.task == "multiple_choice":
        ids = ids[None]  # a single row, whose choices are the sequences
    inputs = {"input_ids": ids}
    if not isinstance(model, PretrainedModel):
        lengths = torch.full(IDS_SHAPE[:1], IDS_SHAPE[1])
        inputs = {"input_ids": ids.flatten(), "sequence_lengths": lengths}
    elif model.family.kind == "encoder_decoder":
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        found = model.eval()(**inputs)
    tensors = [v for v in found.to_tuple() if isinstance(v, torch.Tensor)]
    return torch.cat([tensor.flatten().float() for tensor in tensors])


def distance(wanted: Tensor, found: Tensor) -> float:
    """The norm of the difference between two tensors, divided by the norm of `wanted`."""
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))
