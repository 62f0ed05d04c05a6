"""The parts of a run that every job needs: its model and its tokenizer."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from trainer import hub
from trainer.agreement import learn
from trainer.data.reading import BadRows
from trainer.data.rows import Files, Splits
from trainer.data.samples import check_vocabulary
from trainer.errors import InputError
from trainer.models.adapter_files import model_home, tokenizer_home
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.config import read_config
from trainer.models.config_entries import COMMON
from trainer.models.family import find_family
from trainer.optim import freeze
from trainer.recipe import Head, Recipe
from trainer.run import ModelSettings, Run
from trainer.tokenizer import Tokenizer

log = logging.getLogger("trainer")

ROLES = ("bos", "eos", "pad", "cls", "sep")
"""Special tokens whose ids a model's config may have."""


def load_data(run: Run) -> tuple[Recipe, Tokenizer, Splits]:
    """The recipe completed by the training rows, the tokenizer, and the rows themselves."""
    recipe = run.recipe
    assert recipe is not None
    splits = load_splits(run)
    train = splits.train
    if train is None:
        raise InputError("dataset.train: nothing to train on; give dataset.train or dataset.path")
    tokenizer = load_tokenizer(run, lambda: recipe.texts(train))
    # of rows that we held out ourselves no label is refused; the user's own sets must fit
    split_here = getattr(run.dataset, "validation", None) is None
    return learn(recipe, train, splits.validation.values() if split_here else ()), tokenizer, splits


def load_splits(run: Run) -> Splits:
    """The rows of the run's data set; what is held out is stratified by the recipe's label."""
    source = run.dataset
    columns = run.recipe.answer_columns if run.recipe is not None else ()
    if getattr(type(source), "load", None) is Files.load and len(columns) == 1:
        return source.load(columns[0])
    return source.load()  # a subclass may have a `load` of its own, which takes no argument


def load_model(
    settings: ModelSettings,
    head: Head,
    seed: int,
    vocabulary: Tokenizer | None = None,
    strategy: str = "ddp",
) -> Any:
    """The model that the settings name, with the head that the recipe needs, in fp32.

    What is not in its files is drawn from `seed`; a model from scratch has as many embeddings, and
    the special ids, of the `vocabulary`, if one that is not its own is given, unless the settings
    say others. Where a `strategy` may shard it, the Trainer reads or draws its weights. Raises
    InputError for files that do not fit.
    """
    import torch

    overrides = {**settings.config, **head.config}
    # adapters are put beside weights that are there
    lazily = strategy != "ddp" and settings.lora.rank is None
    torch.manual_seed(seed)
    if settings.from_scratch:
        config = _scratch_config(settings, overrides, vocabulary)
        model = TASKS[head.task].from_config(config, lazily=lazily)
    else:
        folder = hub.find(_path(settings), revision=settings.revision, what="model.path")
        if settings.sha256 is not None:
            file = folder if folder.is_file() else folder / "model.safetensors"
            hub.check_digest(file, settings.sha256)
        with told_elsewhere("trainer.fresh"):  # by the start summary
            kind = TASKS[head.task]
            model = kind.from_pretrained(
                folder, new_head=settings.new_head, lazily=lazily, **overrides
            )
    _adapt(model, settings)
    if settings.freeze:
        freeze(model, settings.freeze)
    return model


def _adapt(model: Any, settings: ModelSettings) -> None:
    """Give a model the adapters that the settings ask for."""
    lora = settings.lora
    if lora.rank is not None:
        if settings.from_scratch or model.lora is not None:
            found = "random weights" if settings.from_scratch else "adapters already"
            accepted = "accepted: model.lora.rank=null, or a model that was trained whole"
            raise InputError(f"model.lora: the model has {found}; {accepted}")
        model.add_lora(lora, _path(settings), settings.revision)
    elif lora.merge:
        if model.lora is None:
            raise InputError("model.lora.merge: the model has no adapters; give model.lora.rank")
        model.lora = replace(model.lora, merge=True)


def load_generator(run: Run) -> tuple[Any, Tokenizer, list[int]]:
    """The language model on its device, its tokenizer, and its end tokens.

    It is in `trainer.precision`; auto is fp32 on a CPU, since the logits of bf16 have ties.
    """
    import torch

    from trainer.generation.ends import end_ids
    from trainer.precision import DTYPES, resolve_precision

    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    wanted = run.trainer.precision
    wanted = "fp32" if wanted == "auto" and device.type == "cpu" else wanted
    precision = resolve_precision(wanted, device)
    tokenizer = load_tokenizer(run)
    model = load_model(run.model, Head("causal_lm"), run.seed)
    check_vocabulary(tokenizer, model)
    ends = end_ids(model, tokenizer)
    _tell_recommended(model, run)
    return model.to(device, DTYPES[precision]).eval(), tokenizer, ends


