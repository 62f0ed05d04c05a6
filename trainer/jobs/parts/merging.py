"""Merging: merges a run's adapter into the weights, writes the model, and compares outputs."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError, NumericsError
from trainer.runs.run import Run
from trainer.terminal.activity import doing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.models.model import Model

CLOSE = 1e-4
"""The maximum norm of the difference between two outputs, relative to the outputs' norm."""
Note = Callable[[Path, "Model", float], None]
"""Adds files to the folder of a merged model. The arguments are the folder, the model, and the
relative change of the outputs due to rounding."""


def write_merged(
    run: Run, target: Path, dtype: "torch.dtype | None" = None, note: Note | None = None
) -> "tuple[torch.dtype, float]":
    """Write the merged model to `target`, if it reproduces the outputs of the adapted model.

    The weights are rounded to `dtype`, by default the data type of the base model's files. `note`
    may add files to the folder. Returns the data type, and the relative change of the outputs due
    to rounding. Raises InputError for a model without an adapter, and NumericsError if the outputs
    differ.
    """
    from trainer.export.differences import distance, outputs_of

    _check_adapter(run, target)
    dtype = _dtype_of_base(run) if dtype is None else dtype
    model = _adapted(run)
    doing("merging")
    wanted = outputs_of(model)
    model.merge_lora()
    _check(run, wanted, outputs_of(model), "merging changes the outputs")
    model.to(dtype)
    rounded = outputs_of(model)
    change = distance(wanted, rounded)

    def noted(folder: Path) -> None:
        if note is not None:
            note(folder, model, change)

    _publish(run, model, target, rounded, noted)
    return dtype, change


def _check_adapter(run: Run, target: Path) -> None:
    """Raise InputError unless model.path is an adapter, and `target` is not its folder.

    `target` must not be the folder of the adapter's base model, either.
    """
    from trainer import hub
    from trainer.models.adapters.adapter_files import read_adapter

    if run.model.from_scratch or run.model.new_head or run.model.lora.adds_adapters:
        found = "model.from_scratch, model.new_head or new adapters (model.lora)"
        raise InputError(f"job={run.job}: found {found}; accepted: the adapter in model.path alone")
    assert run.model.path is not None
    folder = hub.find(run.model.path, revision=run.model.revision, what="model.path")
    saved = read_adapter(folder) if folder.is_dir() else None
    if saved is None:
        accepted = "accepted: a folder with adapter_config.json"
        raise InputError(f"model.path: {run.model.path} is not an adapter; {accepted}")
    if run.model.quantization is not None and not saved.needs_rounding:
        found = f"found {run.model.quantization}, and adapters are merged into the original weights"
        raise InputError(f"model.quantization: {found}; accepted: null")
    for what, there in {"model.path": folder, "the adapter's base": saved.base_folder()}.items():
        if os.path.realpath(target) == os.path.realpath(there):
            raise InputError(f"output.path: found {what}; accepted: another folder")


def _dtype_of_base(run: Run) -> "torch.dtype":
    """The data type of the weights in the base model's files; reads at most one tensor."""
    from trainer import hub
    from trainer.interop.padded_loading import saved_dtype
    from trainer.jobs.parts.data import warnings_hidden
    from trainer.jobs.parts.model_config import is_foreign
    from trainer.models.adapters.adapter_files import model_home
    from trainer.models.formats.loading import Pending
    from trainer.models.of_task import model_class
    from trainer.models.pretrained import PretrainedModel

    assert run.model.path is not None and run.recipe is not None
    home = model_home(hub.find(run.model.path, revision=run.model.revision, what="model.path"))
    if is_foreign(run.model):
        return saved_dtype(home)
    kind = model_class(run.recipe.head.task)
    assert issubclass(kind, PretrainedModel)
    with warnings_hidden("trainer.fresh"):
        base = kind.from_pretrained(
            home, dtype="auto", lazily=True, new_head=True, **run.recipe.head.config
        )
    assert isinstance(base.pending, Pending)
    return base.pending.dtype


def _adapted(run: Run) -> "Model":
    """The base model with its adapter, not merged, in fp32 and in evaluation mode."""
    from trainer.jobs.parts.model import load_model
    from trainer.models.model import Model

    assert run.recipe is not None
    settings = replace(run.model, freeze=[], lora=replace(run.model.lora, merge=False))
    model = load_model(settings, run.recipe.head, run.seed)
    assert isinstance(model, Model)
    return model.eval()


def _publish(
    run: Run, model: "Model", target: Path, outputs: "Tensor", note: Callable[[Path], None]
) -> None:
    """Write the model to a temporary folder, reload it, compare outputs, and rename the folder."""
    from trainer.checkpoint import files
    from trainer.checkpoint.publish import publish
    from trainer.export.differences import outputs_of
    from trainer.jobs.parts.processor import load_processor
    from trainer.runs.saving import write_model

    recipe = run.recipe
    assert recipe is not None
    processor = load_processor(run, recipe)

    def fill(folder: Path) -> None:
        doing("writing the folder")
        write_model(folder, model, processor, recipe, shipped=True)
        again = outputs_of(_read_again(model, folder))
        _check(run, outputs, again, "the written model has other outputs")
        note(folder)

    files.make_folder(target.parent, synced=True)
    size = sum(p.nbytes for p in model.parameters())
    publish(target, fill, facts={"merged": run.model.path}, expected_bytes=size)


def _read_again(model: "Model", folder: Path) -> "Model":
    from trainer.interop.padded_loading import load_padded
    from trainer.models.pretrained import PretrainedModel

    if isinstance(model, PretrainedModel):
        return type(model).from_pretrained(folder, dtype=model.dtype)
    return load_padded(folder, model.task, {}).to(model.dtype)


def _check(run: Run, wanted: "Tensor", found: "Tensor", what: str) -> None:
    from trainer.export.differences import distance

    change = distance(wanted, found)
    if not change <= CLOSE:
        raise NumericsError(f"job={run.job}: {what}, by {change:.2g} of them; nothing was written")
