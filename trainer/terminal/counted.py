"""Counted: shows how many rows have been processed."""

import time
from collections.abc import Iterator

from trainer.terminal import activity
from trainer.terminal.console import make_console

BAR_DELAY = 0.5
"""Seconds of work before a bar is shown."""


def counted(starts: range, what: str) -> Iterator[int]:
    """Yield the numbers of `starts`, and show how many of the `starts.stop` rows are done.

    Each number is the index of the first row of a batch. `what` describes the work. A command shows
    the progress in its activity line. Python code shows a bar on standard error, or below the cell
    of a notebook.
    """
    if activity.is_shown():
        for start in starts:
            activity.doing(what, f"{start:,} of {starts.stop:,} rows")
            yield start
        return
    from trainer.terminal.bars import can_show_bar

    console = make_console(stderr=True)
    if not can_show_bar(console):
        yield from starts
        return
    from rich.progress import Progress

    from trainer.terminal.bars import make_bar

    bar = make_bar(console, *Progress.get_default_columns())
    task = bar.add_task(what, total=starts.stop)
    began = time.monotonic()
    try:
        for start in starts:
            bar.update(task, completed=start)
            if time.monotonic() - began > BAR_DELAY:
                bar.start()
            yield start
    finally:
        bar.stop()
