"""The merge job: merges an adapter into its base model, compares outputs, writes the result."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.jobs.parts.merging import write_merged
from trainer.jobs.parts.next_commands import of_model
from trainer.runs.run import Run
from trainer.stores.outputs import shown_output, written

if TYPE_CHECKING:
    import torch


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Write the merged model to output.path, if it reproduces the outputs of the adapted model.

    The weights have the data type of the base model's files. Raises InputError for a model without
    an adapter, and NumericsError if the outputs differ.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    if run.recipe is None:
        raise InputError(f"recipe: {run.model.path} names no task; give recipe=...")
    if run.output.path is None:
        raise InputError("output.path: null; accepted: the folder that the merged model goes to")
    with written(run.output.path, "output.path") as path:
        target = Path(path).absolute()
        dtype, change = write_merged(run, target)
    shown = shown_output(run.output.path, target)
    _show(shown, dtype, change, of_model(run, run.recipe, run.output.path))
    return 0


def _show(target: str, dtype: "torch.dtype", distance: float, commands: Mapping[str, str]) -> None:
    from trainer.rendering.layout import labelled
    from trainer.terminal.console import make_console, show

    lines = {"dtype": str(dtype).removeprefix("torch."), "outputs differ by": f"{distance:.1e}"}
    show(make_console(), labelled({**lines, "written to": target, **commands}))
