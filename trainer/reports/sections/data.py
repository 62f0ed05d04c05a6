"""Data: shows sizes, lengths and classes of the data sets, and dropped rows."""

from itertools import islice

from trainer.reports.bar_chart import histogram, shares
from trainer.reports.facts import Facts
from trainer.reports.markup import (
    Markup,
    cards,
    element,
    figure,
    folded,
    section,
    shortened,
    table,
    texts_table,
)
from trainer.reports.run_record import RunRecord

MOST_CLASSES = 200
MOST_DROPPED = 50
LONGEST_ROW = 200


def data(record: RunRecord) -> Markup | str:
    """The section about the data."""
    facts = record.facts
    if facts is None:
        return ""
    charts = [
        histogram(
            f"Lengths: {name}",
            found,
            "tokens",
            note=f"{found.total:,} tokens; mean {found.mean:.1f}, longest {found.longest:,}",
        )
        for name, found in facts.lengths.items()
    ]
    if facts.class_counts:
        charts.append(_classes(facts))
    sizes = table(
        ("data set", "samples", "tokens", "mean length", "longest", "truncated rows"),
        [_size(name, facts) for name in facts.lengths],
        "sizes of the data sets",
    )
    return section("Data", sizes if facts.lengths else "", cards(charts), _dropped(record))


def _size(name: str, facts: Facts) -> tuple[str, ...]:
    found = facts.lengths[name]
    cut = facts.truncated.get(name)
    number = f"{sum(found.counts):,}"
    figures = (number, f"{found.total:,}", f"{found.mean:.1f}", f"{found.longest:,}")
    return (name, *figures, "–" if cut is None else f"{cut:,}")


def _classes(facts: Facts) -> Markup:
    shown = dict(list(facts.class_counts.items())[:MOST_CLASSES])
    left = len(facts.class_counts) - len(shown)
    more = element("p", f"and {left:,} more classes", class_="note") if left else ""
    return figure("Classes of the training samples", shares(shown, "samples by class"), more)


def _dropped(record: RunRecord) -> Markup | str:
    """The first dropped rows, with the reasons."""
    rows = record.lines("dropped.jsonl")  # an iterator, because there may be very many rows
    cells = [
        (str(row["place"]), str(row["reason"]), shortened(str(row.get("row")), LONGEST_ROW))
        for row in islice(rows, MOST_DROPPED)
    ]
    if not cells:
        return ""
    number = len(cells) + sum(1 for _ in rows)
    found = texts_table(("place", "reason", "row"), cells, "rows that were left out")
    return folded(f"{number:,} bad rows were left out", found)
