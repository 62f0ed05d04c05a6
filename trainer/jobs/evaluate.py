"""The evaluate job: evaluates a saved model on the held-out rows of a data set."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError, NumericsError
from trainer.runs.run import Run
from trainer.tasks.recipe import Recipe
from trainer.terminal import activity

if TYPE_CHECKING:
    from trainer.data.mixture import Mixture
    from trainer.data.rows import Splits
    from trainer.trainer import Trainer

log = logging.getLogger("trainer")


def prepare(run: Run) -> bool:
    """Download the model and fill the token cache once, before several processes start."""
    from trainer.jobs.parts.data import fill_cache, warnings_hidden
    from trainer.jobs.parts.model import fetch_model
    from trainer.jobs.parts.processor import load_processor

    if run.recipe is None:
        raise InputError(f"recipe: {run.model.path} names no task; give recipe=...")
    fetch_model(run)
    with warnings_hidden("trainer"):  # `run` does the same again, and shows the warnings
        splits = _held_out(run)
        recipe = _recipe(run, splits.validation)
        fill_cache(recipe, load_processor(run, recipe), splits)
    return True


def run(run: Run) -> int:
    """Evaluate the model; write evaluation.json and evaluation-predictions.jsonl to output_dir.

    Raises NumericsError if a loss or a logit is not finite, after writing both files.
    """
    from trainer.data.tokens import default_cache_dir
    from trainer.jobs.parts.model import load_trained_model
    from trainer.jobs.parts.processor import load_processor
    from trainer.rendering.evaluation_progress import EvaluationProgress
    from trainer.runs.context import DataOptions, RunContext
    from trainer.terminal.console import make_console
    from trainer.trainer import Trainer

    if run.recipe is None:
        raise InputError(f"recipe: {run.model.path} names no task; give recipe=...")
    progress = EvaluationProgress(make_console())
    splits = _held_out(run)
    held_out = splits.validation
    run = replace(run, recipe=_recipe(run, held_out))
    assert run.recipe is not None
    trainer = Trainer(
        model=load_trained_model(run.model, run.recipe.head, run.seed, run.launch.strategy),
        recipe=run.recipe,
        settings=run.trainer,
        tokenizer=load_processor(run, run.recipe),
        eval_dataset=held_out,
        metrics=run.metrics,
        callbacks=[progress],
        seed=run.seed,
        progress=False,
        context=RunContext(
            data=DataOptions(splits.bad_rows, default_cache_dir(), set_recipes=splits.set_recipes),
            devices=run.launch.device_options,
        ),
    )
    fault: NumericsError | None = None
    activity.doing("evaluating")
    try:
        trainer.evaluate()
    except NumericsError as error:
        fault = error  # raised again after the results are written
    finally:
        progress.on_close()
    if trainer.ranks.is_main:
        _write(run, trainer, held_out)
    if fault is not None:
        raise fault
    return 0


def _write(run: Run, trainer: "Trainer", held_out: dict[str, Any]) -> None:
    from trainer.checkpoint import files
    from trainer.runs.dropped_rows import DroppedRows
    from trainer.runs.folder import RunFolder
    from trainer.runs.outcome import evaluation_results, prediction_lines
    from trainer.training.run_facts import dropped_rows

    results = evaluation_results(trainer.evaluations, run.model.path)
    folder = RunFolder(run.place)
    folder.make()
    for name, evaluation in trainer.evaluations.items():
        lines = prediction_lines(evaluation, trainer.setup.sample_rows(name))
        file = f"evaluation-predictions{'-' * bool(name)}{name}.jsonl"
        files.write_text(run.output_dir / file, "".join(f"{line}\n" for line in lines))
    files.write_json(run.output_dir / "evaluation.json", results)
    dropped = DroppedRows(folder.path / "evaluation-dropped.jsonl")
    dropped.begin(dropped_rows(trainer.setup), 0)
    files.fsync_folder(run.output_dir)
    if folder.store is not None:
        folder.store.push_files("evaluation*")
    _show(results, run, {name: len(rows) for name, rows in held_out.items()})


def _held_out(run: Run) -> "Splits":
    """The splits of the data set, with the sets to evaluate on as validation sets.

    These are the validation sets, else the test set, else the training rows. Each source of a
    mixture is evaluated on its validation sets, else on its test set.
    """
    from trainer.data.mixture import Mixture
    from trainer.jobs.parts.data import load_splits

    if run.dataset is None:
        raise InputError("dataset: nothing given; give a dataset, or from=RUN for a run's own data")
    splits = load_splits(run)
    if isinstance(run.dataset, Mixture):
        return _held_out_of_sources(run.dataset, splits)
    if splits.validation:
        return splits
    only = splits.test
    if only is None and (only := splits.train_table) is not None:
        log.warning("dataset.train: evaluated, since there are no validation or test rows")
    if only is None:
        raise InputError("dataset: nothing to evaluate on; give dataset.validation or dataset.test")
    return replace(splits, validation={"": only})


def _held_out_of_sources(mixture: "Mixture", splits: "Splits") -> "Splits":
    """The splits of a mixture, with the sets to evaluate on as validation sets.

    A source that has only training rows is left out, with a warning. Raises InputError if all
    sources have only training rows.
    """
    from trainer.data.mixed_rows import source_key

    sets, recipes = dict(splits.validation), dict(splits.set_recipes)
    for name, own in splits.sources.items():
        if own.validation:
            continue
        if own.test is None:
            found = "not evaluated: the source has neither validation nor test rows"
            log.warning("%s: %s", source_key(name), found)
        elif name in sets:
            found = f"two sets are named {name}; accepted: other names for the sources"
            raise InputError(f"dataset.mixture: {found}")
        else:
            sets[name], recipes[name] = own.test, mixture.mixture[name].recipe
    if not sets:
        found = "nothing to evaluate on: no source has validation or test rows"
        accepted = "accepted: a test set for a source, such as {dataset: {test: FILE}}"
        raise InputError(f"dataset.mixture: {found}; {accepted}")
    return replace(splits, validation=sets, set_recipes=recipes)


def _recipe(run: Run, held_out: dict[str, Any]) -> Recipe:
    """The recipe; for a model from another tool, it depends on the columns of the rows."""
    from trainer.jobs.parts.foreign_recipe import recipe_for

    return recipe_for(run, next(iter(held_out.values())).column_names)


def _show(results: dict[str, Any], run: Run, sizes: dict[str, int]) -> None:
    from trainer.jobs.parts.next_commands import of_model
    from trainer.rendering.classes import class_report
    from trainer.rendering.figures import measure
    from trainer.rendering.layout import labelled
    from trainer.terminal.console import make_console, show

    activity.done()
    console = make_console()
    by_class = results["report"] and class_report(results["report"], console.width)
    if by_class and console.is_terminal:
        show(console, by_class)
        console.print()
    counts = {"samples": ", ".join(f"{name} {n:,}".strip() for name, n in sizes.items())}
    figures = {name: measure(value) for name, value in results["metrics"].items()}
    show(console, labelled(counts | figures | {"written to": run.place}).append("\n"))
    assert run.recipe is not None and run.model.path is not None
    show(console, labelled(of_model(run, run.recipe, run.model.path)))
