"""Environment: shows the machine, the packages, and when the run was started and resumed."""

from trainer.reports.markup import Markup, definitions, section, texts_table
from trainer.reports.run_record import RunRecord


def environment(record: RunRecord) -> Markup | str:
    """The section; for a run of an earlier version, only the versions of packages are known."""
    found = record.facts.environment if record.facts else record.results.get("versions") or {}
    if not found:
        return ""
    starts = record.facts.starts if record.facts else ()
    rows = [(s.time, f"{s.step:,}", s.device, str(s.num_processes), s.ended) for s in starts]
    headers = ("started, UTC", "at step", "device", "processes", "ended")
    return section(
        "Environment", definitions(found), texts_table(headers, rows, "starts of the run")
    )
