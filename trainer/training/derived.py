"""Derived columns: outputs of the initial weights or of a teacher for every sample."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from trainer.data import cache
from trainer.data.batch import Batch, Samples
from trainer.data.in_memory_rows import set_key
from trainer.data.tokens import recipe_identity
from trainer.devices.precision import autocast
from trainer.devices.ranks import Ranks
from trainer.devices.sharding import calls_outside_training
from trainer.errors import InputError, NonFiniteSamples
from trainer.models.adapters.adapters_off import adapters_off
from trainer.models.adapters.merging import PARTS
from trainer.models.adapters.token_rows import ROWS
from trainer.models.outputs import Outputs
from trainer.models.pretrained import PretrainedModel
from trainer.models.sharded import is_sharded, local
from trainer.runs.ordered_json import ordered_json
from trainer.tasks.columns import Column
from trainer.tasks.recipe import Axis, Recipe
from trainer.training.gathering import check_axes, columns_of, gathered_batches
from trainer.training.memory import evaluation_memory
from trainer.training.setup import Setup
from trainer.training.teacher import free_teacher_memory, load_teacher
from trainer.training.token_budget import default_budget

log = logging.getLogger("trainer")

FORMAT = 1
"""The version of the cache's format; a change invalidates all entries."""
PREFIX = "derived."
ADAPTER_SUFFIXES = (*PARTS, ROWS, "token_ids", "slots")
"""Name suffixes of adapters' parameters and buffers; they are not part of the initial weights."""


@runtime_checkable
class TakesDerived(Protocol):
    """Samples that can hold derived columns."""

    def with_derived(self, columns: Mapping[str, np.ndarray], axes: Mapping[str, Axis]) -> Self:
        """The same samples, whose batches also have these columns as fields.

        A column along tokens or sequences concatenates the entries of all samples.
        """
        ...

    def num_entries(self, axis: Axis) -> int:
        """The number of tokens, sequences or samples."""
        ...


def with_derived(setup: Setup) -> Setup:
    """Add the recipe's derived columns to the training and evaluation samples of a setup.

    Every rank calls it, before a checkpoint is restored. The setup is returned unchanged if it has
    no training samples, if they already have the columns, or if the recipe derives none.
    """
    if not setup.recipe.derived or setup.train is None or is_derived(setup.train, setup.recipe):
        return setup
    with _deriving(setup) as start:

        def derived(samples: Samples, where: str) -> Samples:
            budget = default_budget(setup.settings, samples, setup.ranks.device)
            return start.derive(samples, where, budget)

        sets = {name: derived(each, set_key(name)) for name, each in setup.evaluation.items()}
        return replace(setup, train=derived(setup.train, "dataset.train"), evaluation=sets)


def comparable(setup: Setup, samples: Samples, where: str) -> Samples:
    """Add derived columns to evaluation samples, if the model that derives them is available.

    The model is available if the recipe names a teacher, or if only LoRA adapters were trained, so
    that the model still has its initial weights. Otherwise evaluations outside of training leave
    out the loss, with a warning.
    """
    recipe, model = setup.recipe, setup.model
    if not recipe.derived or is_derived(samples, recipe):
        return samples
    adapted = isinstance(model, PretrainedModel) and model.lora is not None and not model.lora.whole
    if adapted or recipe.derived_by is not None:
        budget = default_budget(setup.settings, samples, setup.ranks.device)
        with _deriving(setup) as start:
            return start.derive(samples, where, budget)
    if setup.ranks.is_main:
        log.warning(
            "%s: the loss is not computed: it needs %s of the weights before training, which this "
            "model no longer has (a model with LoRA adapters would have them)",
            where,
            ", ".join(recipe.derived),
        )
    return samples


@contextmanager
def _deriving(setup: Setup) -> "Iterator[StartingWeights]":
    """Yield the model that derives columns: the setup's own, or a teacher, freed on exit."""
    path = setup.recipe.derived_by
    if path is None:
        yield StartingWeights.of(setup)
        return
    model = load_teacher(path, setup.recipe, setup.tokenizer, setup.ranks)
    start = StartingWeights.of(setup, model)
    del model
    try:
        yield start
    finally:
        start.forget()
        free_teacher_memory()


def is_derived(samples: Samples, recipe: Recipe) -> bool:
    """Whether the samples' batches have the recipe's derived columns."""
    batch = samples.placeholder()
    return all(name in batch for name in recipe.derived)


