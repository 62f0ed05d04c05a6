"""The train job: fine-tune, evaluate, save; or say that it is already done."""

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import EnvironmentFault, InputError
from trainer.recipe import Recipe
from trainer.run import Run
from trainer.run_folder import RunFolder

if TYPE_CHECKING:
    from trainer.data.rows import Splits
    from trainer.trainer import Trainer

logger = logging.getLogger("trainer")

EXTENSIONS = (
    "num_epochs",
    "max_steps",
    "early_stopping_patience",
    "resume",
    "allow_changes",
    "time_limit",
    "async_save",
)
"""Settings that another command for the same run may change."""


def prepare(run: Run) -> bool:
    """Fetch the model and fill the token cache, so that many processes find it there.

    False where nothing is left to do, which is then said.
    """
    from trainer.jobs.parts import fetch_model, fill_cache, load_data, told_elsewhere

    if (done := _results_if_complete(run)) is not None:
        _show_complete(run, done)
        return False
    fetch_model(run)
    with told_elsewhere("trainer"):  # by the rank that does it again
        recipe, tokenizer, splits = load_data(run)
        fill_cache(recipe, tokenizer, _tables(splits), splits.bad_rows)
    return True


def run(run: Run) -> int:
    """Train as the config says, continuing where an earlier run of it stopped."""
    if (done := _results_if_complete(run)) is None:
        build_trainer(run).fit()
    elif int(os.environ.get("RANK", "0")) == 0:
        _show_complete(run, done)
    return 0


def build_trainer(run: Run) -> "Trainer":
    """The Trainer of a run: its rows loaded, its labels learnt, its model and data ready."""
    from trainer.data.tokens import default_cache_dir
    from trainer.jobs.parts import load_data, load_model
    from trainer.trainer import Trainer

    recipe, tokenizer, splits = load_data(run)
    its_own = run.tokenizer.path is None and not run.tokenizer.train
    vocabulary = None if its_own else tokenizer
    trainer = Trainer(
        model=load_model(run.model, recipe.head, run.seed, vocabulary, run.launch.strategy),
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
        model_path=run.model.path or "",
        config_digest=config_digest(run.config),
        commands=next_commands(run, recipe),
        strategy=run.launch.strategy,
        cpu_offload=run.launch.cpu_offload,
        bad_rows=splits.bad_rows,
        reduce_gradients=run.launch.reduce_gradients,
    )
    trainer.data_notes = splits.notes
    return trainer


def _results_if_complete(run: Run) -> dict[str, Any] | None:
    """The results of this very run on this very data, if nothing is left to do."""
    results = RunFolder(run.output_dir).completed(run.trainer, config_digest(run.config))
    if results is None or "data" not in results:
        return results
    try:
        now = _data_fingerprints(run)
    except (InputError, EnvironmentFault, OSError) as error:
        text = "%s: its data was not compared with that of the finished run: %s"
        logger.warning(text, run.output_dir, error)
        return results
    before: Mapping[str, str] = results["data"]
    changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    if changed:
        text = "%s: holds a finished run on other data: %s"
        logger.warning(text, run.output_dir, ", ".join(changed))
    return None if changed else results


def _data_fingerprints(run: Run) -> dict[str, str]:
    """What results.json holds as `data`, of the rows as they are now."""
    from trainer.data.tokens import default_cache_dir, tokenize
    from trainer.jobs.parts import load_data, told_elsewhere

    with told_elsewhere("trainer"):
        recipe, tokenizer, splits = load_data(run)
        return {
            name: tokenize(
                rows,
                recipe,
                tokenizer,
                cache_dir=default_cache_dir(),
                where=name,
                progress=False,
                bad_rows=splits.bad_rows,
            ).fingerprint
            for name, rows in _tables(splits).items()
        }


def _tables(splits: "Splits") -> dict[str, Any]:
    """Training rows and evaluation sets, by the names that errors give them."""
    from trainer.data.given_rows import set_key

    named = {set_key(name): rows for name, rows in splits.validation.items()}
    return {"dataset.train": splits.train, **named}


def config_digest(config: Mapping[str, Any]) -> str:
    """8 hex digits of what makes a run this one: where it lies and how long it goes on do not."""
    counted = {k: v for k, v in config.items() if k not in ("output_dir", "run_name", "launch")}
    counted["trainer"] = {k: v for k, v in counted["trainer"].items() if k not in EXTENSIONS}
    text = json.dumps(counted, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def next_commands(run: Run, recipe: Recipe) -> dict[str, str]:
    """What one types next, ready to be copied."""
    program = run.program
    trusted = f" trusted_packages=[{','.join(run.trusted_packages)}]" * bool(run.trusted_packages)
    program += trusted and f" {shlex.quote(trusted.strip())}"
    model = shlex.quote(f"model.path={run.output_dir / 'model'}")
    texts = ["input.text='...'", "input.text_pair='...'"][: len(recipe.text_columns)]
    folder, again = (shlex.quote(f"{key}={run.output_dir}") for key in ("from", "output_dir"))
    predict = {"predict": " ".join([program, "job=predict", model, *texts])} if texts else {}
    if _is_language_model(recipe):
        # what was learnt of little repeats itself where it is greedy
        drawn = " generation.temperature=0.8 generation.top_p=0.95" * run.model.from_scratch
        predict = {"generate": f"{program} job=generate {model} input.prompt='...'{drawn}"}
    return {
        "evaluate": f"{program} {folder} job=evaluate",
        **predict,
        "resume": f"{program} {folder} {again}",
        "repeat": f"{program} {folder} output_dir=runs/another",
    }


def _is_language_model(recipe: Recipe) -> bool:
    try:
        return recipe.head.task == "causal_lm"
    except InputError:  # a classifier whose labels the training rows tell
        return False


def _show_complete(run: Run, results: Mapping[str, Any]) -> None:
    from trainer.console import make_console, show
    from trainer.rendering.end import end_summary

    console = make_console()
    # the commands are made anew: results.json may come from somebody else
    commands = next_commands(run, run.recipe) if run.recipe else {}
    told = {**results, "model_path": str(run.output_dir / "model"), "commands": commands}
    try:
        summary = end_summary(told, console.width, report=False)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        file = run.output_dir / "results.json"
        raise InputError(f"{file}: not what this program writes ({error})") from None
    show(console, f"{run.output_dir}: complete at step {results['steps']}; nothing to do")
    show(console, summary)
