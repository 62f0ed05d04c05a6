"""Rows of any kind to samples that are ready to train on."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer.data.batch import Samples, StackedSamples
from trainer.data.drawing import generators_kept, seed_generators
from trainer.data.tokens import tokenize
from trainer.errors import InputError
from trainer.models.pretrained import PretrainedModel
from trainer.recipe import LossOnly, Recipe

if TYPE_CHECKING:
    from datasets import Dataset


def as_samples(
    dataset: Any,
    recipe: Recipe,
    tokenizer: Any,
    model: nn.Module,
    *,
    where: str,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Samples:
    """Samples of a table of rows, or of a map-style data set where there is only a loss.

    What already is `Samples` is taken as it is. `where` names the data set in errors.
    """
    if not is_rows(dataset):
        return dataset
    if len(dataset) == 0:
        raise InputError(f"{where}: no rows")
    if isinstance(recipe, LossOnly):
        return StackedSamples(dataset, list(inspect.signature(type(model).forward).parameters))
    if tokenizer is None:
        raise InputError(f"{where}: rows of text need a tokenizer")
    check_vocabulary(tokenizer, model)
    if not hasattr(dataset, "column_names"):
        from datasets import Dataset

        dataset = Dataset.from_list(all_rows(dataset))
    return tokenize(dataset, recipe, tokenizer, cache_dir=cache_dir, where=where, progress=progress)


def check_vocabulary(tokenizer: Any, model: nn.Module) -> None:
    """Raise InputError where the tokenizer has ids that the model has no embeddings for."""
    if isinstance(model, PretrainedModel) and len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"tokenizer: has {len(tokenizer)} tokens, the model {model.config.vocab_size} "
            "embeddings; accepted: a tokenizer of the model's size, or resize_token_embeddings"
        )


def is_rows(dataset: Any) -> bool:
    """Whether a data set still has to be made into samples."""
    return dataset is not None and not hasattr(dataset, "collate")


def as_table(rows: Any) -> "Dataset":
    """Rows as a table: as they are, or made from a list of dicts."""
    if hasattr(rows, "column_names"):
        return rows
    from datasets import Dataset

    return Dataset.from_list(all_rows(rows))


def all_rows(dataset: Any) -> list[Any]:
    """The rows of a data set, by number up to its length: iterating one may never end.

    Rows that are drawn at random are a function of their number.
    """
    if isinstance(dataset, (list, tuple)) or not hasattr(dataset, "__getitem__"):
        return list(dataset)
    rows = []
    with generators_kept():
        for number in range(len(dataset)):
            seed_generators(0, 0, number)
            rows.append(dataset[number])
    return rows
