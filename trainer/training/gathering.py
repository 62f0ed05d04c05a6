"""Gathering: combines all ranks' measurements of batches into arrays in the data set's order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import Batch, FlatBatch, Samples
from trainer.data.blocks import ranges
from trainer.data.entries import entries_per_sample
from trainer.data.plan import evaluation_batches
from trainer.devices.ranks import Ranks
from trainer.errors import InputError
from trainer.tasks.columns import Column
from trainer.tasks.recipe import Axis

MAX_BYTES_ON_DEVICE = 64 << 20
"""Measured tensors are copied to the host once they exceed this many bytes on the device."""


Gathered = list[dict[str, np.ndarray]]
"""The results of `Parts.arrays` of all ranks, in rank order."""
Measure = Callable[[Any, Batch], dict[str, Tensor]]
"""Computes a batch's measurements from the model's outputs."""


def gathered_batches(
    forward: Callable[[Batch], Any],
    measure: Measure,
    samples: Samples,
    *,
    max_tokens: int,
    group_size: int,
    ranks: Ranks,
    in_step: bool,
    on_progress: Callable[[int, float], None],
    axes: Mapping[str, Axis] | None = None,
) -> tuple[Gathered, list[np.ndarray]]:
    """The results of `measure` for every batch, and each batch's samples. Every rank calls it.

    The batches depend only on the data set, the token budget and the recipe's group size. Each goes
    to one rank, or to the ranks that split every layer (`Ranks.alike`). `forward` runs the model on
    a batch that is on the device. With `in_step`, which a sharded model needs, all ranks call
    `forward` equally often; a rank with fewer batches runs a placeholder. `on_progress` receives
    the number of samples done and their share of all tokens, estimated from this rank's batches
    without waiting for the device. The numbers of tokens and sequences per sample are stored as
    "entries.token" and "entries.sequence". `axes` are the axes of the predictions.
    """
    kinds = getattr(samples, "kinds", None)
    batches = evaluation_batches(samples.lengths, max_tokens, group_size, kinds)
    num_groups = ranks.world_size // ranks.alike
    own_batches = range(ranks.rank // ranks.alike, len(batches), num_groups)
    parts = Parts(axes)
    done = np.cumsum([0, *map(len, batches)])
    tokens = np.cumsum([0, *(samples.lengths[batch].sum() for batch in batches)])
    on_progress(0, 0.0)
    for number in own_batches:
        on_host = samples.collate(batches[number])
        entries = entries_per_sample(on_host)
        batch = on_host.to(ranks.device)
        measured = measure(forward(batch), batch)
        counts = {
            f"entries.{axis}": torch.from_numpy(found)
            for axis, found in entries.items()
            if axis != "sample"
        }
        parts.add(number, measured | counts)
        next_number = min(number + num_groups, len(batches))
        on_progress(int(done[next_number]), tokens[next_number] / max(tokens[-1], 1))
    if in_step and len(own_batches) < -(-len(batches) // num_groups):
        forward(samples.placeholder().to(ranks.device))
    return ranks.gather_arrays(parts.arrays())[:: ranks.alike], batches


def check_axes(
    where: str, tensors: Mapping[str, Tensor], axes: Mapping[str, Axis], batch: Batch
) -> None:
    """Raise InputError for a tensor that `axes` lacks, or whose length differs from its axis's.

    `where` names the function that returned the tensors.
    """
    sizes = {"sample": len(batch.sample_ids)}
    if isinstance(batch, FlatBatch):
        sizes |= {"sequence": len(batch.sequence_lengths), "token": batch.num_tokens}
        defined = {axis: batch.owners_along(axis) for axis in set(axes.values()) - sizes.keys()}
        sizes |= {axis: len(found) for axis, found in defined.items() if found is not None}
    for name, tensor in tensors.items():
        if name not in axes:
            accepted = ", ".join(axes) or "none"
            raise InputError(f"{where}: '{name}' is not declared; accepted: {accepted}")
        axis = axes[name]
        if axis not in sizes:
            found = f"'{name}' is declared along {axis}s"
            raise InputError(f"{where}: {found}; accepted for plain data sets: sample")
        found_size = len(tensor) if tensor.ndim else 0
        if found_size != sizes[axis]:
            found = f"'{name}' has {found_size} entries"
            raise InputError(f"{where}: {found}; accepted: one for each {axis}, {sizes[axis]}")


class Parts:
    """One rank's measured tensors by name, batch by batch; copied to the host in bulk.

    Predictions along axes that a batch itself defines (`FlatBatch.owners_along`) may be absent in
    some batches.
    """

    def __init__(self, axes: Mapping[str, Axis] | None = None) -> None:
        defined = (name for name, axis in (axes or {}).items() if axis not in get_args(Axis))
        self._optional = {f"prediction.{name}" for name in defined}
        self._numbers: list[int] = []
        self._parts: list[dict[str, Tensor]] = []
        self._num_moved = 0
        """The number of parts whose tensors are in host memory."""
        self._bytes = 0
        """The bytes of the tensors that are still on the device."""

    def add(self, number: int, measured: dict[str, Tensor]) -> None:
        """Store the measurements of batch `number`.

        Raises InputError if the recipe's predictions have other names than in earlier batches.
        """
        known = set(self._parts[0]) if self._parts else set(measured)
        if other := (set(measured) ^ known) - self._optional:
            name = min(other).removeprefix("prediction.")
            raise InputError(f"recipe: predictions returned '{name}' for some batches only")
        self._numbers.append(number)
        self._parts.append(measured)
        self._bytes += sum(tensor.nbytes for tensor in measured.values() if not tensor.is_cpu)
        if self._bytes > MAX_BYTES_ON_DEVICE:
            self._move()

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> concatenated tensors.

        "batch" holds each batch's index, and "sizes" the number of its loss sums.
        """
        self._move()
        names = dict.fromkeys(name for part in self._parts for name in part)
        joined = {
            name: _joined(name, [part[name] for part in self._parts if name in part])
            for name in names
        }
        joined["batch"] = np.asarray(self._numbers, dtype=np.int64)
        if "sums" in names:
            joined["sizes"] = np.asarray([len(part["sums"]) for part in self._parts], np.int64)
        return joined

    def _move(self) -> None:
        for number in range(self._num_moved, len(self._parts)):
            self._parts[number] = {n: _on_host(t) for n, t in self._parts[number].items()}
        self._num_moved, self._bytes = len(self._parts), 0


