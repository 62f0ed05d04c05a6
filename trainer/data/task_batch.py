"""TaskBatch: a flat batch whose samples belong to several tasks, with the batch of each task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data import blocks
from trainer.data.batch import FlatBatch
from trainer.data.entries import entries_per_sample, owners


@dataclass
class TaskBatch(FlatBatch):
    """The sequences of all tasks, for one pass through the body, and the batch of each task."""

    task_names: tuple[str, ...] = ()
    """All tasks of the data set; `sequence_tasks` are indices into it"""
    sequence_tasks: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """[B], always on the CPU: the task of each sequence"""
    parts: dict[str, FlatBatch] = field(default_factory=dict)
    """Task -> the flat batch of its samples, in this batch's order; tasks without samples are
    absent"""
    members: dict[str, Tensor] = field(default_factory=dict)
    """Task -> [n], the positions (0 .. N-1) of its samples in this batch"""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Task -> the factor by which its loss sums are multiplied (trainer/data/task_samples.py)"""
    scales_of: Callable[[int], Mapping[str, float]] | None = None
    """Returns the `scales` for the global batch of a step; None if `scales` apply to every step"""

    def inputs(self) -> dict[str, Any]:
        return {**super().inputs(), "sequence_tasks": self.sequence_tasks}

    def for_step(self, seed: int, step: int) -> "TaskBatch":
        """The same batch with dropout keys, and the factors of the step's global batch."""
        found = super().for_step(seed, step)
        assert isinstance(found, TaskBatch)
        return found if self.scales_of is None else replace(found, scales=self.scales_of(step))

    def more_entries(self) -> dict[str, np.ndarray]:
        """Axis -> [N], the number of entries of each sample, for the axes of all tasks.

        For example, the axis "ner/token" counts the tokens of samples of the task ner.
        """
        found = {}
        for name in self.task_names:
            part = self.parts.get(name)
            for axis, counts in (EMPTY if part is None else entries_per_sample(part)).items():
                entries = np.zeros(self.num_samples, dtype=np.int64)
                if part is not None:
                    entries[self.members[name].cpu().numpy()] = counts
                found[f"{name}/{axis}"] = entries
        return found

    def owners_along(self, axis: str) -> Tensor | None:
        """[E], the sample of each entry along an axis such as "ner/token"; None for others."""
        name, _, kind = axis.rpartition("/")
        if name not in self.task_names:
            return None
        part = self.parts.get(name)
        if part is None:
            return self.input_ids.new_zeros(0)
        sizes = {
            "sample": part.num_samples,
            "sequence": len(part.sequence_lengths),
            "token": part.num_tokens,
        }
        own = owners(part, sizes[kind], part.input_ids.device)
        assert own is not None
        return self.members[name][own]

    def _with(self, change: Callable[[Tensor], Tensor]) -> "TaskBatch":
        found = super()._with(change)
        assert isinstance(found, TaskBatch)
        parts = {name: part._with(change) for name, part in self.parts.items()}
        members = {name: change(places) for name, places in self.members.items()}
        return replace(found, parts=parts, members=members)


EMPTY: Mapping[str, Any] = {"sample": 0, "sequence": 0, "token": 0}
"""Axis -> the number of entries of a task without samples."""


def joined(
    parts: Mapping[str, FlatBatch],
    places: Mapping[str, np.ndarray],
    sample_ids: np.ndarray,
    task_names: tuple[str, ...],
    scales: Mapping[str, float],
    scales_of: Callable[[int], Mapping[str, float]] | None = None,
) -> TaskBatch:
    """Join the batches of several tasks; `places` maps a task to the positions of its samples."""
    own = [places[name][part.sequence_sample.numpy()] for name, part in parts.items()]
    tasks = [np.full(len(o), task_names.index(n)) for n, o in zip(parts, own, strict=True)]
    owner, lengths = np.concatenate(own), _joined(parts, "sequence_lengths").numpy()
    order = np.argsort(owner, kind="stable")
    starts = np.cumsum(lengths) - lengths
    tokens = torch.from_numpy(blocks.ranges(starts[order], lengths[order])[0])
    typed = any(part.token_type_ids is not None for part in parts.values())
    sample_tasks = torch.empty(len(sample_ids), dtype=torch.int64)
    for name, found in places.items():
        sample_tasks[found] = task_names.index(name)
    return TaskBatch(
        input_ids=_joined(parts, "input_ids")[tokens],
        position_ids=_joined(parts, "position_ids")[tokens],
        sequence_lengths=torch.from_numpy(lengths[order]),
        sequence_sample=torch.from_numpy(owner[order]),
        sample_ids=sample_ids,
        token_type_ids=_joined(parts, "token_type_ids")[tokens] if typed else None,
        fields={"task": sample_tasks},
        task_names=task_names,
        sequence_tasks=torch.from_numpy(np.concatenate(tasks)[order]),
        parts=dict(parts),
        members={name: torch.from_numpy(found) for name, found in places.items()},
        scales=scales,
        scales_of=scales_of,
    )


def _joined(parts: Mapping[str, FlatBatch], name: str) -> Tensor:
    """The tensors of all parts, concatenated; zeros for parts without the tensor."""
    found = [getattr(part, name) for part in parts.values()]
    whole = zip(parts.values(), found, strict=True)
    return torch.cat([torch.zeros_like(p.input_ids) if x is None else x for p, x in whole])
