"""The evaluate job: a saved model over a data set's held-out rows."""

from typing import TYPE_CHECKING, Any

from trainer.data.given_rows import set_key
from trainer.data.reading import BadRows
from trainer.errors import InputError, NumericsError
from trainer.run import Run

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def prepare(run: Run) -> bool:
    """Fetch the model and fill the token cache, so that many processes find it there."""
    from trainer.jobs.parts import fetch_model, fill_cache, load_tokenizer, told_elsewhere

    if run.recipe is None:
        raise InputError(f"recipe: {run.model.path} names no task; give recipe=...")
    fetch_model(run)
    with told_elsewhere("trainer"):  # by the rank that does it again
        held_out, bad_rows = _held_out(run)
        named = {set_key(name): rows for name, rows in held_out.items()}
        fill_cache(run.recipe, load_tokenizer(run), named, bad_rows)
    return True


def run(run: Run) -> int:
    """Measure the model; writes evaluation.json and evaluation-predictions.jsonl to output_dir.

    Raises NumericsError, once they are written, where a loss or logits are not finite.
    """
    from trainer.console import make_console
    from trainer.data.tokens import default_cache_dir
    from trainer.jobs.parts import load_model, load_tokenizer
    from trainer.rendering.evaluation_progress import EvaluationProgress
    from trainer.trainer import Trainer

    if run.recipe is None:
        raise InputError(f"recipe: {run.model.path} names no task; give recipe=...")
    progress = EvaluationProgress(make_console())
    tokenizer = load_tokenizer(run)
    held_out, bad_rows = _held_out(run)
    trainer = Trainer(
        model=load_model(run.model, run.recipe.head, run.seed, strategy=run.launch.strategy),
        recipe=run.recipe,
        settings=run.trainer,
        tokenizer=tokenizer,
        eval_dataset=held_out,
        metrics=run.metrics,
        callbacks=[progress],
        seed=run.seed,
        cache_dir=default_cache_dir(),
        strategy=run.launch.strategy,
        cpu_offload=run.launch.cpu_offload,
        bad_rows=bad_rows,
        reduce_gradients=run.launch.reduce_gradients,
    )
    fault: NumericsError | None = None
    try:
        trainer.evaluate()
    except NumericsError as error:
        fault = error  # what was measured is written all the same
    finally:
        progress.on_close()
    if trainer.ranks.is_main:
        _write(run, trainer, held_out)
    if fault is not None:
        raise fault
    return 0


def _write(run: Run, trainer: "Trainer", held_out: dict[str, Any]) -> None:
    from trainer.checkpoint import files
    from trainer.outcome import evaluation_results, prediction_lines
    from trainer.run_facts import dropped_rows
    from trainer.run_folder import RunFolder

    assert run.recipe is not None
    results = evaluation_results(trainer.evaluations, run.recipe, run.model.path)
    files.make_folder(run.output_dir, synced=True)
    for name, evaluation in trainer.evaluations.items():
        samples = trainer.eval_samples[name]
        lines = prediction_lines(evaluation, run.recipe, held_out[name], samples)
        file = f"evaluation-predictions{'-' * bool(name)}{name}.jsonl"
        files.write_text(run.output_dir / file, "".join(f"{line}\n" for line in lines))
    files.write_json(run.output_dir / "evaluation.json", results)
    RunFolder(run.output_dir).write_dropped(dropped_rows(trainer), "evaluation-dropped.jsonl")
    files.fsync_folder(run.output_dir)
    _show(results, run, {name: len(rows) for name, rows in held_out.items()})


def _held_out(run: Run) -> tuple[dict[str, Any], BadRows]:
    """The validation sets, else the test set, else all rows of a single file; and the bad rows."""
    from trainer.jobs.parts import load_splits

    if run.dataset is None:
        raise InputError("dataset: nothing given; or from=RUN job=evaluate for a run's own data")
    splits = load_splits(run)
    if splits.validation:
        return dict(splits.validation), splits.bad_rows
    only = splits.test if splits.test is not None else splits.train
    if only is None:
        raise InputError("dataset: nothing to evaluate on; give dataset.validation or dataset.test")
    return {"": only}, splits.bad_rows


def _show(results: dict[str, Any], run: Run, sizes: dict[str, int]) -> None:
    from trainer.console import make_console, show
    from trainer.rendering.classes import class_report
    from trainer.rendering.figures import measure
    from trainer.rendering.layout import labelled

    console = make_console()
    by_class = results["report"] and class_report(results["report"], console.width)
    if by_class and console.is_terminal:
        show(console, by_class)
    counts = {"samples": ", ".join(f"{name} {n:,}".strip() for name, n in sizes.items())}
    figures = {name: measure(value) for name, value in results["metrics"].items()}
    show(console, labelled(counts | figures | {"written to": str(run.output_dir)}))