def _joined(name: str, tensors: Sequence[Tensor]) -> np.ndarray:
    """The entries of all batches. Raises InputError if their shapes differ."""
    _check_shapes(name, tensors)
    return torch.cat(list(tensors)).numpy()


def _check_shapes(name: str, parts: Sequence[Tensor] | Sequence[np.ndarray]) -> None:
    """Raise InputError if the entries of batches, or of ranks, differ in shape."""
    shapes = list(dict.fromkeys(tuple(part.shape[1:]) for part in parts))
    if len(shapes) > 1:
        found = f"'{name.rpartition('.')[2]}' has entries of shape {shapes[0]} and {shapes[1]}"
        accepted = "equal shapes; preprocess_logits_for_metrics can change those of outputs"
        raise InputError(f"predictions: {found}; accepted: {accepted}")


def in_batch_order(gathered: Gathered, name: str) -> list[np.ndarray]:
    """One array of the quantity `name` for each batch, sorted by the batch's index."""
    parts: dict[int, np.ndarray] = {}
    for rank in gathered:
        if name in rank:
            cuts = np.cumsum(rank["sizes"])[:-1]
            parts |= dict(zip(rank["batch"].tolist(), np.split(rank[name], cuts), strict=True))
    return [parts[number] for number in sorted(parts)]


def columns_of(
    gathered: Gathered,
    batches: list[np.ndarray],
    num_samples: int,
    axes: Mapping[str, str],
    prefix: str,
) -> dict[str, Column]:
    """The columns that `axes` names, which were gathered as `prefix` + name, in sample order.

    For a column along an axis other than samples, the ranks also gathered the number of entries
    per sample, as "entries." + axis.
    """
    found: dict[str, Column] = {}
    for name, axis in axes.items():
        parts = [
            (np.concatenate([batches[n] for n in rank["batch"].tolist()]), rank)
            for rank in gathered
            if prefix + name in rank
        ]
        if not parts:
            continue
        _check_shapes(name, [rank[prefix + name] for _, rank in parts])
        offsets = None if axis == "sample" else _offsets(parts, num_samples, f"entries.{axis}")
        first = parts[0][1][prefix + name]
        size = num_samples if offsets is None else int(offsets[-1])
        values = np.empty((size, *first.shape[1:]), first.dtype)
        for samples, rank in parts:
            places = samples
            if offsets is not None:
                places, _ = ranges(offsets[samples], rank[f"entries.{axis}"])
            values[places] = rank[prefix + name]
        found[name] = Column(values, offsets)
    return found


def _offsets(
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]], num_samples: int, name: str
) -> np.ndarray:
    """[N + 1], the offsets of each sample's entries."""
    counts = np.zeros(num_samples, dtype=np.int64)
    for samples, rank in parts:
        counts[samples] = rank[name]
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])


def _on_host(tensor: Tensor) -> Tensor:
    """A copy in host memory, in a dtype that numpy supports."""
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
