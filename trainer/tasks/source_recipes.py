"""The recipes of a mixture's sources: they may differ in options, but must need the same head."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from trainer.data.mixed_rows import MixedRows, source_key
from trainer.data.row_locations import location_of
from trainer.data.tokenized_rows import is_tokenized
from trainer.errors import InputError, RowError, nearest
from trainer.tasks.recipe import Head, Recipe

if TYPE_CHECKING:
    from datasets import Dataset

ROW_OPTIONS = frozenset(
    [
        *("text", "text_pair", "label", "label_separator", "int_labels", "max_length", "stride"),
        *("question", "context", "answer", "choices", "start", "negative", "score_range"),
        *("source", "target", "source_prefix", "source_language", "target_language"),
        *("max_source_length", "max_target_length", "train_on", "chat", "system", "date", "format"),
        *("scheme", "repair", "align", "misaligned", "slices", "prompts", "prompt"),
    ]
)
"""Options that determine how rows are read, but not how the loss is computed from samples.

Samples may share a batch if their recipes differ only in these options.
"""


def learn_sources(
    recipe: Recipe, mixed: MixedRows, held_out: Mapping[str, "Dataset"] | None = None
) -> tuple[Recipe, MixedRows]:
    """The run's recipe and the sources' recipes, with values such as labels filled in from rows.

    If sources have different label names, all sources get the union of them. `held_out` maps
    sources to the rows held out for validation, whose labels are included. Nothing is filled in
    from tokenized rows. Raises InputError if the sources need different heads, and for an invalid
    row.
    """
    held_out = held_out or {}
    given_recipes = {name: own_recipe(recipe, s.recipe, name) for name, s in mixed.sources.items()}
    rows = {name: [source.rows] for name, source in mixed.sources.items()}
    for of_source, more in held_out.items():
        rows[of_source].append(more)
    learnt = {name: _learnt(each, rows[name], name) for name, each in given_recipes.items()}
    if len({repr(each.head) for each in learnt.values()}) > 1:
        labels = _common_labels(learnt)
        if labels is not None:
            wide = {n: replace(r, labels=labels) for n, r in given_recipes.items()}  # type: ignore[type-var]
            learnt = {name: _learnt(each, rows[name], name) for name, each in wide.items()}
        _refuse_other_heads(learnt)
    name = next((n for n, each in learnt.items() if type(each) is type(recipe)), None)
    if name is None:
        kind = type(recipe).__name__
        accepted = "accepted: at least one source that uses it"
        raise InputError(
            f"dataset.mixture: no source is read by the run's recipe {kind}; {accepted}"
        )
    sources = {n: replace(s, recipe=learnt[n]) for n, s in mixed.sources.items()}
    return with_changes(learnt[name], given_recipes[name], recipe), replace(mixed, sources=sources)


def own_recipe(recipe: Recipe, given: object, name: str) -> Recipe:
    """The recipe of a source: `given` if it is a recipe, otherwise `recipe` with these options."""
    if isinstance(given, Recipe):
        return given
    known = [each.name for each in fields(recipe) if each.init]  # type: ignore[arg-type]
    where = f"{source_key(name)}.recipe"
    if not isinstance(given, Mapping):
        accepted = "accepted: a mapping of options, or a recipe"
        raise InputError(f"{where}: found {given!r:.60}; {accepted}")
    for key in given:
        if key not in known:
            kind, accepted = type(recipe).__name__, ", ".join(known)
            hint = nearest(key, known) or f"; accepted: {accepted}"
            raise InputError(f"{where}: {kind} has no option '{key}'{hint}")
    with naming_source(name):
        return replace(recipe, **given)  # type: ignore[type-var]


@contextmanager
def naming_source(name: str) -> Iterator[None]:
    """Context manager: InputErrors about `recipe.KEY` name the option of the source instead."""
    try:
        yield
    except RowError:
        raise
    except InputError as error:
        if not str(error).startswith("recipe."):
            raise
        raise InputError(f"{source_key(name)}.{error}") from error


@contextmanager
def naming_set(where: str) -> Iterator[None]:
    """Context manager: InputErrors about `recipe.KEY` begin with the set, unless it is empty."""
    try:
        yield
    except RowError:
        raise
    except InputError as error:
        if not where or not str(error).startswith("recipe."):
            raise
        raise InputError(f"{where}: {error}") from None


def with_changes(recipe: Recipe, before: Recipe, after: Recipe) -> Recipe:
    """`recipe`, with the options that differ between `before` and `after` set as in `after`.

    Returns the same object if nothing differs.
    """
    if before is after:
        return recipe
    changed = {
        each.name: getattr(after, each.name)
        for each in fields(after)  # type: ignore[arg-type]
        if each.init and getattr(before, each.name, None) != getattr(after, each.name)
    }
    known = {each.name for each in fields(recipe)}  # type: ignore[arg-type]
    changed = {name: value for name, value in changed.items() if name in known}
    return replace(recipe, **changed) if changed else recipe  # type: ignore[type-var]


def loss_identity(recipe: Recipe) -> tuple[object, ...]:
    """A value that is equal for recipes that compute the loss of a batch in the same way."""
    options = [each.name for each in fields(recipe)]  # type: ignore[arg-type]
    values = [(name, repr(getattr(recipe, name))) for name in options if name not in ROW_OPTIONS]
    return (type(recipe), *values)


def set_recipes(recipe: Recipe, given: Mapping[str, object]) -> dict[str, Recipe]:
    """The recipe of each evaluation set with options; `given` maps sets to options or a recipe.

    A recipe in `given` gets the labels of the run's `recipe`, which `learn` has filled in.
    """
    found = {}
    for name, options in given.items():
        if isinstance(options, Recipe):
            found[name] = _with_labels(options, recipe)
        elif options:
            found[name] = own_recipe(recipe, options, name)
    return found


def _with_labels(own: Recipe, completed: Recipe) -> Recipe:
    """`own`, with its unset options filled in from `completed`, the run's recipe."""
    from trainer.tasks.agreement import learn_from_model

    own = learn_from_model(own, completed.head.config)
    unknown = {
        each.name: getattr(completed, each.name)
        for each in fields(own)  # type: ignore[arg-type]
        if getattr(own, each.name) == "auto" and type(own) is type(completed)
    }
    return replace(own, **unknown) if unknown else own  # type: ignore[type-var]


