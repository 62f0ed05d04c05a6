"""Input rows: the sets of rows that job=predict answers, each with its recipe."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from trainer.data.command_line_texts import typed_texts
from trainer.data.mixed_rows import source_key
from trainer.data.mixture import Mixture, set_name
from trainer.errors import InputError
from trainer.runs.run import Run
from trainer.tasks.recipe import Recipe
from trainer.terminal.activity import doing

if TYPE_CHECKING:
    from datasets import Dataset

    from trainer.data.rows import Splits

    Rows: TypeAlias = "Dataset | list[dict[str, str]]"

log = logging.getLogger("trainer")


@dataclass(frozen=True)
class InputSet:
    """Rows, and the recipe that reads them."""

    name: str
    """The name of the set in its data set; empty if it has none."""
    rows: "Rows"
    recipe: Recipe

    @property
    def where(self) -> str:
        """The set in error messages."""
        return f"input ({self.name})" if self.name else "input"


def input_sets(run: Run, recipe: Recipe) -> list[InputSet]:
    """The rows to answer: those of the command line or a file, else those of the data set.

    Of a data set, the test rows are answered, else all validation sets, else the training rows; of
    a mixture, the test rows of each source, else its validation sets. Raises InputError if there
    are no rows, or if rows lack a column that their recipe reads.
    """
    _refuse_settings_of_others(run)
    given = run.input
    if given.file is not None and given.text is not None:
        raise InputError("input: found both input.text and input.file; accepted: one of them")
    if given.file is not None:
        from trainer.data.sources import read_files

        doing("reading the rows")
        return [_checked("", read_files(given.file, "input.file"), {}, run)]
    if given.text is not None:
        return [_checked("", _typed(given.text, given.text_pair, recipe), {}, run)]
    if run.dataset is None:
        raise InputError("input: nothing given; give input.text, input.file or a dataset")
    doing("reading the data")
    return _of_data_set(run)


def _refuse_settings_of_others(run: Run) -> None:
    given = run.input
    if given.prompt is not None:
        raise InputError("input.prompt: job=predict takes input.text; accepted: job=generate")
    for key, is_set in (("system", given.system is not None), ("chat", given.chat != "auto")):
        if is_set:
            reason = "job=predict does not read it"
            raise InputError(f"input.{key}: {reason}; accepted: job=generate, job=chat")


def _of_data_set(run: Run) -> list[InputSet]:
    assert run.dataset is not None
    splits = run.dataset.load()
    if isinstance(run.dataset, Mixture):
        return _of_sources(run, run.dataset, splits)
    if splits.test is not None:
        return [_checked("", splits.test, {}, run)]
    if splits.validation:
        return [_checked(name, rows, {}, run) for name, rows in splits.validation.items()]
    if (train := splits.train_table) is None:
        raise InputError("dataset: no rows to answer; give dataset.test or input.file")
    return [_checked("", train, {}, run)]


def _of_sources(run: Run, mixture: "Mixture", splits: "Splits") -> list[InputSet]:
    """The sets of a mixture's sources; a source with training rows only is left out.

    Raises InputError if all sources have only training rows.
    """
    found: dict[str, InputSet] = {}
    for source, own in splits.sources.items():
        sets = own.validation if own.test is None else {"": own.test}
        if not sets:
            reason = "not predicted: the source has neither test nor validation rows"
            log.warning("%s: %s", source_key(source), reason)
        for part, rows in sets.items():
            name = set_name(source, part)
            if name in found:
                accepted = "accepted: other names for the sources"
                raise InputError(f"dataset.mixture: two sets are named {name}; {accepted}")
            found[name] = _checked(name, rows, mixture.mixture[source].recipe, run)
    if not found:
        reason = "nothing to predict: no source has test or validation rows"
        accepted = "accepted: a test set for a source, such as {dataset: {test: FILE}}"
        raise InputError(f"dataset.mixture: {reason}; {accepted}")
    return list(found.values())


def _checked(name: str, rows: "Rows", options: object, run: Run) -> InputSet:
    """The set with its recipe. Raises InputError if the rows lack a column that it reads."""
    from trainer.jobs.parts.foreign_recipe import recipe_for
    from trainer.tasks.source_recipes import naming_set, set_recipes

    if len(rows) == 0:
        raise InputError(f"input{f' ({name})' if name else ''}: no rows")
    columns = list(rows[0]) if isinstance(rows, list) else rows.column_names
    recipe = recipe_for(run, columns)
    recipe = set_recipes(recipe, {name: options}).get(name, recipe)
    found = InputSet(name, rows, recipe)
    for column in recipe.needed_columns:
        if column not in columns:
            there = f"there are: {', '.join(columns)}; recipe.text names it"
            raise InputError(f"{found.where}: no column '{column}'; {there}")
    with naming_set(found.where if name else ""):
        recipe.refuse_unread(columns)
    return found


def _typed(text: str, pair: str | None, recipe: Recipe) -> list[dict[str, str]]:
    """Rows from the command line: a text, a JSON list of texts, or "-" for lines of a pipe."""
    kind, names = type(recipe).__name__, recipe.text_columns
    if not recipe.reads_text:
        raise InputError(f"input.text: {kind} reads no text; accepted: input.file, or a dataset")
    if recipe.needed_columns != names:
        (column, *_) = recipe.needed_columns
        accepted = "accepted: input.file, a dataset, or recipe.task=NAME"
        raise InputError(f"input.text: {kind} reads the '{column}' of each row; {accepted}")
    if len(names) > 2:
        found = f"{kind} reads the columns {', '.join(names)}"
        raise InputError(f"input.text: {found}; accepted: input.file, or a dataset")
    texts = typed_texts(text, "input.text")
    if len(names) == 1:
        if pair is not None:
            raise InputError("input.text_pair: the model reads one text, not a pair")
        return [{names[0]: one} for one in texts]
    if pair is None:
        raise InputError("input.text_pair: the model reads pairs; give the second text")
    pairs = typed_texts(pair, "input.text_pair")
    if len(pairs) != len(texts):
        raise InputError(f"input.text_pair: found {len(pairs)} for {len(texts)} texts")
    return [dict(zip(names, both, strict=True)) for both in zip(texts, pairs, strict=True)]
