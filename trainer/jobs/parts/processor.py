"""Processor of a run: its tokenizer, or the recipe's processor for inputs other than text."""

from collections.abc import Callable, Iterable

from trainer import hub
from trainer.errors import InputError
from trainer.interop.padded_loading import foreign_config
from trainer.jobs.parts.model_config import config_entries, is_foreign, model_path
from trainer.models.adapters.adapter_files import model_home, tokenizer_home
from trainer.models.family import find_family
from trainer.runs.run import ModelSettings, Run
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer

Texts = Callable[[], Iterable[str]]


def load_processor(run: Run, recipe: Recipe, texts: Texts | None = None) -> Processor | None:
    """The processor for the recipe's inputs: the tokenizer for texts, else the recipe's own."""
    if recipe.reads_text:
        return load_tokenizer(run, texts)
    if run.tokenizer.path is not None or run.tokenizer.train:
        name = type(recipe).__name__
        raise InputError(f"tokenizer: {name} reads no text; accepted: tokenizer=default")
    if run.model.from_scratch or run.model.path is None:
        return recipe.load_processor(None)
    folder = hub.find(run.model.path, revision=run.model.revision, what="model.path")
    return recipe.load_processor(folder)


def load_tokenizer(run: Run, texts: Texts | None = None) -> Tokenizer:
    """The tokenizer that the settings name, the model's own, or a new one trained on `texts`."""
    tokenizer = _named_tokenizer(run, texts)
    names = tokenizer.model_input_names
    if "token_type_ids" in names and not _has_token_types(run.model):
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    return tokenizer


def _named_tokenizer(run: Run, texts: Texts | None) -> Tokenizer:
    settings = run.tokenizer
    path, revision = settings.path, settings.revision
    if settings.train:
        if texts is None:
            raise InputError("tokenizer.train: needs training rows; accepted: job=train")
        if path:
            template = Tokenizer.from_pretrained(path, revision=revision)
            return template.train_new_from_iterator(texts(), settings.vocab_size)
        return Tokenizer.train(texts(), vocab_size=settings.vocab_size, kind=settings.kind)
    if path is None:
        path, revision = tokenizer_home(model_path(run.model), run.model.revision)
    return Tokenizer.from_pretrained(path, revision=revision)


def _has_token_types(settings: ModelSettings) -> bool:
    """Whether the model distinguishes the first text of a pair from the second."""
    if is_foreign(settings):
        path, revision = model_path(settings), settings.revision
        folder = model_home(hub.find(path, revision=revision, what="model.path"))
        config = foreign_config(folder, settings.config, settings.trust_remote_code)
        types = getattr(config, "type_vocab_size", None)
        return isinstance(types, int) and types > 1
    entries = config_entries(settings)[0] | dict(settings.config)
    family = find_family(entries.get("model_type"))
    for source in (entries, family.defaults, family.constants):
        if isinstance(types := source.get("type_vocab_size"), int):
            return types > 1
    return False
