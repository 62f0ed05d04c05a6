"""The safetensors export: a model's folder with the weights in another data type."""

from pathlib import Path

import torch

from trainer.devices.precision import DTYPES
from trainer.errors import NumericsError
from trainer.export.card import Card, Check
from trainer.export.differences import distance, outputs_of
from trainer.export.folder import publish_export
from trainer.export.source import Source
from trainer.models import auto
from trainer.models.model import Model
from trainer.models.pretrained import PretrainedModel
from trainer.terminal.activity import doing

USAGE = """
from tempering import AutoTokenizer, {name}  # or from transformers

tokenizer = AutoTokenizer.from_pretrained(".")
model = {name}.from_pretrained(".", dtype="auto")
"""


def export_weights(source: Source, target: Path, dtype: str) -> Card:
    """Write the folder, read it again, and publish it if every tensor was written correctly.

    The card states how much rounding the weights changes the outputs.
    """
    model = source.model
    before = outputs_of(model)
    model.to(DTYPES[dtype])
    change = distance(before, outputs_of(model))
    card = Card(source.path, "safetensors", dtype, model.architecture, usage(model))
    card.notes.append(f"Rounding the weights to {dtype} changes the outputs by {change:.1e}.")

    def fill(folder: Path) -> None:
        doing("writing the folder")
        source.write_whole(folder)
        _check_tensors(folder, model)
        check = Check("every tensor, read again", "safetensors", "equal", "equal")
        card.checks.append(check)

    publish_export(target, card, fill, sum(t.nbytes for t in model.state_dict().values()))
    return card


def usage(model: Model) -> str:
    """The text of a program that loads the model from its folder."""
    classes = {name: getattr(auto, name) for name in auto.__all__ if name.startswith("AutoModel")}
    name = next((n for n, kind in classes.items() if kind.task == model.task), "AutoModel")
    return USAGE.format(name=name)


def _check_tensors(folder: Path, model: PretrainedModel) -> None:
    """Raise NumericsError unless the folder's tensors equal the model's bit for bit."""
    reread = type(model).from_pretrained(folder, dtype="auto").state_dict()
    for key, tensor in model.state_dict().items():
        if reread[key].dtype != tensor.dtype or not torch.equal(reread[key], tensor):
            raise NumericsError(f"job=export: {key} is not what was written; nothing was kept")
