"""The report job: rewrites the report of a run, or writes a page that compares several runs."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.metrics.metric import Metric
from trainer.runs.run import Run
from trainer.stores.run_store import run_files
from trainer.stores.store import Store
from trainer.stores.url import is_in_store, joined
from trainer.terminal.activity import doing

if TYPE_CHECKING:
    from trainer.reports.run_record import RunRecord

logger = logging.getLogger("trainer")


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Write the page and print its path.

    The report of a single run replaces report.html in the run's folder, or at its URL. A comparison
    is written to comparison-<8 hex digits of the paths>.html in the common parent folder of the
    runs, or in the working directory if a run is in an object store.
    """
    from trainer.reports.comparison.comparison_report import comparison_report
    from trainer.reports.run_record import RunRecord
    from trainer.reports.run_report import write_report
    from trainer.terminal.console import make_console, show

    if not run.runs:
        raise InputError("runs: nothing given; accepted: folders of runs, runs=[runs/a,runs/b]")
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    folders = [run_files(place, "runs") for place in run.runs]
    for number, folder in enumerate(folders):
        if folder.resolve() in [each.resolve() for each in folders[:number]]:
            raise InputError(f"runs: {run.runs[number]} is given twice; accepted: different runs")
    doing("reading the run" if len(folders) == 1 else f"comparing {len(folders)} runs")
    if len(folders) == 1:
        path = _put(write_report(folders[0]), run.runs[0])
    else:
        records = [RunRecord.read(folder) for folder in folders]
        page = comparison_report(records, _metrics(records[0], run))
        path = str(_write(folders, page, any(map(is_in_store, run.runs))))
    show(make_console(), f"written to {path}")
    return 0


def _put(report: Path, place: str) -> str:
    """Upload the report if the run is in an object store; returns the report's path or URL."""
    if not is_in_store(place):
        return str(report)
    Store(place, "runs", writes=True).upload(report.name, report)
    return joined(place, report.name)


def _write(folders: list[Path], page: bytes, in_stores: bool) -> Path:
    from trainer.checkpoint import files

    absolute = [folder.absolute() for folder in folders]
    parents = [Path.cwd()] if in_stores else [folder.parent for folder in absolute]
    parent = Path(os.path.relpath(os.path.commonpath(parents)))
    digest = hashlib.sha256("\n".join(map(str, absolute)).encode()).hexdigest()[:8]
    path = parent / f"comparison-{digest}.html"
    files.write_bytes(path, page, private=True)
    return path


def _metrics(record: "RunRecord", run: Run) -> dict[str, Metric]:
    """The metrics of a run, except those whose code is not trusted."""
    from trainer.reports import facts

    nodes: object = record.config.get("metrics")
    found = {}
    for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
        try:
            found[str(name)] = _metric(str(name), node, record.folder / facts.FILE, run)
        except InputError as error:
            logger.warning("%s; no intervals are computed for it", error)
    return found


def _metric(name: str, node: object, file: Path, run: Run) -> Metric:
    from trainer.config.received import check_received
    from trainer.config.target import METRIC, build

    if not isinstance(node, Mapping):
        raise InputError(f"{file}: metrics.{name}: found no mapping; accepted: {{_target_: ...}}")
    check_received({"metrics": {name: node}}, file, (), (), run.trusted_packages)
    metric: Metric = build(node, f"metrics.{name}", METRIC, run.trusted_packages)
    metric.prepare()
    return metric
