"""The show job: plots the curves of a finished or running run in the terminal."""

import os

from trainer.errors import InputError
from trainer.runs.run import Run


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Print the status, the results and the curves of `run.shown_run`."""
    from rich.text import Text

    from trainer.rendering.layout import labelled
    from trainer.reports.page import NOT_READABLE
    from trainer.reports.run_record import RunRecord
    from trainer.reports.sections.curves import charts
    from trainer.reports.sections.overview import figures, status
    from trainer.reports.terminal_charts import terminal_charts
    from trainer.stores.run_store import run_files
    from trainer.terminal.console import make_console, show
    from trainer.terminal.plain_text import one_line

    if run.shown_run is None:
        raise InputError("run: nothing given; accepted: the folder of a run, run=runs/a")
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    record = RunRecord.read(run_files(run.shown_run, "run"))
    console = make_console()
    try:
        title = f"{one_line(record.name)}: {one_line(status(record))}"
        lines = {one_line(name): one_line(value) for name, value in figures(record).items()}
        curves = charts(record)
    except NOT_READABLE as error:
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"{record.folder}: not what this program writes ({found})") from None
    show(console, Text(title, style="bold"))
    show(console, labelled(lines).append("\n"))
    show(console, terminal_charts(curves, console.width))
    return 0
