"""Spans: shows the errors in predicted entities, by type of entity."""

from trainer.reports.digest import Digest
from trainer.reports.markup import Markup, element, folded, joined, table, texts_table
from trainer.reports.sections.examples import example
from trainer.reports.span_errors import KINDS

MOST_PAIRS = 15


def spans(digest: Digest) -> Markup | str:
    """A table of errors by type of entity, the confused types, and examples of each error."""
    found = digest.spans
    if not found.counts:
        return ""
    rows = [
        (label, *(f"{counts[kind]:,}" for kind in KINDS))
        for label, counts in sorted(found.counts.items())
    ]
    note = "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
    pairs = [
        (wanted, other, f"{number:,}")
        for (wanted, other), number in found.confused.most_common(MOST_PAIRS)
    ]
    headers = ("reference", "predicted", "spans")
    return joined(
        (
            element("h3", "Span errors"),
            element("p", f"{note}.", class_="note"),
            table(("type", *KINDS), rows, "span errors by type"),
            folded(
                "Types that are confused", texts_table(headers, pairs, "types that are confused")
            )
            if pairs
            else "",
            *(
                folded(f"Examples: {kind}", *map(example, found.examples[kind]))
                for kind in KINDS
                if kind in found.examples
            ),
        )
    )
