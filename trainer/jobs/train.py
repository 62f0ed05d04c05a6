"""The train job: fine-tune, evaluate, save; or say that it is already done."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError
from trainer.run import Run
from trainer.run_folder import RunFolder

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def run(run: Run) -> int:
    """Train as the config says, continuing where an earlier run of it stopped."""
    done = RunFolder(run.output_dir).completed(run.trainer)
    if done is None:
        build_trainer(run).fit()
    else:
        _show_complete(run, done)
    return 0


def build_trainer(run: Run) -> "Trainer":
    """The Trainer of a run: its rows loaded, its labels learnt, its model and data ready."""
    from trainer.agreement import learn
    from trainer.data.tokens import default_cache_dir
    from trainer.jobs.parts import load_model, load_tokenizer
    from trainer.trainer import Trainer

    assert run.recipe is not None
    tokenizer = load_tokenizer(run)
    splits = run.dataset.load()
    if splits.train is None:
        raise InputError("dataset.train: nothing to train on; give dataset.train or dataset.path")
    recipe = learn(run.recipe, splits.train, splits.validation.values())
    return Trainer(
        model=load_model(run.model, recipe.head, run.seed),
        recipe=recipe,
        settings=run.trainer,
        tokenizer=tokenizer,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        metrics=run.metrics,
        callbacks=list(run.callbacks.values()),
        output_dir=run.output_dir,
        seed=run.seed,
        config=run.config,
        cache_dir=default_cache_dir(),
        model_path=run.model.path,
        commands=next_commands(run, recipe.text_columns),
    )


def next_commands(run: Run, text_columns: tuple[str, ...]) -> dict[str, str]:
    """What one types next, ready to be copied."""
    program = "python launch.py"
    model = shlex.quote(f"model.path={run.output_dir / 'model'}")
    data = [text for text in run.overrides if text.lstrip("+").startswith("dataset")]
    data = data or [f"dataset={run.chosen['dataset']}"] if "dataset" in run.chosen else data
    texts = ["input.text='...'", "input.text_pair='...'"][: len(text_columns)]
    folder = shlex.quote(f"from={run.output_dir}")
    return {
        "evaluate": " ".join([program, "job=evaluate", model, *map(shlex.quote, data)]),
        "predict": " ".join([program, "job=predict", model, *texts]),
        "repeat": f"{program} {folder} output_dir=runs/another",
    }


def _show_complete(run: Run, results: Mapping[str, Any]) -> None:
    from trainer.console import make_console, show
    from trainer.rendering.end import end_summary

    console = make_console()
    show(console, f"{run.output_dir}: complete at step {results['steps']}; nothing to do")
    show(console, end_summary(results, console.width, report=False))
