"""Results: prints the results of a sweep as a table, and writes them as a CSV file and a plot."""

from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint import files
from trainer.config.sweeps.jobs import Job
from trainer.config.sweeps.prepared import Sweep
from trainer.config.sweeps.search import is_search
from trainer.runs.sweep_records import JobRecord
from trainer.runs.sweep_results import best, write_csv
from trainer.stores.store import Store
from trainer.stores.url import is_in_store, joined
from trainer.terminal.console import make_console, show


def show_results(found: Sweep) -> int:
    """Print and write the table and plot; returns the exit code of the first failed job, or 0."""
    from trainer.rendering.sweep import sweep_summary
    from trainer.reports.sweep_plot import sweep_plot
    from trainer.reports.terminal_charts import sweep_chart

    records = found.records.read()
    if not is_search(found.config.hydra):
        started = {record.label: record for record in records}
        records = [started.get(job.label) or _not_started(job) for job in found.jobs]
    written = [found.folder / f"{found.name}.csv"]
    write_csv(records, written[0])
    plot = sweep_plot(records, best(records))
    if plot is not None:
        written.append(written[0].with_suffix(".svg"))
        files.write_text(written[1], plot)
    console = make_console()
    places = _uploaded(written, found.place)
    show(console, sweep_summary(records, ", ".join(places)))
    if (chart := sweep_chart(records, console.width)) is not None:
        show(console, chart)
    return next((r.exit_code for r in records if r.exit_code and not r.pruned), 0)


def _uploaded(written: Sequence[Path], place: str | None) -> list[str]:
    """Upload the files if the sweep is in an object store; returns their paths or URLs."""
    if place is None or not is_in_store(place):
        return [str(path) for path in written]
    Store(place, "output_dir", writes=True).upload_all({path.name: path for path in written})
    return [joined(place, path.name) for path in written]


def _not_started(job: Job) -> JobRecord:
    return JobRecord(job.label, job.values, job.run.place)
