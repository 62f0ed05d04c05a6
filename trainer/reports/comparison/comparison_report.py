"""Comparison report: makes the HTML page that compares several runs."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.metrics.metric import Metric
from trainer.reports.comparison.intervals import intervals
from trainer.reports.comparison.overlaid_curves import overlaid_curves
from trainer.reports.comparison.side_by_side import (
    differing_settings,
    results_table,
    runs_table,
)
from trainer.reports.page import page
from trainer.reports.run_record import RunRecord


def comparison_report(records: Sequence[RunRecord], metrics: Mapping[str, Metric]) -> bytes:
    """Make the page as HTML, in which all other runs are compared with the first.

    Confidence intervals of the differences are computed for `metrics`.
    """
    runs = named(records)
    sections = [
        ("Runs", lambda: runs_table(runs)),
        ("Results", lambda: results_table(runs)),
        ("Confidence intervals on the same rows", lambda: intervals(runs, metrics)),
        ("Curves", lambda: overlaid_curves(runs)),
        ("Settings", lambda: differing_settings(runs)),
    ]
    title = f"Comparison of {len(runs)} runs"
    return page(title, "", ", ".join(runs), sections)


def named(records: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """Map the folder name of each run to the run; if names are equal, whole paths are used."""
    names = [Path(os.path.abspath(record.folder)).name for record in records]  # of "." as well
    counts = Counter(names)
    return {
        name if counts[name] == 1 else str(record.folder): record
        for name, record in zip(names, records, strict=True)
    }
