"""The train job: fine-tunes, evaluates and saves a model, unless the run is already complete."""

import hashlib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.errors import EnvironmentFault, InputError
from trainer.jobs.parts.next_commands import after_training
from trainer.runs.folder import RunFolder
from trainer.runs.ordered_json import ordered_json
from trainer.runs.run import Run
from trainer.settings import names_of
from trainer.terminal import activity

if TYPE_CHECKING:
    from trainer.trainer import Trainer

logger = logging.getLogger("trainer")


def prepare(run: Run) -> bool:
    """Download the model and fill the token cache once, before several processes start.

    Returns False if the run is already complete. The summary is then shown, unless this process is
    a rank of another launcher, on which `run` follows.
    """
    from trainer.jobs.parts.data import load_data, warnings_hidden
    from trainer.jobs.parts.model import fetch_model
    from trainer.jobs.parts.output_folder import check_output_folder
    from trainer.training.optim import check_installed, find_optimizer
    from trainer.training.tracking import check_trackers

    if (done := _results_if_complete(run)) is not None:
        if "RANK" not in os.environ:
            _show_complete(run, done)
        return False
    check_output_folder(run)
    check_installed(find_optimizer(run.trainer.optimizer))
    check_trackers(run.callbacks.values())
    fetch_model(run)
    with warnings_hidden("trainer"):  # `run` does the same again, and shows the warnings
        data = load_data(run)
        for name, rows in data.tables.items():
            data.samples(rows, name)
    return True


def run(run: Run) -> int:
    """Train, or resume an earlier run of the same config where it stopped."""
    if (done := _results_if_complete(run)) is None:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # else `prepare` has done it
            from trainer.jobs.parts.output_folder import check_output_folder

            check_output_folder(run)
        trainer = build_trainer(run)
        if run.callbacks:
            activity.doing("preparing the first step")
        else:
            activity.done()  # without callbacks, nothing is shown
        trainer.fit()
    elif int(os.environ.get("RANK", "0")) == 0:
        _show_complete(run, done)
    return 0


def build_trainer(run: Run) -> "Trainer":
    """The Trainer of a run, with its data and its model loaded."""
    from trainer.data.tokens import default_cache_dir
    from trainer.jobs.parts.data import load_data
    from trainer.jobs.parts.model import load_model, own_vocabulary
    from trainer.runs.context import DataOptions, Description, RunContext
    from trainer.trainer import Trainer

    data = load_data(run)
    recipe, splits = data.recipe, data.splits
    vocabulary = own_vocabulary(run, data.processor)
    return Trainer(
        model=load_model(run.model, recipe.head, run.seed, vocabulary, run.launch.strategy),
        recipe=recipe,
        settings=run.trainer,
        tokenizer=data.processor,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        metrics=run.metrics,
        callbacks=list(run.callbacks.values()),
        output_dir=run.place,
        seed=run.seed,
        progress=False,  # the callbacks show it
        context=RunContext(
            Description(
                config=run.config,
                config_digest=config_digest(run.config),
                model_path=run.model.path or "",
                commands=after_training(run, recipe),
            ),
            DataOptions(splits.bad_rows, default_cache_dir(), splits.notes, data.set_recipes),
            run.launch.device_options,
        ),
    )


def _results_if_complete(run: Run) -> dict[str, Any] | None:
    """The results of the run if it is complete and used the current data, else None."""
    results = RunFolder(run.place).completed(run.trainer, config_digest(run.config))
    if results is None or "data" not in results:
        return results
    try:
        now = _data_fingerprints(run)
    except (InputError, EnvironmentFault, OSError) as error:
        text = "%s: could not compare the current data with that of the finished run: %s"
        logger.warning(text, run.place, error)
        return results
    before: Mapping[str, str] = results["data"]
    changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    if changed:
        text = "%s: holds a finished run with other data: %s"
        logger.warning(text, run.place, ", ".join(changed))
    return None if changed else results


def _data_fingerprints(run: Run) -> dict[str, str]:
    """Data set -> fingerprint of the current data, to compare with `data` in results.json."""
    from trainer.jobs.parts.data import load_data, warnings_hidden

    with warnings_hidden("trainer"):
        data = load_data(run)
        return {name: data.fingerprint(rows, name) for name, rows in data.tables.items()}


def config_digest(config: Mapping[str, Any]) -> str:
    """A digest of the config, in 8 hex digits, that identifies a run.

    It excludes the settings that may change when a run is resumed: name, folder, `launch`, and some
    settings of the trainer, such as the number of epochs.
    """
    digested = {k: v for k, v in config.items() if k not in ("output_dir", "run_name", "launch")}
    changeable = names_of("length", "stopping", "execution", "command")
    digested["trainer"] = {k: v for k, v in digested["trainer"].items() if k not in changeable}
    return hashlib.sha256(ordered_json(digested).encode()).hexdigest()[:8]


def _show_complete(run: Run, results: Mapping[str, Any]) -> None:
    from trainer.rendering.end import end_summary
    from trainer.terminal.console import make_console, show

    activity.done()
    console = make_console()
    # the commands are not read from results.json, which may be untrusted
    commands = after_training(run, run.recipe) if run.recipe else {}
    report = f"{run.place}/report.html" if (run.output_dir / "report.html").is_file() else None
    places = {"model_path": f"{run.place}/model", "commands": commands, "report_path": report}
    content = {**results, **places}
    try:
        summary = end_summary(content, console.width, report=False)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        file = f"{run.place}/results.json"
        raise InputError(f"{file}: not what this program writes ({error})") from None
    show(console, f"{run.place}: complete at step {results['steps']}; nothing to do")
    show(console, summary)
