"""Predictions: shows classes, calibration, errors and examples of each evaluation set."""

from trainer.reports.digest import Digest, digests_of
from trainer.reports.markup import Markup, element, joined, section
from trainer.reports.run_record import RunRecord
from trainer.reports.sections.calibration import calibration
from trainer.reports.sections.classes import classes
from trainer.reports.sections.examples import examples
from trainer.reports.sections.numbers import numbers
from trainer.reports.sections.spans import spans


def predictions(record: RunRecord) -> Markup | str:
    """The section, with a part for every evaluation set, or for every task of a set."""
    parts = []
    for name in record.sets:
        for task, digest in digests_of(record.predictions(name)).items():
            title = ", ".join(word for word in (name, task and f"task {task}") if word)
            parts.append(_of_set(title, digest, record))
    return section("Predictions", joined(parts)) if any(parts) else ""


def _of_set(title: str, digest: Digest, record: RunRecord) -> Markup | str:
    known = list(record.facts.class_counts) if record.facts else []
    found = [classes(digest.classes, known), spans(digest), numbers(digest)]
    found += [calibration(digest.calibration), examples(digest)]
    if not any(found):
        return ""
    heading = element("h3", f"{title}: {digest.size:,} samples") if title else ""
    return joined((heading, *found))
