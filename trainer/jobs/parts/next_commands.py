"""Next commands: the commands that a job suggests, which start with the user's program."""

import shlex
from collections.abc import Mapping

from trainer.errors import InputError
from trainer.runs.run import Run
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe

FILES = ("--config=", "--config-name=")
"""The flags that name a file of settings."""
TEXTS = ("input.text='...'", "input.text_pair='...'")


def after_training(run: Run, recipe: Recipe) -> dict[str, str]:
    """The commands to suggest after training: purpose -> command line."""
    program, settings = _program(run), run.trainer
    folder, again = (shlex.quote(f"{key}={run.place}") for key in ("from", "output_dir"))
    scratch = run.model.from_scratch
    return {
        "evaluate": f"{program} {folder} job=evaluate",
        **of_model(run, recipe, f"{run.place}/model", sampled=scratch),
        "extend": f"{program} {folder} {again} {_twice_as_long(settings)}",
        "repeat": f"{program} {folder} output_dir=runs/another",
    }


def of_model(run: Run, recipe: Recipe, model: str, *, sampled: bool = False) -> dict[str, str]:
    """The command that uses the model in a folder: purpose -> command line.

    With `sampled`, the command samples its text, since models that were trained on little data
    repeat themselves with greedy decoding.
    """
    program, path = _program(run), shlex.quote(f"model.path={model}")
    if _is_language_model(recipe):
        sampling = " generation.temperature=0.8 generation.top_p=0.95" * sampled
        return {"generate": f"{program} job=generate {path} input.prompt='...'{sampling}"}
    texts = TEXTS[: len(recipe.text_columns)]
    if not _can_be_typed(recipe):
        texts = ("input.file='...'",)
    return {"predict": " ".join([program, "job=predict", path, *texts])} if texts else {}


def of_same_config(run: Run, job: str) -> Mapping[str, str]:
    """The command that the user typed, but for the job `job` and without settings of this job."""
    dropped = ("job=", "--config-dir=", f"{run.job}.")  # run.program contains --config-dir
    kept = [text for text in run.overrides if not text.lstrip("+").startswith(dropped)]
    in_file = any(text.startswith(FILES) for text in kept)  # the file may name the job to leave
    chosen = [] if job == "train" and not in_file else [f"job={job}"]
    return {job: " ".join([run.program, shlex.join([*chosen, *kept])]).strip()}


def _program(run: Run) -> str:
    """The program, with the settings that only the command line may contain."""
    words = [run.program]
    if run.trusted_packages:
        words.append(shlex.quote(f"trusted_packages=[{','.join(run.trusted_packages)}]"))
    if run.model.trust_remote_code:
        words.append("model.trust_remote_code=true")
    return " ".join(words)


def _twice_as_long(settings: TrainSettings) -> str:
    if settings.max_steps is not None:
        return f"trainer.max_steps={2 * settings.max_steps}"
    return f"trainer.num_epochs={2 * settings.num_epochs:g}"


def _can_be_typed(recipe: Recipe) -> bool:
    """Whether `input.text` and `input.text_pair` can hold the texts of a row."""
    if not recipe.reads_text or recipe.needed_columns != recipe.text_columns:
        return False
    row = recipe.example_row
    return len(row) <= len(TEXTS) and all(isinstance(cell, str) for cell in row.values())


def _is_language_model(recipe: Recipe) -> bool:
    try:
        return recipe.head.task == "causal_lm"
    except InputError:  # the recipe needs the training rows to know its labels
        return False
