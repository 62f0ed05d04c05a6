"""Rows of any kind to samples that are ready to train on."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer.data.batch import Samples, StackedSamples
from trainer.data.given_rows import as_table, check_kind, is_data_frame
from trainer.data.reading import BadRows
from trainer.data.tokens import tokenize
from trainer.errors import AnswerError, InputError
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
    bad_rows: BadRows | None = None,
    needs_answers: bool = True,
) -> Samples:
    """Samples of a table of rows, or of a map-style data set where there is only a loss.

    What already is `Samples` is taken as it is. `where` names the data set in errors. Where
    `needs_answers` is false, rows whose answers cannot be used are rows without answers.
    """
    if not is_rows(dataset):
        return dataset
    if isinstance(recipe, LossOnly):
        check_kind(dataset, where)
        if len(dataset) == 0:
            raise InputError(f"{where}: no rows")
        names = list(inspect.signature(type(model).forward).parameters)
        return StackedSamples(_plain_rows(dataset, where), names)
    if tokenizer is None:
        raise InputError(f"{where}: rows of text need a tokenizer")
    check_vocabulary(tokenizer, model)
    rows = as_table(dataset, where)
    if len(rows) == 0:
        raise InputError(f"{where}: no rows")

    def made(rows: "Dataset") -> Samples:
        return tokenize(
            rows,
            recipe,
            tokenizer,
            cache_dir=cache_dir,
            where=where,
            progress=progress,
            bad_rows=bad_rows,
        )

    try:
        return made(rows)
    except InputError as error:
        if needs_answers or not isinstance(error.__cause__, AnswerError):
            raise
        return made(rows.remove_columns(list(recipe.answer_columns)))


def _plain_rows(dataset: Any, where: str) -> Any:
    """Rows by their number, of a table's columns too, for a plain module."""
    if isinstance(dataset, Mapping) or is_data_frame(dataset):
        return as_table(dataset, where).with_format("torch")
    return dataset


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
