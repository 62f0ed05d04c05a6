"""Batches: what one forward pass sees, flat (padding-free) or stacked."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from trainer.data.drawing import generators_kept, seed_generators
from trainer.errors import InputError
from trainer.models.sequence_lengths import SequenceLengths

log = logging.getLogger("trainer")

LOOKED_AT = 256
"""Rows of a data set that makes them on demand that its fingerprint is made of."""


class Batch(Protocol):
    """What the Trainer asks of a batch; a field is read as an item: `batch["labels"]`."""

    @property
    def sample_ids(self) -> np.ndarray:
        """[N], the data-set numbers of the samples."""
        ...

    @property
    def num_tokens(self) -> int:
        """What a token budget has counted."""
        ...

    def __getitem__(self, name: str) -> Tensor: ...

    def __contains__(self, name: str) -> bool: ...

    def inputs(self) -> dict[str, Any]:
        """The keyword arguments of the model's forward."""
        ...

    def for_step(self, seed: int, step: int) -> Self:
        """The same batch, ready for an optimizer step's randomness."""
        ...

    def pinned(self) -> Self:
        """The same batch with what `to` moves in page-locked memory."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        ...


class Samples(Protocol):
    """A data set that is ready to train on: any sample by its number, any batch by its samples.

    One whose `collate` is a function of its arguments may say so (`pure = True`): another thread
    then makes the next batches ahead of time.
    """

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, [N]: what a token budget counts."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for equal data: what a resumed run must repeat."""
        ...

    def padding_avoided(self, batch_size: int) -> float:
        """The share of pad tokens if batches of this many samples were padded to their longest."""
        ...

    def __len__(self) -> int: ...

    def collate(self, sample_ids: Sequence[int] | np.ndarray) -> Batch:
        """One batch of these samples, in this order, on the CPU."""
        ...

    def placeholder(self) -> Batch:
        """The cheapest batch: what a rank without samples runs, with weight zero."""
        ...


@dataclass
class FlatBatch:
    """Sequences laid end to end without padding. T tokens, B sequences, N samples."""

    input_ids: Tensor
    """[T]"""
    position_ids: Tensor
    """[T], restarting at 0 in each sequence"""
    sequence_lengths: Tensor
    """[B], always on the CPU, so that asking for the longest costs no device sync"""
    sequence_sample: Tensor
    """[B], the row of `sample_ids` that each sequence belongs to (0 .. N-1, ascending)"""
    sample_ids: np.ndarray
    """[N], the data-set numbers of the samples"""
    token_type_ids: Tensor | None = None
    """[T], where the family has them"""
    fields: dict[str, Tensor] = field(default_factory=dict)
    """labels and other recipe fields, along the axis that the recipe names for each"""
    dropout_keys: Tensor | None = None
    """[T], what decides each token's dropout masks; None while evaluating"""
    on_host: dict[str, Tensor] = field(default_factory=dict)
    """The fields of a moved batch as they were on the CPU: labels are counted there."""

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[0]

    @property
    def num_samples(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "sequence_lengths": SequenceLengths(self.sequence_lengths),
        }
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids
        if self.dropout_keys is not None:
            inputs["dropout_keys"] = self.dropout_keys
        return inputs

    def for_step(self, seed: int, step: int) -> "FlatBatch":
        """The same batch with a step's dropout keys: functions of seed, step, sample and token."""
        from trainer.models.dropout import token_keys

        lengths = self.sequence_lengths
        first_of_sample = torch.searchsorted(self.sequence_sample, self.sequence_sample)
        sequence = torch.arange(len(lengths)) - first_of_sample
        sample = torch.from_numpy(self.sample_ids)[self.sequence_sample]
        starts = lengths.cumsum(0) - lengths
        token = torch.arange(self.num_tokens) - starts.repeat_interleave(lengths)
        keys = token_keys(
            seed,
            step,
            sample.repeat_interleave(lengths),
            sequence.repeat_interleave(lengths),
            token,
        )
        return replace(self, dropout_keys=keys)

    def pinned(self) -> "FlatBatch":
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "FlatBatch":
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "FlatBatch":
        """The same batch, its tensors changed but for those that stay on the host."""
        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            sequence_sample=change(self.sequence_sample),
            token_type_ids=None if self.token_type_ids is None else change(self.token_type_ids),
            dropout_keys=None if self.dropout_keys is None else change(self.dropout_keys),
            fields={name: change(tensor) for name, tensor in self.fields.items()},
            on_host=self.on_host or self.fields,
        )


