"""Run report: writes report.html from the files in a run's folder."""

from pathlib import Path

from trainer.checkpoint import files
from trainer.reports.page import page
from trainer.reports.run_record import RunRecord
from trainer.reports.sections.checkpoints import checkpoints
from trainer.reports.sections.curves import curves
from trainer.reports.sections.data import data
from trainer.reports.sections.environment import environment
from trainer.reports.sections.overview import overview, status
from trainer.reports.sections.predictions import predictions
from trainer.reports.sections.results import results
from trainer.reports.sections.settings import settings
from trainer.reports.sections.texts import texts

FILE = "report.html"
SECTIONS = (
    ("Overview", overview),
    ("Curves", curves),
    ("Evaluation", results),
    ("Predictions", predictions),
    ("Texts over time", texts),
    ("Data", data),
    ("Settings", settings),
    ("Environment", environment),
    ("Checkpoints", checkpoints),
)


def write_report(folder: Path) -> Path:
    """Write the report of a run, readable only by this user; returns its path.

    Raises InputError if the folder contains no run, and EnvironmentFault if the report cannot be
    written.
    """
    path = folder / FILE
    files.write_bytes(path, report(RunRecord.read(folder)), private=True)
    return path


def report(record: RunRecord) -> bytes:
    """The report of a run as HTML."""
    facts = record.facts
    started = facts.starts[0].time if facts and facts.starts else ""
    subtitle = f"{facts.task}, started {started} UTC" if facts else ""
    sections = [(name, lambda make=make: make(record)) for name, make in SECTIONS]
    return page(record.name, status(record), subtitle, sections)