class StartingWeights:
    """A model before training, which derives a recipe's columns. Every rank creates an instance.

    The columns of a sample are the same for any number of ranks, since batches depend only on the
    data set and the token budget. A different budget may change them by rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        ranks: Ranks,
        precision: str,
        cache_dir: Path | None,
        on_progress: Callable[[int, int, float], None] = lambda done, total, share: None,
    ) -> None:
        """`on_progress` receives three numbers: samples done, all samples, share of tokens done."""
        self.model = model
        self.recipe = recipe
        self.ranks = ranks
        self.precision = precision
        self.cache_dir = cache_dir
        self.on_progress = on_progress

    @classmethod
    def of(cls, setup: Setup, teacher: nn.Module | None = None) -> "StartingWeights":
        """The instance for a Trainer's initial weights or, if `teacher` is given, for its weights.

        The Trainer must not have trained any weights except adapters.
        """

        def on_progress(done: int, total: int, share: float) -> None:
            if setup.ranks.is_main:
                for callback in setup.callbacks:
                    callback.on_evaluation_batch(done, total, share)

        return cls(
            setup.model if teacher is None else teacher,
            setup.recipe,
            ranks=setup.ranks,
            precision=setup.placement.precision,
            cache_dir=setup.context.data.cache_dir,
            on_progress=on_progress,
        )

    def forget(self) -> None:
        """Drop the reference to the model."""
        self.model = nn.Module()

    def derive(self, samples: Samples, where: str, max_tokens: int) -> Samples:
        """Return the samples with the recipe's derived columns; unchanged if the recipe has none.

        The columns are cached. The cache key covers the weights, the recipe, the data, the
        precision, the type of device and torch's version. A batch has at most `max_tokens` tokens;
        error messages call the samples `where`. Raises NonFiniteSamples if a value is not finite.
        """
        axes = self.recipe.derived
        if not axes:
            return samples
        if not isinstance(samples, TakesDerived):
            found = f"a {type(samples).__name__} cannot hold derived columns"
            raise InputError(f"{where}: {found}; accepted: rows, or samples with `with_derived`")
        folder = self._folder(samples)
        columns = self._loaded(samples, folder)
        if columns is None:
            columns = self._computed(samples, where, max_tokens)
            self._store(samples, folder, columns)
        return samples.with_derived(columns, axes)

    def _computed(self, samples: Samples, where: str, max_tokens: int) -> dict[str, np.ndarray]:
        with self._inference_mode(max_tokens):
            gathered, batches = gathered_batches(
                self._forward,
                self._measure,
                samples,
                max_tokens=max_tokens,
                group_size=self.recipe.group_size,
                ranks=self.ranks,
                in_step=is_sharded(self.model),
                on_progress=lambda done, share: self.on_progress(done, len(samples), share),
            )
        columns = columns_of(gathered, batches, len(samples), self.recipe.derived, PREFIX)
        if len(bad := _non_finite(columns, len(samples))):
            raise NonFiniteSamples(where, bad.tolist(), len(samples))
        return {name: column.values for name, column in columns.items()}

    @contextmanager
    def _inference_mode(self, max_tokens: int) -> Iterator[None]:
        """Context manager: the model in eval mode, without its adapters and without gradients."""
        training = self.model.training
        self.model.eval()
        try:
            with (
                torch.no_grad(),
                adapters_off(self.model),
                calls_outside_training(self.model),
                evaluation_memory(max_tokens),
            ):
                yield
        finally:
            self.model.train(training)

    def _forward(self, batch: Batch) -> object:
        with autocast(self.precision, self.ranks.device):
            return self.model(**batch.inputs())

    def _measure(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        recipe = self.recipe
        where = f"recipe: {type(recipe).__name__}.derive"
        tensors = recipe.derive(outputs, batch)
        check_axes(where, tensors, recipe.derived, batch)
        if missing := [name for name in recipe.derived if name not in tensors]:
            raise InputError(f"{where}: returned no '{missing[0]}', which `derived` declares")
        return {PREFIX + name: tensor for name, tensor in tensors.items()}

    # --- the cache ---

    def _loaded(self, samples: TakesDerived, folder: Path | None) -> dict[str, np.ndarray] | None:
        """The main process's cache entry, on every rank, even if the rank cannot read the cache."""
        found = None if folder is None else cache.load(folder, self._check(samples))
        known = self.ranks.gather(found is not None)
        if not known[0]:
            return None
        if not all(known):
            own = found if self.ranks.is_main and found is not None else {}
            found = self.ranks.gather_arrays(own)[0]
        return found

    def _store(
        self, samples: TakesDerived, folder: Path | None, columns: Mapping[str, np.ndarray]
    ) -> None:
        with self.ranks.main_first():
            if folder is not None and self.ranks.is_main:
                cache.store(folder, columns, self._check(samples))

    def _folder(self, samples: Samples) -> Path | None:
        """The folder of these samples' cache entry; None if the columns are not cached."""
        recipe = recipe_identity(self.recipe)
        if self.cache_dir is None or recipe is None:
            return None
        versions = [FORMAT, torch.__version__, self.ranks.device.type, self.precision]
        key = json.dumps([versions, recipe, self._digest, samples.fingerprint])
        return self.cache_dir / hashlib.sha256(key.encode()).hexdigest()

    def _check(self, samples: TakesDerived) -> cache.Check:
        sizes = {name: samples.num_entries(axis) for name, axis in self.recipe.derived.items()}

        def fault(arrays: Mapping[str, np.ndarray]) -> str | None:
            found = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
            return None if found == sizes else f"it has {found}, not {sizes} entries"

        return fault

    @cached_property
    def _digest(self) -> str:
        """A digest of the config and of all weights except those of adapters.

        For a sharded model, the digests of all ranks' shards are combined, so a run with another
        number of ranks derives the columns again.
        """
        config = self.model.config.to_dict() if isinstance(self.model, PretrainedModel) else {}
        digest = hashlib.sha256(ordered_json(config).encode())
        for name, tensor in chain(self.model.named_parameters(), self.model.named_buffers()):
            if name.endswith(ADAPTER_SUFFIXES):
                continue
            share = local(tensor).detach().reshape(-1).contiguous().cpu()
            digest.update(f"{name} {share.dtype} {tuple(tensor.shape)} ".encode())
            if share.numel():
                digest.update(share.view(torch.uint8).numpy().data)
        parts = self.ranks.gather(digest.hexdigest())
        return " ".join(parts) if is_sharded(self.model) else parts[0]


def _non_finite(columns: Mapping[str, Column], num_samples: int) -> np.ndarray:
    """The indices of the samples with a value that is not finite."""
    bad = np.zeros(num_samples, dtype=bool)
    for column in columns.values():
        if column.values.dtype.kind == "f":
            finite = np.isfinite(column.values).reshape(len(column.values), -1).all(1)
            num_before = np.concatenate([[0], np.cumsum(~finite)])
            offsets = np.arange(num_samples + 1) if column.offsets is None else column.offsets
            bad |= np.diff(num_before[offsets]) > 0
    return np.flatnonzero(bad)
