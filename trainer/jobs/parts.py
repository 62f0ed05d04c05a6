"""The parts of a run that every job needs: its model and its tokenizer."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainer import hub
from trainer.models.auto import TASKS, AutoConfig
from trainer.optim import freeze
from trainer.recipe import Head, Recipe
from trainer.run import ModelSettings, Run
from trainer.tokenizer import Tokenizer


def load_model(settings: ModelSettings, head: Head, seed: int) -> Any:
    """The model that the settings name, with the head that the recipe needs, in fp32.

    What is not in its files is drawn from `seed`. Raises InputError for files that do not fit.
    """
    import torch

    folder = hub.find(settings.path, revision=settings.revision, what="model.path")
    if settings.sha256 is not None:
        hub.check_digest(folder / "model.safetensors", settings.sha256)
    overrides = {**settings.config, **head.config}
    torch.manual_seed(seed)
    if settings.from_scratch:
        model = TASKS[head.task].from_config(AutoConfig.from_pretrained(folder, **overrides))
    else:
        with told_elsewhere("trainer.fresh"):  # by the start summary
            kind = TASKS[head.task]
            model = kind.from_pretrained(folder, new_head=settings.new_head, **overrides)
    if settings.freeze:
        freeze(model, settings.freeze)
    return model


def load_tokenizer(run: Run) -> Tokenizer:
    """The tokenizer that the run names, or the model's own."""
    if run.tokenizer.path is not None:
        return Tokenizer.from_pretrained(run.tokenizer.path, revision=run.tokenizer.revision)
    return Tokenizer.from_pretrained(run.model.path, revision=run.model.revision)


def fetch_model(run: Run) -> None:
    """Have the model's folder on this machine."""
    hub.find(run.model.path, revision=run.model.revision, what="model.path")


def fill_cache(run: Run, recipe: Recipe, tables: Mapping[str, Any]) -> None:
    """Tokenize these rows into the cache; the names are those that errors give them."""
    from trainer.data.tokens import default_cache_dir, tokenize

    tokenizer, cache_dir = load_tokenizer(run), default_cache_dir()
    for where, rows in tables.items():
        tokenize(rows, recipe, tokenizer, cache_dir=cache_dir, where=where, progress=True)


@contextmanager
def told_elsewhere(logger_name: str) -> Iterator[None]:
    """Within it a logger's warnings are not printed."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