def _tell_recommended(model: Any, run: Run) -> None:
    """Log what the makers recommend for generation and this run does otherwise."""
    from trainer.models.generation_config import not_followed, recommended

    own = {n: v for n, v in recommended(model).items() if getattr(run.generation, n) != v}
    if own:
        settings = " ".join(f"generation.{name}={value}" for name, value in own.items())
        log.warning("generation_config.json recommends otherwise: %s follows it", settings)
    if others := not_followed(model):
        log.warning("generation_config.json: not followed here: %s", ", ".join(others))


def load_tokenizer(run: Run, texts: Callable[[], Iterable[str]] | None = None) -> Tokenizer:
    """The tokenizer that the run names, the model's own, or a new one that is learnt of `texts`."""
    tokenizer = _named_tokenizer(run, texts)
    names = tokenizer.model_input_names
    if "token_type_ids" in names and not _has_token_types(run.model):
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    return tokenizer


def _named_tokenizer(run: Run, texts: Callable[[], Iterable[str]] | None) -> Tokenizer:
    settings = run.tokenizer
    path, revision = settings.path, settings.revision
    if settings.train:
        if texts is None:
            raise InputError("tokenizer.train: needs training rows; accepted: job=train")
        like = path and Tokenizer.from_pretrained(path, revision=revision)
        if like:
            return like.train_new_from_iterator(texts(), settings.vocab_size)
        return Tokenizer.train(texts(), vocab_size=settings.vocab_size, kind=settings.kind)
    if path is None:
        path, revision = tokenizer_home(_path(run.model), run.model.revision)
    return Tokenizer.from_pretrained(path, revision=revision)


def _has_token_types(settings: ModelSettings) -> bool:
    """Whether the model that the settings name tells two texts apart."""
    entries = _config_entries(settings)[0] | dict(settings.config)
    family = find_family(entries.get("model_type"))
    for source in (entries, family.defaults, family.constants):
        if isinstance(types := source.get("type_vocab_size"), int):
            return types > 1
    return False


def _path(settings: ModelSettings) -> str:
    if settings.path is None:
        raise InputError(
            "model.path: null; accepted: a path, or with model.from_scratch=true and a model_type "
            "in model.config a tokenizer of its own (tokenizer.path or tokenizer.train=true)"
        )
    return settings.path


def _scratch_config(
    settings: ModelSettings, overrides: dict[str, Any], vocabulary: Tokenizer | None
) -> AutoConfig:
    """The config of a model from scratch: of its path, or of what is overridden alone."""
    entries, where = _config_entries(settings)
    if settings.path is None:
        overrides.pop("model_type")
    if vocabulary is not None:
        known = {*COMMON, *find_family(entries.get("model_type")).defaults}
        ids = {f"{role}_token_id": getattr(vocabulary, f"{role}_token_id") for role in ROLES}
        ids = {name: number for name, number in ids.items() if name in known}
        overrides = {"vocab_size": len(vocabulary), **ids, **overrides}
    return AutoConfig(entries, overrides, where=where)


def _config_entries(settings: ModelSettings) -> tuple[dict[str, Any], str]:
    """The entries of the config that a model starts from, and where they are."""
    if settings.path is not None:
        folder = model_home(hub.find(settings.path, revision=settings.revision, what="model.path"))
        return read_config(folder), str(folder / "config.json")
    if "model_type" not in settings.config:
        raise InputError("model.config.model_type: nothing given; accepted: a family, as llama")
    return {"model_type": settings.config["model_type"]}, "model.config"


def fetch_model(run: Run) -> None:
    """Have the model's folder, if there is one, on this machine, and of an adapter its base's."""
    if run.model.path is not None:
        model_home(hub.find(run.model.path, revision=run.model.revision, what="model.path"))


def fill_cache(
    recipe: Recipe, tokenizer: Tokenizer, tables: Mapping[str, Any], bad_rows: BadRows
) -> None:
    """Tokenize these rows into the cache; the names are those that errors give them."""
    from trainer.data.tokens import default_cache_dir, tokenize

    for where, rows in tables.items():
        cache_dir = default_cache_dir()
        tokenize(
            rows,
            recipe,
            tokenizer,
            cache_dir=cache_dir,
            where=where,
            progress=True,
            bad_rows=bad_rows,
        )


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
