"""Preprocessing: turns a data set of any supported kind into samples to train on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from trainer.data.batch import FlatBatch, Samples
from trainer.data.collated_tokens import collate_with
from trainer.data.collators import Collator, PaddingCollator
from trainer.data.in_memory_rows import as_table, check_kind, is_data_frame, is_stream
from trainer.data.mixed_rows import MixedRows, source_key
from trainer.data.mixture_samples import MixtureSamples
from trainer.data.plain_rows import input_names_of, named
from trainer.data.read_options import BadRows
from trainer.data.row_locations import location_of
from trainer.data.row_seeds import preserve_rng_state
from trainer.data.sample_rows import SampleRows
from trainer.data.stacked_samples import StackedSamples, has_tokens
from trainer.data.streams import RowStream, StreamRows, TokenStream
from trainer.data.task_samples import TaskSamples
from trainer.data.tokenized_rows import is_tokenized
from trainer.data.tokens import Augment, TokenTable, tokenize
from trainer.errors import AnswerError, InputError, RowError
from trainer.interop.padded_model import PaddedModel
from trainer.models.pretrained import PretrainedModel
from trainer.tasks.plain_recipes import PlainRecipe
from trainer.tasks.processor import Processor, SampleContext
from trainer.tasks.recipe import Recipe
from trainer.tasks.source_recipes import loss_identity, naming_source, own_recipe
from trainer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from datasets import Dataset


def as_samples(
    dataset: Any,
    recipe: Recipe,
    processor: Processor | None,
    model: nn.Module,
    *,
    where: str,
    cache_dir: Path | None = None,
    progress: bool = False,
    bad_rows: BadRows | None = None,
    needs_answers: bool = True,
    collator: Collator | None = None,
) -> Samples:
    """The samples of a data set: tokenizes a table of rows, or wraps rows for a plain module.

    `Samples` are returned unchanged. `processor` is the tokenizer, or the recipe's processor for
    inputs that are not text. `where` names the data set in errors. `collator` builds the batches.
    If `needs_answers` is false and an answer is invalid, all answers are ignored. Raises
    InputError for rows that cannot be used.
    """
    if not is_rows(dataset):
        samples: Samples = dataset
        return samples
    if isinstance(recipe, PlainRecipe):
        if isinstance(dataset, MixedRows):
            accepted = "accepted: a recipe, which reads the rows of each source"
            raise InputError(f"{where}: found a mixture for a plain module; {accepted}")
        rows = _plain_rows(dataset, where)
        if len(rows) == 0:
            raise InputError(f"{where}: no rows")
        names = input_names_of(model)
        with preserve_rng_state():
            first = rows[0] if collator is None else None
        return StackedSamples(rows, names, collator or _padding(first, names, processor, model))
    if isinstance(processor, Tokenizer):
        check_vocabulary(processor, model)
    rows = dataset if isinstance(dataset, MixedRows) else as_table(dataset, where)
    if len(rows) == 0:
        raise InputError(f"{where}: no rows")

    def made(rows: "Dataset | MixedRows") -> Samples:
        return samples_of(
            rows,
            recipe,
            processor,
            where=where,
            cache_dir=cache_dir,
            progress=progress,
            bad_rows=bad_rows,
            collator=collator,
        )

    try:
        return made(rows)
    except InputError as error:
        if needs_answers or not isinstance(error.__cause__, AnswerError):
            raise
        assert not isinstance(rows, MixedRows), "a mixture is only trained on"
        answers = [name for name in recipe.answer_columns if name in rows.column_names]
        return made(rows.remove_columns(answers))


def samples_of(
    rows: "Dataset | MixedRows",
    recipe: Recipe,
    processor: Processor | None,
    *,
    where: str,
    cache_dir: Path | None = None,
    progress: bool = False,
    bad_rows: BadRows | None = None,
    collator: Collator | None = None,
    processes: int = 1,
) -> Samples:
    """Convert a table of rows to the recipe's samples. `where` names the rows in messages.

    Rows that are not in the cache are tokenized by `processes` processes. Raises InputError if the
    recipe refuses a row, or if it needs a tokenizer and `processor` is not one.
    """
    if isinstance(rows, MixedRows):
        options = cache_dir, progress, bad_rows, collator, processes
        return _mixture_samples(rows, recipe, processor, where, *options)

    def tokenized(rows: "Dataset", by: Recipe | None = None) -> Samples:
        used_recipe = recipe if by is None else by
        if not isinstance(processor, Tokenizer) and not is_tokenized(
            rows.column_names, used_recipe
        ):
            found = "" if processor is None else f"; found {type(processor).__name__}"
            raise InputError(f"{where}: rows of text need a tokenizer{found}")
        table = tokenize(
            rows,
            used_recipe,
            processor if isinstance(processor, Tokenizer) else None,
            cache_dir=cache_dir,
            where=where,
            progress=progress,
            bad_rows=bad_rows,
            processes=processes,
        )
        if used_recipe.augments:
            table.augment = augmentation(used_recipe, processor)
        if collator is not None:
            collate_with(collator, table, used_recipe, where)
        return table

    context = SampleContext(where, tokenized, cache_dir, progress, bad_rows)
    try:
        return recipe.samples(rows, processor, context)
    except RowError as error:  # from a recipe that does not call `context.tokenize`
        place = location_of(rows, error.row, where)
        drops = bad_rows is not None and bad_rows.drops
        note = "; dataset.bad_rows=drop does not apply to the samples of this recipe" * drops
        raise InputError(f"{place}: {error}{note}") from error


def _mixture_samples(
    mixed: MixedRows,
    recipe: Recipe,
    processor: Processor | None,
    where: str,
    cache_dir: Path | None,
    progress: bool,
    bad_rows: BadRows | None,
    collator: Collator | None,
    processes: int,
) -> MixtureSamples:
    """The samples of each source, made by the source's own recipe; `recipe` is the run's recipe."""
    if collator is not None:
        raise InputError(f"{where}: found a mixture and a data_collator; accepted: one of them")
    if isinstance(processor, Tokenizer):
        recipe.prepare(processor)
    tables, recipes = {}, {}
    for name, source in mixed.sources.items():
        recipes[name] = own_recipe(recipe, source.recipe, name)
        with naming_source(name):
            made = samples_of(
                source.rows,
                recipes[name],
                processor,
                where=source_key(name),
                cache_dir=cache_dir,
                progress=progress,
                bad_rows=bad_rows,
                processes=processes,
            )
        if not isinstance(made, TokenTable):
            found = f"{type(recipes[name]).__name__} makes no samples that can be mixed"
            raise InputError(f"{source_key(name)}: {found}; accepted: recipes of one task on text")
        tables[name] = made
    return MixtureSamples(tables, recipes, _kinds(tables, recipes), mixed.blend)


def _kinds(tables: Mapping[str, TokenTable], recipes: Mapping[str, Recipe]) -> list[int]:
    """[K], a number per source, equal for sources with the same loss and the same tensors."""
    found = []
    for name, table in tables.items():
        tensors = table.token_type_ids is not None, table.roles is not None, sorted(table.fields)
        found.append(repr((loss_identity(recipes[name]), tensors)))
    return [found.index(each) for each in found]


def augmentation(recipe: Recipe, processor: Processor | None) -> Augment:
    """A function that augments the batches of a TokenTable with `recipe.augment`."""
    # the processor is None only if rows contain token ids; then the recipe needs no tokenizer
    tokenizer = cast(Tokenizer, processor)

    def augment(batch: FlatBatch, seed: int, epoch: int | None) -> FlatBatch:
        return recipe.augment(batch, tokenizer, seed=seed, epoch=epoch)

    return augment


def stream_samples(
    stream: Any,
    recipe: Recipe,
    processor: Processor | None,
    model: nn.Module,
    *,
    where: str,
    num_samples: int,
    batch_size: int,
    seed: int,
    bad_rows: BadRows | None = None,
    collator: Collator | None = None,
) -> RowStream | TokenStream:
    """Training samples from a stream: `num_samples` of them, in global batches of `batch_size`.

    A recipe tokenizes rows as they arrive. Raises InputError for a recipe that creates samples
    itself or needs all rows.
    """
    rows = StreamRows(stream, where, seed)
    if isinstance(recipe, PlainRecipe):
        names = input_names_of(model)
        padding = collator or _padding(rows[0], names, processor, model)
        return RowStream(rows, num_samples, batch_size, names, padding)
    check_streams(recipe, where)

    def tokenized(chunk: list[Any]) -> TokenTable:
        made = samples_of(
            as_table(chunk, where),
            recipe,
            processor,
            where=where,
            bad_rows=bad_rows,
            collator=collator,
        )
        assert isinstance(made, TokenTable)
        return made

    one_sample_per_row = recipe.blocks is None and not (bad_rows and bad_rows.drops)
    return TokenStream(rows, num_samples, batch_size, tokenized, one_sample_per_row)


def check_streams(recipe: Recipe, where: str) -> None:
    """Raise InputError for a recipe that cannot be trained on a stream."""
    if type(recipe).samples is not Recipe.samples or recipe.derived:
        found = f"a stream, and {type(recipe).__name__} needs all rows before the first step"
        raise InputError(f"{where}: {found}; accepted: a data set with indexed rows")


def _padding(
    row: Any, names: Sequence[str], processor: Processor | None, model: nn.Module
) -> Collator | None:
    """The padding collator for rows of token ids, if the model takes an attention mask."""
    if row is None or (names and "attention_mask" not in names):
        return None
    row = named(row, names) if names else row
    if not has_tokens(row) or not hasattr(row["input_ids"], "__len__"):
        return None
    known = [getattr(each, "pad_token_id", None) for each in (processor, _config_of(model))]
    pad = next((each for each in known if isinstance(each, int) and each >= 0), 0)
    return PaddingCollator(pad, getattr(processor, "padding_side", "right") == "left")


def _config_of(model: nn.Module) -> object:
    return getattr(model, "config", None)


def _plain_rows(dataset: Any, where: str) -> Any:
    """The rows as a sequence: a mapping of columns, a data frame or files become a table.

    A stream is read to its end.
    """
    if isinstance(dataset, (str, Path)):
        return as_table(dataset, where).with_format("torch")
    check_kind(dataset, where)
    if is_stream(dataset):
        return list(dataset)
    if isinstance(dataset, Mapping) or is_data_frame(dataset):
        return as_table(dataset, where).with_format("torch")
    return dataset


def check_vocabulary(tokenizer: Tokenizer, model: nn.Module) -> None:
    """Raise InputError if the tokenizer has ids without an embedding in the model."""
    if not isinstance(model, (PretrainedModel, PaddedModel)):
        return
    size = model.config.vocab_size
    if len(tokenizer) > size:
        raise InputError(
            f"tokenizer: has {len(tokenizer)} tokens, the model {size} "
            "embeddings; accepted: a tokenizer of the model's size, or resize_token_embeddings"
        )


def is_rows(dataset: object) -> bool:
    """Whether a data set still has to be preprocessed into samples."""
    return dataset is not None and not hasattr(dataset, "collate")


def rows_of(dataset: object, samples: Samples) -> SampleRows:
    """The rows that the samples were made from; `known` is false if `dataset` is not a table."""
    table = dataset if is_rows(dataset) and hasattr(dataset, "column_names") else None
    numbers = samples.rows if isinstance(samples, (TokenTable, TaskSamples)) else None
    sequence_numbers = samples.sequence_rows if isinstance(samples, TokenTable) else None
    return SampleRows(table, len(samples), numbers, sequence_numbers)