@dataclass
class StackedBatch:
    """Rows of equal shape, stacked: the batch of a plain `nn.Module`."""

    columns: dict[str, Tensor]
    sample_ids: np.ndarray
    input_names: Sequence[str]
    """The columns that the model's forward takes."""

    @property
    def num_tokens(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def inputs(self) -> dict[str, Any]:
        return {name: self.columns[name] for name in self.input_names if name in self.columns}

    def for_step(self, seed: int, step: int) -> "StackedBatch":
        """Plain modules draw from torch's generator: seeded here, so that nothing needs saving."""
        torch.manual_seed(hash((seed, step, *self.sample_ids[:1].tolist())) % 2**63)
        return self

    def pinned(self) -> "StackedBatch":
        columns = {name: column.pin_memory() for name, column in self.columns.items()}
        return replace(self, columns=columns)

    def to(self, device: torch.device) -> "StackedBatch":
        columns = {
            name: column.to(device, non_blocking=True) for name, column in self.columns.items()
        }
        return replace(self, columns=columns)


@dataclass
class StackedSamples:
    """A map-style data set of dicts of tensors or numbers, for a plain `nn.Module`.

    Rows may be drawn from the global generators of Python, numpy and torch (augmentation): these
    are seeded for each row, so that a resumed run sees the same rows, and kept for the caller.
    """

    rows: Any
    input_names: Sequence[str]

    def __post_init__(self) -> None:
        self.lengths = np.ones(len(self.rows), dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal rows; of rows that are made on demand LOOKED_AT are looked at.

        Rows that differ each time they are read, by a generator of their own, count by their
        shapes and types; a warning says that a resumed run will see others.
        """
        kept = isinstance(self.rows, (list, tuple))
        number = len(self) if kept else min(len(self), LOOKED_AT)
        numbers = np.linspace(0, len(self) - 1, number).astype(np.int64)
        by_value = kept or self._digest(numbers[:1]) == self._digest(numbers[:1])
        if not by_value:
            log.warning(
                "the training rows differ each time they are read: a resumed run sees other ones; "
                "draw them from the global generators of random, numpy or torch instead"
            )
        return self._digest(numbers, by_value)

    def padding_avoided(self, batch_size: int) -> float:
        return 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def collate(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int = 0
    ) -> StackedBatch:
        """One batch; rows that are drawn are a function of seed, epoch and their number.

        Seeds and restores the process's generators: only for the thread that trains.
        """
        rows = self._read(sample_ids, seed, epoch)
        columns = {name: _stacked(rows, name) for name in rows[0]}
        return StackedBatch(columns, np.asarray(sample_ids, dtype=np.int64), self.input_names)

    def placeholder(self) -> StackedBatch:
        return self.collate([0])

    def _read(
        self, sample_ids: Sequence[int] | np.ndarray, seed: int = 0, epoch: int = 0
    ) -> list[Mapping[str, Any]]:
        if isinstance(self.rows, (list, tuple)):
            return [self.rows[int(i)] for i in sample_ids]
        found = []
        with generators_kept():
            for i in sample_ids:
                seed_generators(seed, epoch, int(i))
                found.append(self.rows[int(i)])
        return found

    def _digest(self, numbers: np.ndarray, by_value: bool = True) -> str:
        digest = hashlib.sha256(f"{len(self)} rows".encode())
        for number in numbers:
            (row,) = self._read([number])
            for name in sorted(row):
                tensor = _stacked([row], name)[0].detach().cpu().contiguous()
                digest.update(f" {name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
                if by_value and tensor.numel():
                    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _stacked(rows: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    """A column as one tensor, [N, ...]. Raises InputError where a row's value does not fit."""
    where = f"column '{name}' of a plain data set"
    accepted = "accepted: a number or a tensor, of the same shape in every row"
    if missing := sum(name not in row for row in rows):
        raise InputError(f"{where}: {missing} rows do not have it; {accepted}")
    try:
        tensors = [torch.as_tensor(row[name]) for row in rows]
    except (TypeError, ValueError, RuntimeError) as error:
        found = " ".join(str(error).split())
        raise InputError(f"{where}: {found}; {accepted}") from error
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise InputError(f"{where}: found the shapes {shapes[0]} and {shapes[1]}; {accepted}")
    return torch.stack(tensors)
