"""Saves and loads transformers and PEFT models with the models' own methods."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.models.formats.saving import remove_earlier_save

PIECE = 64 << 20
"""The number of bytes that are copied at a time."""
ADAPTER_CONFIG = "adapter_config.json"
ERRORS = (RuntimeError, ValueError, KeyError, OSError)
"""The exceptions that transformers and PEFT raise for files that do not match the model."""


def saves_itself(model: nn.Module) -> bool:
    """Whether a model belongs to transformers or is wrapped by PEFT."""
    return is_of_transformers(model) or is_of_peft(model)


def is_of_transformers(thing: object) -> bool:
    """Whether the object is an instance of a transformers class."""
    return any(kind.__module__.split(".")[0] == "transformers" for kind in type(thing).__mro__)


def is_of_peft(model: nn.Module) -> bool:
    """Whether PEFT wraps the model; if so, the saved folder contains only the adapters."""
    peft = any(kind.__module__.split(".")[0] == "peft" for kind in type(model).__mro__)
    return peft and hasattr(model, "peft_config")


def write_self_saving(
    directory: Path, saved: Any, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the files of `saved.save_pretrained` with the functions of `trainer.checkpoint.files`.

    `state` (only for transformers models) holds weights to write instead of the model's own.
    The files are first written to a temporary folder, so the disk space is needed twice. Other
    weights that an earlier save left in the folder are removed, since loaders may prefer them.
    """
    options = {} if state is None else {"state_dict": dict(state)}
    written = set()
    with tempfile.TemporaryDirectory(prefix=".tmp-saved-", dir=_existing(directory)) as folder:
        with files.operation("write", directory), quiet():
            saved.save_pretrained(folder, **options)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file() and file.name != "README.md":  # PEFT writes an empty model card
                target = directory / file.relative_to(folder)
                files.make_folder(target.parent)
                files.write_pieces(target, _pieces(file))
                written.add(target.name)
    if isinstance(saved, nn.Module) and is_of_transformers(saved):
        remove_earlier_save(directory, written)


def read_self_saving(directory: Path, model: nn.Module) -> None:
    """Load the weights that `write_self_saving` wrote, bit for bit.

    Raises InputError for weights of another model.
    """
    try:
        if is_of_peft(model):
            _read_adapters(directory, model)
            return
        model.load_state_dict(read_saved(directory, model))
    except ERRORS as error:
        raise _unfit(directory, model, error) from None


def read_saved(directory: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read the state dict that a model of the same transformers class saved, on the CPU.

    Raises InputError for files that this class cannot read.
    """
    widest = torch.float64 if torch.float64 in _types(model) else torch.float32
    kind: Any = type(model)
    try:
        with quiet():
            saved, info = kind.from_pretrained(
                str(directory), dtype=widest, local_files_only=True, output_loading_info=True
            )
    except ERRORS as error:
        raise _unfit(directory, model, error) from None
    if info["missing_keys"]:  # transformers has initialized these with random numbers
        raise InputError(f"{directory}: tensor {min(info['missing_keys'])} is missing")
    state: dict[str, Tensor] = saved.state_dict()
    return state


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager in which transformers logs only errors, and shows no progress bars."""
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


def _unfit(directory: Path, model: nn.Module, error: Exception) -> InputError:
    found = " ".join(str(error).split())[:200]
    return InputError(f"{directory}: not the weights of this {type(model).__name__}: {found}")


def _read_adapters(directory: Path, model: nn.Module) -> None:
    import peft

    weights = peft.load_peft_weights(str(directory), device="cpu")
    found: Any = peft.set_peft_model_state_dict(model, weights)
    if found.unexpected_keys:
        raise KeyError(f"unexpected adapter weights, {found.unexpected_keys[0]}")


def _types(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}


def _existing(directory: Path) -> Path:
    """The folder itself or its nearest parent that exists."""
    return next(each for each in (directory, *directory.parents) if each.is_dir())


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            yield piece