def _learnt(recipe: Recipe, rows: Sequence["Dataset"], name: str) -> Recipe:
    """A source's recipe, with values filled in from its training and held-out rows."""
    if is_tokenized(rows[0].column_names, recipe):
        return recipe
    try:
        with naming_source(name):
            return recipe.learn(*rows)
    except RowError as error:
        place = location_of(rows[0], error.row, source_key(name))
        raise InputError(f"{place}: {error}") from error


def _common_labels(learnt: Mapping[str, Recipe]) -> list[str] | None:
    """All label names, in the order of the sources; None if the recipes have no lists of labels.

    Raises InputError for a source that shares no label with those before it.
    """
    lists: dict[str, Sequence[str]] = {}
    for name, recipe in learnt.items():
        labels = getattr(recipe, "labels", None)
        if not labels:
            return None
        lists[name] = labels
    union: dict[str, None] = {}
    for name, labels in lists.items():
        if union and not set(labels) & set(union):
            found = f"found the labels {_few(labels)}, the sources before it have {_few(union)}"
            accepted = "accepted: at least one label in common, or recipe.labels"
            raise InputError(f"{source_key(name)}: {found}; {accepted}")
        union |= dict.fromkeys(labels)
    return list(union)


def _few(labels: "Sequence[str] | Mapping[str, None]") -> str:
    shown = list(labels)[:6]
    return ", ".join(f"{label:.30}" for label in shown) + ", ..." * (len(labels) > len(shown))


def _refuse_other_heads(learnt: Mapping[str, Recipe]) -> None:
    first, *others = learnt
    head = learnt[first].head
    for name in others:
        other = learnt[name].head
        if repr(other) == repr(head):
            continue
        found = f"{type(learnt[name]).__name__} needs the head {_shown(other, head)}"
        accepted = "accepted: sources that need the same head, or recipe=multi_task"
        raise InputError(
            f"{source_key(name)}.recipe: {found}, '{first}' needs {_shown(head, other)}; {accepted}"
        )


def _shown(head: Head, other: Head) -> str:
    """A head, with the entries of config.json in which it differs from another."""
    different = {key: value for key, value in head.config.items() if other.config.get(key) != value}
    entries = f" with {different!r:.80}" if head.task == other.task else ""
    return f"{head.task}{entries}"
