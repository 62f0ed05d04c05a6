"""Batches: the input of one forward pass, flat (padding-free) or stacked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor

from trainer.models.packing import to_device
from trainer.models.sequence_lengths import SequenceLengths

READERS = ("encoder", "decoder")
"""The roles of the sequences that the encoder and the decoder of a model read."""


class Batch(Protocol):
    """The interface of a batch. A field is read like an item: `batch["labels"]`."""

    @property
    def sample_ids(self) -> np.ndarray:
        """[N], the indices of the samples in the data set."""
        ...

    @property
    def num_tokens(self) -> int:
        """The number of tokens that count against a token budget."""
        ...

    def __getitem__(self, name: str) -> Tensor: ...

    def __contains__(self, name: str) -> bool: ...

    def inputs(self) -> dict[str, Any]:
        """The keyword arguments for the model's `forward`."""
        ...

    def for_step(self, seed: int, step: int) -> Self:
        """The same batch, set up to draw the random numbers (of dropout) for an optimizer step."""
        ...

    def pinned(self) -> Self:
        """The same batch; the tensors that `to` moves are copied to page-locked memory."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`."""
        ...


OwnBatch: TypeAlias = Any
"""The type of batch that the samples of a recipe are collated to, such as `FlatBatch`.

The methods of a recipe may use attributes of this type that `Batch` does not declare.
"""


class Samples(Protocol):
    """A preprocessed data set: collates any of its samples into a batch.

    If `collate` depends only on its arguments, the class may declare `pure = True`. Another thread
    then collates the next batches in advance. If only samples of equal shapes can share a batch,
    it has an attribute `kinds`, [N] int: only samples of the same kind share a batch.
    """

    @property
    def lengths(self) -> np.ndarray:
        """[N], the number of tokens of each sample that count against a token budget."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of the data, which must be the same when a run is resumed."""
        ...

    def padding_avoided(self, batch_size: int) -> float:
        """The share of pad tokens if each batch of this size were padded to its longest sample."""
        ...

    def __len__(self) -> int: ...

    def collate(self, sample_ids: Sequence[int] | np.ndarray) -> Batch:
        """One batch of these samples, in this order, on the CPU."""
        ...

    def placeholder(self) -> Batch:
        """The smallest batch; a rank without samples runs it with a weight of zero."""
        ...


