"""ArraySamples: columns of arrays as samples, for images and other inputs of one size."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from trainer.data.batch import StackedBatch
from trainer.errors import InputError


@dataclass
class ArraySamples:
    """N samples whose inputs and labels are entries of arrays [N, ...], held in memory.

    `Recipe.samples` may return it for inputs of one size, such as images. A batch is a
    `StackedBatch` with a tensor for each column.
    """

    columns: Mapping[str, np.ndarray]
    """Name -> column, [N, ...]."""
    input_names: Sequence[str]
    """The columns that the model's forward receives; the others are fields of the recipe."""
    tokens_per_sample: int = 1
    """The size of a sample in a token budget, such as the number of patches of an image."""

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in self.columns.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(
                f"samples: columns of different lengths, {sizes}; accepted: equal ones"
            )
        self.lengths = np.full(next(iter(sizes.values())), self.tokens_per_sample, dtype=np.int64)

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """The columns that are not inputs."""
        return {n: column for n, column in self.columns.items() if n not in self.input_names}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the arrays; equal arrays have the same one."""
        digest = hashlib.sha256()
        for name in sorted(self.columns):
            column = np.ascontiguousarray(self.columns[name])
            digest.update(f"{name} {column.dtype} {column.shape} ".encode())
            digest.update(column.data)
        return digest.hexdigest()

    def padding_avoided(self, batch_size: int) -> float:
        """0.0, since samples of one size need no padding."""
        return 0.0

    def __len__(self) -> int:
        return len(self.lengths)

    def collate(self, sample_ids: Sequence[int] | np.ndarray) -> StackedBatch:
        """A batch of these samples, in this order."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        tensors = {name: torch.from_numpy(column[ids]) for name, column in self.columns.items()}
        return StackedBatch(tensors, ids, self.input_names)

    def placeholder(self) -> StackedBatch:
        """A batch of the first sample only."""
        return self.collate([0])
