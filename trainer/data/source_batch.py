"""SourceBatch: a flat batch whose samples come from several sources of a mixture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trainer.data import blocks
from trainer.data.batch import FlatBatch

if TYPE_CHECKING:
    from trainer.tasks.recipe import Axis, Recipe


@dataclass
class SourceBatch(FlatBatch):
    """A flat batch with the source of each sample, and the recipe of the batch."""

    sources: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """[N], the index of each sample's source"""
    recipe: "Recipe | None" = None
    """The recipe that computes the loss of the batch; None for the recipe of the run"""

    def _with(self, change: Callable[[Tensor], Tensor]) -> "SourceBatch":
        found = super()._with(change)
        assert isinstance(found, SourceBatch)
        return replace(found, sources=change(self.sources))


def joined(
    parts: Mapping[int, FlatBatch],
    places: Mapping[int, np.ndarray],
    sample_ids: np.ndarray,
    axes: "Mapping[str, Axis]",
) -> SourceBatch:
    """Join the batches of several sources into one.

    The keys of `parts` and `places` are the indices of the sources; `places` has the positions of
    each source's samples in the joined batch. `axes` gives the axis of each field. A field that has
    integers in one source and floats in another becomes float.
    """
    own = [places[source][part.sequence_sample.numpy()] for source, part in parts.items()]
    owner = np.concatenate(own)
    lengths = torch.cat([part.sequence_lengths for part in parts.values()]).numpy()
    order = np.argsort(owner, kind="stable")
    starts = np.cumsum(lengths) - lengths
    orders = {
        "token": torch.from_numpy(blocks.ranges(starts[order], lengths[order])[0]),
        "sequence": torch.from_numpy(order),
        "sample": torch.from_numpy(np.argsort(np.concatenate(list(places.values())))),
    }
    several, first = list(parts.values()), next(iter(parts.values()))
    sources = torch.empty(len(sample_ids), dtype=torch.int64)
    for source, found in places.items():
        sources[found] = source
    return SourceBatch(
        input_ids=torch.cat([part.input_ids for part in several])[orders["token"]],
        position_ids=torch.cat([part.position_ids for part in several])[orders["token"]],
        sequence_lengths=torch.from_numpy(lengths[order]),
        sequence_sample=torch.from_numpy(owner[order]),
        sample_ids=sample_ids,
        token_type_ids=_joined([part.token_type_ids for part in several], orders["token"]),
        fields={
            name: torch.cat([part.fields[name] for part in several])[orders[axes[name]]]
            for name in first.fields
        },
        roles=_joined([part.roles for part in several], orders["sequence"]),
        role_names=first.role_names,
        sources=sources,
    )


def _joined(parts: Sequence[Tensor | None], order: Tensor) -> Tensor | None:
    """The parts, concatenated and reordered; None if all of them are None."""
    found = [part for part in parts if part is not None]
    return torch.cat(found)[order] if found else None