@dataclass
class FlatBatch:
    """Sequences concatenated without padding. T tokens, B sequences, N samples."""

    input_ids: Tensor
    """[T]"""
    position_ids: Tensor
    """[T], restarting at 0 in each sequence"""
    sequence_lengths: Tensor
    """[B], always on the CPU, so that reading the longest needs no device sync"""
    sequence_sample: Tensor
    """[B], the sample that each sequence belongs to, as an index into `sample_ids`; ascending"""
    sample_ids: np.ndarray
    """[N], the indices of the samples in the data set"""
    token_type_ids: Tensor | None = None
    """[T], for model families that use them"""
    fields: dict[str, Tensor] = field(default_factory=dict)
    """Labels and other fields of the recipe. `Recipe.fields` gives the axis of each"""
    dropout_keys: Tensor | None = None
    """[T], the hash keys of each token's dropout masks; None during evaluation"""
    step_key: Tensor | None = None
    """[1], always on the CPU: the key of masks that all samples of a step share"""
    roles: Tensor | None = None
    """[B], always on the CPU: each sequence's role, as an index into `role_names`"""
    role_names: tuple[str, ...] = ()
    """`Recipe.roles`"""
    on_host: dict[str, Tensor] = field(default_factory=dict)
    """The CPU copies of the fields after a move to a device, for counting labels"""
    owners_on_host: Tensor | None = None
    """The CPU copy of `sequence_sample` after a move to a device"""

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

    @property
    def host_owners(self) -> Tensor:
        """`sequence_sample` on the CPU, where reading it does not wait for a device."""
        return self.sequence_sample if self.owners_on_host is None else self.owners_on_host

    def of_role(self, name: str) -> Tensor:
        """[b], the indices of the sequences with this role, in order, on the batch's device."""
        assert self.roles is not None, "the recipe's features have no roles"
        found = (self.roles == self.role_names.index(name)).nonzero().squeeze(1)
        return found.to(self.input_ids.device, non_blocking=True)

    def lengths_of_role(self, name: str) -> Tensor:
        """[b] on the CPU, the lengths of the sequences with this role."""
        assert self.roles is not None, "the recipe's features have no roles"
        return self.sequence_lengths[self.roles == self.role_names.index(name)]

    def tokens_of_role(self, name: str) -> Tensor:
        """[t], the indices of the tokens in sequences with this role, on the batch's device."""
        assert self.roles is not None, "the recipe's features have no roles"
        chosen = (self.roles == self.role_names.index(name)).repeat_interleave(
            self.sequence_lengths
        )
        return to_device(chosen.nonzero().squeeze(1), self.input_ids.device)

    def inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "sequence_lengths": SequenceLengths(self.sequence_lengths, self.step_key),
        }
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids
        if self.dropout_keys is not None:
            inputs["dropout_keys"] = self.dropout_keys
        return inputs if self.role_names != READERS else self._by_reader(inputs)

    def inputs_of(self, start: int, stop: int) -> dict[str, Any]:
        """The `inputs` of the sequences from `start` up to, but not including, `stop`."""
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), self.sequence_lengths.cumsum(0)])
        first, last = int(ends[start]), int(ends[min(stop, len(self.sequence_lengths))])
        found = {
            name: value[first:last]
            for name, value in self.inputs().items()
            if isinstance(value, Tensor)
        }
        return {**found, "sequence_lengths": SequenceLengths(self.sequence_lengths[start:stop])}

    def _by_reader(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of an encoder-decoder: each side gets the tokens of its role."""
        found = {}
        for name in READERS:
            rows, before = self.tokens_of_role(name), "" if name == "encoder" else "decoder_"
            for entry in inputs.keys() & {"input_ids", "dropout_keys"}:
                written = before and entry == "input_ids"
                own = "decoder_target_ids" if written else before + entry
                found[own] = inputs[entry].index_select(0, rows)
            found[f"{before}sequence_lengths"] = SequenceLengths(self.lengths_of_role(name))
        return found

    def for_step(self, seed: int, step: int) -> "FlatBatch":
        """The same batch with dropout keys, which depend only on seed, step, sample and token."""
        from trainer.models.blocks.dropout_hash import step_key, token_keys

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
        return replace(self, dropout_keys=keys, step_key=step_key(seed, step))

    def more_entries(self) -> dict[str, np.ndarray]:
        """Axis that a subclass adds -> [N], the number of entries of each sample along it."""
        return {}

    def owners_along(self, axis: str) -> Tensor | None:
        """[E], the sample (0 to N - 1) of each entry along an axis that `more_entries` returns.

        None for any other axis.
        """
        return None

    def pinned(self) -> "FlatBatch":
        return self._with(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "FlatBatch":
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def _with(self, change: Callable[[Tensor], Tensor]) -> "FlatBatch":
        """The same batch with `change` applied to the tensors that move between devices."""
        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            sequence_sample=change(self.sequence_sample),
            token_type_ids=None if self.token_type_ids is None else change(self.token_type_ids),
            dropout_keys=None if self.dropout_keys is None else change(self.dropout_keys),
            fields={name: change(tensor) for name, tensor in self.fields.items()},
            on_host=self.on_host or self.fields,
            owners_on_host=self.host_owners,
        )


@dataclass
class StackedBatch:
    """Unprocessed rows of plain data sets, as columns: the batch of a plain `nn.Module`."""

    columns: dict[str, Any]
    """Tensors, [N, ...] unless a collator returned other shapes; texts are lists."""
    sample_ids: np.ndarray
    input_names: Sequence[str]
    """The names of the parameters of the model's `forward`; empty if it accepts any column."""
    on_host: dict[str, Any] = field(default_factory=dict)
    """The CPU copies of the columns after a move to a device, for counting labels"""

    @property
    def num_tokens(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self.columns[name]
        return found

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def keys(self) -> list[str]:
        """The names of the columns."""
        return list(self.columns)

    def inputs(self) -> dict[str, Any]:
        names = self.input_names or self.columns
        return {name: self.columns[name] for name in names if name in self.columns}

    def for_step(self, seed: int, step: int) -> "StackedBatch":
        """The same batch. Seeds torch's generator, which plain modules use, for this step.

        So a checkpoint needs no generator state.
        """
        torch.manual_seed(hash((seed, step, *self.sample_ids[:1].tolist())) % 2**63)
        return self

    def pinned(self) -> "StackedBatch":
        return replace(self, columns=self._changed(lambda tensor: tensor.pin_memory()))

    def to(self, device: torch.device) -> "StackedBatch":
        moved = self._changed(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(self, columns=moved, on_host=self.on_host or self.columns)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        return {
            name: change(column) if isinstance(column, Tensor) else column
            for name, column in self.columns.items()
        }
